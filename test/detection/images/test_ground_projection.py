from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multimodal_perception.detection.images.ground_projection import (
    PRIORS,
    PlacingConfig,
    frame_boxes,
    joined,
    placed_boxes,
)
from multimodal_perception.frame import CLASS_NAMES, Boxes3D, SensorFrame
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.boxes import corners
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.perception import Boxes2D
from multimodal_perception.rig import OPTICAL

CLASSES = tuple(PRIORS)
PINHOLE = CameraModel.pinhole(640, 360, 420.0)
FISHEYE = CameraModel(
    640,
    360,
    np.array([[200.0, 0, 319.5], [0, 200.0, 179.5], [0, 0, 1]]),
    "equidistant",
    np.array([0.02, -0.005, 0.0, 0.0]),
)


def looking(pitch: float = 0.05, height: float = 1.5) -> np.ndarray:
    return poses.from_xyz_rpy((0.5, 0.0, height), (0.0, pitch, 0.0)) @ OPTICAL


def box(kind: str, x: float, y: float, yaw: float = 0.0) -> np.ndarray:
    """A box of the class's own size on the ground."""
    length, width, height = PRIORS[kind].size
    return np.array([x, y, height / 2, length, width, height, yaw])


def pictured(row: np.ndarray, kind: str, model: CameraModel, pose: np.ndarray) -> Boxes2D:
    """The upright box about a box's corners in an image."""
    points = poses.transform_points(poses.inverse(pose), corners(row[None])[0])
    pixels = model.project(points)[0] + 0.5
    low, high = pixels.min(axis=0), pixels.max(axis=0)
    return found([[*low, *high]], [kind], model)


def found(rows: list[list[float]], kinds: list[str], model: CameraModel = PINHOLE) -> Boxes2D:
    return Boxes2D(
        "front",
        7,
        np.array(rows, np.float32).reshape(-1, 4),
        np.full(len(rows), 0.8, np.float32),
        np.array([CLASSES.index(k) for k in kinds], np.int64),
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
def test_an_object_of_its_class_s_size_is_placed_where_it_is(
    kind: str, distance: float, bearing: float, yaw: float, pitch: float
) -> None:
    row = box(kind, 0.5 + distance * np.cos(bearing), distance * np.sin(bearing), yaw)
    for model in (PINHOLE, FISHEYE):
        pose = looking(pitch)
        seen = pictured(row, kind, model, pose)
        placed = placed_boxes(seen, model, pose, 9, "base_link")
        if seen.boxes[0, 3] > model.height - 2:
            assert not len(placed)
            continue
        assert len(placed) == 1 and placed.stamp_ns == 9
        away = np.hypot(*(placed.boxes[0, :2] - row[:2]))
        assert away < 1.3 + 0.02 * distance
        assert CLASS_NAMES[placed.labels[0]] == PRIORS[kind].label
        assert 0.0 < placed.scores[0] < 0.8  # less sure than the image's box


def test_the_covariance_points_along_the_view_and_grows_with_the_distance() -> None:
    spreads, scores = [], []
    for distance in (10.0, 20.0, 30.0):
        pose = looking()
        seen = pictured(box("vehicle", distance, distance), "vehicle", FISHEYE, pose)
        placed = placed_boxes(seen, FISHEYE, pose, 0, "base_link")
        values, vectors = np.linalg.eigh(placed.covariances[0, :2, :2].astype(float))
        assert abs(vectors[:, 1] @ (np.sqrt(0.5), np.sqrt(0.5))) > 0.98
        assert np.linalg.eigvalsh(placed.covariances[0].astype(float)).min() > 0.0
        spreads.append(np.sqrt(values[1]))
        scores.append(placed.scores[0])
    assert spreads == sorted(spreads) and spreads[2] > 2 * spreads[0]
    assert scores == sorted(scores, reverse=True)


def test_what_cannot_be_placed_is_left_out() -> None:
    pose = looking(0.0)
    boxes = [
        [300.0, 150, 340, 359.5],  # cut off below
        [300, 100, 340, 170],  # above the horizon
        [300, 170, 340, 181],  # beyond the range
        [300, 20, 340, 200],  # a vehicle 13 m tall
    ]
    assert not len(placed_boxes(found(boxes, ["vehicle"] * 4), PINHOLE, pose, 0, "base_link"))
    below = looking(0.0, height=-0.5)
    fine = found([[300.0, 190, 340, 230]], ["vehicle"])
    assert len(placed_boxes(fine, PINHOLE, looking(0.0), 0, "base_link")) == 1
    assert not len(placed_boxes(fine, PINHOLE, below, 0, "base_link"))
    near = PlacingConfig(max_range=5.0)
    assert not len(placed_boxes(fine, PINHOLE, looking(0.0), 0, "base_link", near))
    nothing = placed_boxes(found([], []), PINHOLE, pose, 0, "base_link")
    assert nothing.boxes.shape == (0, 7) and nothing.covariances.shape == (0, 6, 6)


def test_feet_that_something_nearer_may_hide_are_less_sure() -> None:
    pose = looking(0.0)
    person, car = [310.0, 165, 330, 220], [280.0, 190, 380, 260]
    alone = placed_boxes(found([person], ["person"]), PINHOLE, pose, 0, "base_link")
    both = placed_boxes(found([person, car], ["person", "vehicle"]), PINHOLE, pose, 0, "base_link")
    behind = both.select(both.labels == CLASS_NAMES.index("pedestrian"))
    assert behind.scores[0] < alone.scores[0]
    assert np.trace(behind.covariances[0]) > np.trace(alone.covariances[0])


def test_boxes_of_a_moving_vehicle_s_late_image_are_moved_along() -> None:
    pose = looking()
    seen = pictured(box("vehicle", 15.0, 2.0), "vehicle", PINHOLE, pose)
    motion = poses.from_xyz_rpy((-1.0, 0.0, 0.0))
    frame = SensorFrame(
        5,
        base_from_sensor={"front": pose},
        intrinsics={"front": PINHOLE},
        reference_from_base={"front": motion},
    )
    moved = frame_boxes({"front": seen}, frame)
    still = placed_boxes(seen, PINHOLE, pose, 5, "base_link")
    np.testing.assert_allclose(moved.boxes[0, :2], still.boxes[0, :2] - (1.0, 0.0), atol=1e-5)
    assert moved.stamp_ns == 5 and not len(frame_boxes({}, frame))


def test_of_two_detectors_boxes_on_one_place_the_surer_stays() -> None:
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
    both = joined(first, second)
    assert both.scores.tolist() == pytest.approx([0.9, 0.4])
    assert not both.covariances[0].any() and (both.covariances[1] == 1).all()
    assert joined(first, Boxes3D.empty(0, "base_link")) is first
