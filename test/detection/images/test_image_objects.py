"""3D boxes of images: LiDAR clusters, several views, and views that are processed in turns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multimodal_perception.detection.geometric.detector import GeometricDetector
from multimodal_perception.detection.geometric.geometric_config import GeometricConfig
from multimodal_perception.detection.images.ground_projection import GroundProjectionConfig
from multimodal_perception.detection.images.image_objects import ImageObjects
from multimodal_perception.detection.images.view_merging import merge_views
from multimodal_perception.frame import CLASS_NAMES, Boxes3D, LidarSweep, SensorFrame
from multimodal_perception.geometry import poses
from multimodal_perception.perception import Boxes2D
from multimodal_perception.pointcloud.ground_segmentation import segment_ground
from multimodal_perception.stages import ImageResults
from test.detection.images.test_ground_projection import (
    PINHOLE,
    box,
    camera_pose,
    image_box,
    image_boxes,
)

CAR, PEDESTRIAN = CLASS_NAMES.index("car"), CLASS_NAMES.index("pedestrian")
CAMERA = camera_pose(0.03, 1.6)


def surface(row: np.ndarray, step: float = 0.08) -> np.ndarray:
    """Points (N, 3) on the faces of an upright box that are visible from the origin."""
    x, y, z, length, width, height, _ = row
    u, w = np.arange(-length / 2, length / 2, step), np.arange(-width / 2, width / 2, step)
    v = np.arange(-height / 2 + 0.3, height / 2, step)
    rear = np.array([[x - length / 2, y + a, z + c] for a in w for c in v])
    side = np.array([[x + a, y - np.sign(y or 1) * width / 2, z + c] for a in u for c in v])
    return np.concatenate([rear, side])


def street(rows: list[np.ndarray], **values: object) -> SensorFrame:
    """Flat ground and objects, measured by a LiDAR at 1.7 m, with a camera."""
    r, a = (m.ravel() for m in np.meshgrid(np.arange(3, 40, 0.4), np.arange(-1.2, 1.2, 0.01)))
    objects = [surface(row) for row in rows]
    for points in objects:  # no ground returns in the shadows of the objects
        azimuth = np.arctan2(points[:, 1], points[:, 0])
        near = np.hypot(points[:, 0], points[:, 1]).min()
        lit = (a < azimuth.min() - 0.01) | (a > azimuth.max() + 0.01) | (r < near - 0.3)
        r, a = r[lit], a[lit]
    ground = np.column_stack([r * np.cos(a), r * np.sin(a), np.zeros(r.size)])
    points = np.concatenate([ground, *objects])
    points = np.column_stack([points - (0, 0, 1.7), np.full(len(points), 0.3)]).astype(np.float32)
    return SensorFrame(
        0,
        lidars={"lidar": LidarSweep("lidar", 0, "lidar", points)},
        base_from_sensor={"lidar": poses.from_xyz_rpy((0, 0, 1.7)), "front": CAMERA},
        intrinsics={"front": PINHOLE},
        **values,  # type: ignore[arg-type]
    )


def test_box_in_an_image_becomes_the_lidar_cluster_that_it_covers() -> None:
    car = box("vehicle", 18.0, 2.5)
    frame = street([car])
    found = image_box(car, "vehicle", PINHOLE, CAMERA)
    # The 2D box is wrong by a tenth of its height at the bottom, which alone gives a wrong distance.
    wrong = found.boxes - np.array([0, 0, 0, 0.12 * np.ptp(found.boxes[0, [1, 3]])], np.float32)
    found = replace(found, boxes=wrong.astype(np.float32))
    objects = ImageObjects()
    with_lidar = objects({"front": found}, frame, segment_ground(frame))
    without = objects({"front": found}, replace(frame, lidars={}))
    errors = [float(np.hypot(*(b.boxes[0, :2] - car[:2]))) for b in (with_lidar, without)]
    assert len(with_lidar) == 1 and errors[0] < 0.4 < errors[1]
    assert np.trace(with_lidar.covariances[0, :2, :2]) < np.trace(without.covariances[0, :2, :2])
    assert with_lidar.labels[0] == CAR and with_lidar.scores[0] > without.scores[0]


def test_object_in_front_does_not_take_the_class_of_the_one_behind() -> None:
    car, person = box("vehicle", 20.0, 0.0), box("person", 12.0, 0.1)
    frame = street([car, person])
    found = image_box(car, "vehicle", PINHOLE, CAMERA)
    cloud = segment_ground(frame)
    boxes = GeometricDetector().detect(frame, cloud, None, ImageResults({"front": found}))
    near = boxes.select(np.hypot(*(boxes.boxes[:, :2] - person[:2]).T) < 1.0)
    assert CAR not in near.labels.tolist()


def test_clusters_get_class_and_score_from_images() -> None:
    # A car of which the LiDAR measures few points: its shape alone is not enough.
    car = box("vehicle", 30.0, 3.0)
    frame = street([car])
    sparse = frame.lidars["lidar"].points
    far = np.hypot(*sparse[:, :2].T) > 26
    keep = ~far | (np.arange(len(sparse)) % 25 == 0) | (sparse[:, 2] < -1.65)
    sweep = replace(frame.lidars["lidar"], points=sparse[keep])
    frame = replace(frame, lidars={"lidar": sweep})
    cloud, found = segment_ground(frame), image_box(car, "vehicle", PINHOLE, CAMERA)
    results = ImageResults({"front": found})
    detector = GeometricDetector(GeometricConfig(max_gap=0.8, max_gap_growth=0.03))
    plain = detector.detect(frame, cloud)
    supported = detector.detect(frame, cloud, None, results)
    disabled = GeometricDetector(replace(detector.config, image_classes=False))
    assert not disabled.uses_proposals and detector.uses_proposals
    np.testing.assert_array_equal(disabled.detect(frame, cloud, None, results).boxes, plain.boxes)

    def best(boxes: Boxes3D, label: int) -> float:
        close = np.hypot(*(boxes.boxes[:, :2] - car[:2]).T) < 2.0
        return float(boxes.scores[close & (boxes.labels == label)].max(initial=0.0))

    assert best(supported, CAR) > max(best(plain, CAR), 0.6)
    assert detector.counts["image_classes"] == 1
    person = replace(found, class_names=("person", "vehicle", "cyclist"))
    contradicted = detector.detect(frame, cloud, None, ImageResults({"front": person}))
    assert best(contradicted, CAR) <= best(plain, CAR)
    bus = replace(found, class_names=("bus",))
    labels = detector.detect(frame, cloud, None, ImageResults({"front": bus})).labels
    assert CLASS_NAMES.index("truck") not in labels  # a truck's shape, called bus by the image


def boxes3d(
    x: float, y: float, std: tuple[float, float], score: float, label: int = CAR
) -> Boxes3D:
    row = np.array([[x, y, 0.8, 4.5, 1.8, 1.6, 0.0]], np.float32)
    covariance = np.diag([std[0] ** 2, std[1] ** 2, 0.04, 0.01, 0.01, 0.5])[None]
    return Boxes3D(0, "base_link", row, np.array([score], np.float32), np.array([label]),
                   covariances=covariance.astype(np.float32))  # fmt: skip


def test_object_in_two_views_is_one_box_at_the_weighted_position() -> None:
    first, second = boxes3d(10.0, 5.0, (2.0, 0.3), 0.6), boxes3d(11.5, 5.2, (0.5, 0.3), 0.5)
    merged = merge_views([first, second], 3, "base_link")
    assert len(merged) == 1 and merged.stamp_ns == 3
    weights = np.array([1 / 2.0**2, 1 / 0.5**2])
    expected = (weights @ [10.0, 11.5]) / weights.sum()
    assert merged.boxes[0, 0] == pytest.approx(expected, abs=1e-4)
    assert merged.boxes[0, 1] == pytest.approx(5.1, abs=1e-4)
    assert merged.scores[0] == pytest.approx(1 - 0.4 * 0.5)
    assert merged.covariances[0, 0, 0] == pytest.approx(2 / weights.sum(), rel=1e-3)


@pytest.mark.parametrize(
    "second",
    [
        boxes3d(18.0, 5.0, (1.0, 0.3), 0.5),  # too far for the covariances
        boxes3d(10.0, 9.0, (1.0, 0.3), 0.5),  # the lateral position is accurate
        boxes3d(11.0, 5.0, (1.0, 0.3), 0.5, PEDESTRIAN),  # another kind, where they do not overlap
    ],
)
def test_different_objects_in_two_views_are_kept(second: Boxes3D) -> None:
    first = boxes3d(10.0, 5.0, (1.0, 0.3), 0.6)
    if second.labels[0] == PEDESTRIAN:
        second = replace(second, boxes=second.boxes + np.array([[0, 3, 0, 0, 0, 0, 0]], np.float32))
    assert len(merge_views([first, second], 0, "base_link")) == 2
    assert not len(merge_views([], 0, "base_link"))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5))
def test_merging_does_not_depend_on_the_order_of_the_views(seed: int, views: int) -> None:
    rng = np.random.default_rng(seed)
    parts = [
        boxes3d(*rng.uniform(5, 12, 2), tuple(rng.uniform(0.3, 2, 2)), rng.uniform(0.2, 0.9))
        for _ in range(views)
    ]
    first = merge_views(parts, 0, "base_link")
    again = merge_views(parts[::-1], 0, "base_link")
    np.testing.assert_allclose(first.boxes, again.boxes, atol=1e-4)
    assert 1 <= len(first) <= views and (np.diff(first.scores) <= 0).all()


def test_objects_of_skipped_images_are_kept_and_moved_with_the_vehicle() -> None:
    car = box("vehicle", 15.0, 2.0)
    found = image_box(car, "vehicle", PINHOLE, CAMERA)
    base = SensorFrame(
        0,
        base_from_sensor={"front": CAMERA},
        intrinsics={"front": PINHOLE},
        odom_from_base=np.eye(4),
    )
    objects = ImageObjects(GroundProjectionConfig(max_age_s=0.5))
    first = objects({"front": found}, base)
    later = replace(base, stamp_ns=200_000_000, odom_from_base=poses.from_xyz_rpy((2.0, 0, 0)))
    kept = objects({}, later)
    np.testing.assert_allclose(kept.boxes[0, :2], first.boxes[0, :2] - (2.0, 0.0), atol=1e-4)
    assert kept.stamp_ns == 200_000_000 and 0 < kept.scores[0] < first.scores[0]
    assert np.trace(kept.covariances[0, :2, :2]) > np.trace(first.covariances[0, :2, :2])
    nothing = image_boxes([], [])
    assert not len(objects({"front": nothing}, replace(later, stamp_ns=300_000_000)))
    assert not len(objects({}, replace(later, stamp_ns=310_000_000)))  # the last image was empty
    objects({"front": found}, base)
    assert not len(objects({}, replace(later, stamp_ns=900_000_000)))  # too old
    objects({"front": found}, base)
    assert not len(objects({}, replace(later, odom_from_base=None)))  # the motion is unknown
    objects({"front": found}, replace(later, stamp_ns=10**10))
    assert not len(objects({}, base))  # the time went back


def test_boxes_of_unknown_classes_and_empty_images_give_nothing() -> None:
    frame = street([box("vehicle", 12.0, 0.0)])
    dog = Boxes2D("front", 0, np.array([[300, 150, 340, 200]], np.float32), np.ones(1, np.float32),
                  np.zeros(1, np.int64), ("dog",), (640, 360))  # fmt: skip
    assert not len(ImageObjects()({"front": dog}, frame, segment_ground(frame)))
    assert not len(ImageObjects()({}, frame, segment_ground(frame)))
    boxes = GeometricDetector().detect(
        frame, segment_ground(frame), None, ImageResults({"front": dog})
    )
    plain = GeometricDetector().detect(frame, segment_ground(frame))
    np.testing.assert_array_equal(boxes.boxes, plain.boxes)
