"""3D boxes of 2D boxes without depth: positions, covariances, and boxes that are dropped."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multimodal_perception.detection.images.class_priors import CLASS_PRIORS
from multimodal_perception.detection.images.ground_projection import (
    GroundProjectionConfig,
    fit_image_boxes,
    merge_with_nms,
    project_image_boxes,
)
from multimodal_perception.detection.images.image_objects import ImageObjects
from multimodal_perception.frame import CLASS_NAMES, Boxes3D, SensorFrame
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.boxes import corners
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.perception import Boxes2D
from multimodal_perception.sensor_calibration import BODY_FROM_OPTICAL

CLASSES = ("vehicle", "person", "cyclist")
PINHOLE = CameraModel.pinhole(640, 360, 420.0)
FISHEYE = CameraModel(
    640,
    360,
    np.array([[200.0, 0, 319.5], [0, 200.0, 179.5], [0, 0, 1]]),
    "equidistant",
    np.array([0.02, -0.005, 0.0, 0.0]),
)


def camera_pose(pitch: float = 0.05, height: float = 1.5) -> np.ndarray:
    return poses.from_xyz_rpy((0.5, 0.0, height), (0.0, pitch, 0.0)) @ BODY_FROM_OPTICAL


def box(name: str, x: float, y: float, yaw: float = 0.0) -> np.ndarray:
    """A box of the class's typical size on the ground."""
    length, width, height = CLASS_PRIORS[name][0].size
    return np.array([x, y, height / 2, length, width, height, yaw])


def image_box(row: np.ndarray, name: str, model: CameraModel, pose: np.ndarray) -> Boxes2D:
    """The 2D box that encloses the corners of a 3D box in an image, clipped to it."""
    points = poses.transform_points(poses.inverse(pose), corners(row[None])[0])
    pixels = model.project(points)[0] + 0.5
    size = np.array([model.width, model.height])
    low, high = (np.clip(f(axis=0), 0, size) for f in (pixels.min, pixels.max))
    return image_boxes([[*low, *high]], [name], model)


def image_boxes(rows: list[list[float]], names: list[str], model: CameraModel = PINHOLE) -> Boxes2D:
    return Boxes2D(
        "front",
        7,
        np.array(rows, np.float32).reshape(-1, 4),
        np.full(len(rows), 0.8, np.float32),
        np.array([CLASSES.index(n) for n in names], np.int64),
        CLASSES,
        (model.width, model.height),
    )


@settings(max_examples=60)
@given(
    st.sampled_from(CLASSES),
    st.floats(8.0, 28.0),
    st.floats(-0.3, 0.3),
    st.sampled_from([0.0, np.pi / 2]),
    st.floats(0.0, 0.1),
)
def test_object_of_typical_size_is_projected_to_its_position(
    name: str, distance: float, bearing: float, yaw: float, pitch: float
) -> None:
    row = box(name, 0.5 + distance * np.cos(bearing), distance * np.sin(bearing), yaw)
    for model in (PINHOLE, FISHEYE):
        pose = camera_pose(pitch)
        boxes2d = image_box(row, name, model, pose)
        projected = project_image_boxes(boxes2d, model, pose, 9, "base_link")
        assert len(projected) == 1 and projected.stamp_ns == 9
        error = projected.boxes[0, :2].astype(float) - row[:2]
        assert np.hypot(*error) < 0.3 + 0.03 * distance
        covariance = projected.covariances[0, :2, :2].astype(float)
        assert error @ np.linalg.solve(covariance, error) < 2.0  # well within the covariance
        assert CLASS_NAMES[projected.labels[0]] == CLASS_PRIORS[name][0].label
        assert 0.0 < projected.scores[0] < 0.8  # lower than the 2D box's score


def test_largest_uncertainty_is_along_the_ray_and_grows_with_distance() -> None:
    deviations, scores = [], []
    for distance in (10.0, 20.0, 30.0):
        pose = camera_pose()
        boxes2d = image_box(box("person", distance, distance), "person", FISHEYE, pose)
        projected = project_image_boxes(boxes2d, FISHEYE, pose, 0, "base_link")
        values, vectors = np.linalg.eigh(projected.covariances[0, :2, :2].astype(float))
        assert abs(vectors[:, 1] @ (np.sqrt(0.5), np.sqrt(0.5))) > 0.98
        assert np.linalg.eigvalsh(projected.covariances[0].astype(float)).min() > 0.0
        deviations.append(np.sqrt(values[1]))
        scores.append(projected.scores[0])
    assert deviations == sorted(deviations) and deviations[2] > 1.8 * deviations[0]
    assert scores == sorted(scores, reverse=True)


def test_errors_of_noisy_boxes_have_the_reported_covariance() -> None:
    """Over errors of edges, size, pitch and ground, the squared error is chi-squared distributed."""
    rng = np.random.default_rng(0)
    squared = []
    for _ in range(150):
        distance, bearing = rng.uniform(8, 30), rng.uniform(-0.4, 0.4)
        row = box("person", distance * np.cos(bearing), distance * np.sin(bearing))
        height = 1.7 * np.exp(rng.normal(0, 0.07))
        row[5], row[2] = height, height / 2 + rng.normal(0, 0.1)
        pose = camera_pose(0.05 + np.radians(rng.normal(0, 1.0)))
        found = image_box(row, "person", PINHOLE, pose)
        sides = found.boxes[:, 2:] - found.boxes[:, :2]
        noise = rng.normal(0, 1, (1, 4)) * (1.0 + 0.04 * np.concatenate([sides, sides], axis=1))
        noisy = Boxes2D("front", 7, (found.boxes + noise).astype(np.float32), found.scores,
                        found.labels, found.class_names, found.size)  # fmt: skip
        projected = project_image_boxes(noisy, PINHOLE, camera_pose(0.05), 0, "base_link")
        if len(projected):
            error = projected.boxes[0, :2].astype(float) - row[:2]
            squared.append(error @ np.linalg.solve(projected.covariances[0, :2, :2], error))
    assert len(squared) > 140
    # The median of the distribution with two degrees of freedom is 1.39. The fit allows for hidden
    # parts, so the covariance is rather too large.
    assert 0.3 < np.median(squared) < 1.7 and np.quantile(squared, 0.95) < 8.0


def test_object_that_the_image_border_cuts_is_still_located() -> None:
    for model, x, y in ((PINHOLE, 6.0, 4.6), (FISHEYE, 1.2, -4.0), (PINHOLE, 4.2, 0.2)):
        pose = camera_pose()
        row = box("vehicle", x, y)
        boxes2d = image_box(row, "vehicle", model, pose)
        cut = boxes2d.boxes[0]
        assert cut[0] == 0 or cut[2] == model.width or cut[3] == model.height
        projected = project_image_boxes(boxes2d, model, pose, 0, "base_link")
        assert len(projected) == 1
        error = projected.boxes[0, :2].astype(float) - row[:2]
        assert np.hypot(*error) < 2.0
        assert error @ np.linalg.solve(projected.covariances[0, :2, :2].astype(float), error) < 9.2


def test_large_vehicles_are_recognised_by_their_size_and_classes_of_networks_are_kept() -> None:
    pose = camera_pose(height=2.0)
    bus = np.array([22.0, 3.0, 1.6, 11.0, 2.6, 3.2, 0.0])
    found = image_box(bus, "vehicle", PINHOLE, pose)
    named = Boxes2D("front", 7, found.boxes, found.scores, found.labels, ("bus",), found.size)
    projected = project_image_boxes(named, PINHOLE, pose, 0, "base_link")
    assert CLASS_NAMES[projected.labels[0]] == "bus"
    assert np.hypot(*(projected.boxes[0, :2] - bus[:2])) < 3.0
    unnamed = project_image_boxes(found, PINHOLE, pose, 0, "base_link")
    assert CLASS_NAMES[unnamed.labels[0]] in ("truck", "bus")


def test_fit_reports_which_2d_box_each_3d_box_belongs_to() -> None:
    boxes = image_boxes([[300, 20, 310, 330], [300, 190, 345, 230]], ["vehicle", "vehicle"])
    fitted, sources = fit_image_boxes(boxes, PINHOLE, camera_pose(0.0), 0, "base_link")
    assert len(fitted) == 1 and sources.tolist() == [1]


def test_boxes_that_cannot_be_projected_are_dropped() -> None:
    pose = camera_pose(0.0)
    boxes = [
        [300.0, 20, 340, 100],  # high above the horizon
        [300, 178, 304, 181],  # beyond max_range
        [300, 20, 310, 330],  # as narrow as a pole
    ]
    found = project_image_boxes(image_boxes(boxes, ["vehicle"] * 3), PINHOLE, pose, 0, "base_link")
    assert not len(found)
    unknown = Boxes2D("front", 7, np.array([[300.0, 190, 340, 230]], np.float32),
                      np.ones(1, np.float32), np.zeros(1, np.int64), ("dog",), (640, 360))  # fmt: skip
    assert not len(project_image_boxes(unknown, PINHOLE, pose, 0, "base_link"))
    below_ground = camera_pose(0.0, height=-0.5)
    valid = image_boxes([[300.0, 190, 340, 230]], ["vehicle"])
    assert len(project_image_boxes(valid, PINHOLE, camera_pose(0.0), 0, "base_link")) == 1
    assert not len(project_image_boxes(valid, PINHOLE, below_ground, 0, "base_link"))
    near = GroundProjectionConfig(max_range=5.0)
    assert not len(project_image_boxes(valid, PINHOLE, camera_pose(0.0), 0, "base_link", near))
    empty = project_image_boxes(image_boxes([], []), PINHOLE, pose, 0, "base_link")
    assert empty.boxes.shape == (0, 7) and empty.covariances.shape == (0, 6, 6)


def test_boxes_stand_on_the_ground_height_of_the_frame() -> None:
    boxes2d = image_box(box("vehicle", 15.0, 2.0), "vehicle", PINHOLE, camera_pose())
    for ground_z in (0.0, -0.4):
        # The camera and the ground are shifted together, so only z of the box changes.
        pose = camera_pose(height=1.5 + ground_z)
        frame = SensorFrame(
            5,
            base_from_sensor={"front": pose},
            intrinsics={"front": PINHOLE},
            ground_z=ground_z,
        )
        boxes = ImageObjects()({"front": boxes2d}, frame).boxes
        expected = project_image_boxes(boxes2d, PINHOLE, camera_pose(), 5, "base_link").boxes[0]
        assert boxes.shape == (1, 7)
        np.testing.assert_allclose(boxes[0, :2], expected[:2], atol=1e-4)
        assert abs(boxes[0, 2] - boxes[0, 5] / 2 - ground_z) < 1e-5


def test_object_whose_lower_edge_is_occluded_gets_a_lower_score() -> None:
    pose = camera_pose(0.0)
    person, car = [310.0, 165, 330, 220], [280.0, 190, 380, 260]
    unoccluded = project_image_boxes(
        image_boxes([person], ["person"]), PINHOLE, pose, 0, "base_link"
    )
    both = project_image_boxes(
        image_boxes([person, car], ["person", "vehicle"]), PINHOLE, pose, 0, "base_link"
    )
    occluded = both.select(both.labels == CLASS_NAMES.index("pedestrian"))
    assert occluded.scores[0] < unoccluded.scores[0]
    assert np.trace(occluded.covariances[0]) > np.trace(unoccluded.covariances[0])


def test_vehicle_motion_since_the_image_is_compensated() -> None:
    pose = camera_pose()
    boxes2d = image_box(box("vehicle", 15.0, 2.0), "vehicle", PINHOLE, pose)
    motion = poses.from_xyz_rpy((-1.0, 0.0, 0.0))
    frame = SensorFrame(
        5,
        base_from_sensor={"front": pose},
        intrinsics={"front": PINHOLE},
        reference_from_base={"front": motion},
    )
    moved = ImageObjects()({"front": boxes2d}, frame)
    still = project_image_boxes(boxes2d, PINHOLE, pose, 5, "base_link")
    np.testing.assert_allclose(moved.boxes[0, :2], still.boxes[0, :2] - (1.0, 0.0), atol=1e-5)
    assert moved.stamp_ns == 5 and not len(ImageObjects()({}, frame))


def test_merge_keeps_the_overlapping_box_with_the_higher_score() -> None:
    row = box("vehicle", 12.0, 0.0).astype(np.float32)
    other = row + np.array([0.3, 0, 0, 0, 0, 0, 0], np.float32)
    label = np.ones(1, np.int64)
    first = Boxes3D(0, "base_link", row[None], np.array([0.9], np.float32), label)
    second = Boxes3D(
        0,
        "base_link",
        np.stack([other, other + np.array([0, 9, 0, 0, 0, 0, 0], np.float32)]),
        np.array([0.5, 0.4], np.float32),
        np.ones(2, np.int64),
        covariances=np.ones((2, 6, 6), np.float32),
    )
    merged = merge_with_nms(first, second)
    assert merged.scores.tolist() == pytest.approx([0.9, 0.4])
    assert not merged.covariances[0].any() and (merged.covariances[1] == 1).all()
    assert merge_with_nms(first, Boxes3D.empty(0, "base_link")) is first
