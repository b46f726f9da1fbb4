"""The geometric detector on scenes of known solids, measured by a simulated 64-ring LiDAR."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multimodal_perception.datasets.synthetic import _cast_boxes
from multimodal_perception.detection.geometric.detector import GeometricDetector
from multimodal_perception.detection.geometric.geometric_config import GeometricConfig
from multimodal_perception.frame import Boxes3D, LidarSweep, SensorFrame
from multimodal_perception.geometry import poses
from multimodal_perception.pointcloud.ground_segmentation import segment_ground

HEIGHT = 1.75
AZIMUTH, ELEVATION = np.meshgrid(
    np.linspace(-np.pi, np.pi, 1800, endpoint=False), np.radians(np.linspace(-24.8, 2.0, 64))
)
RAYS = np.column_stack(
    [
        (np.cos(ELEVATION) * np.cos(AZIMUTH)).ravel(),
        (np.cos(ELEVATION) * np.sin(AZIMUTH)).ravel(),
        np.sin(ELEVATION).ravel(),
    ]
)
BASE_FROM_LIDAR = poses.from_xyz_rpy((0.0, 0.0, HEIGHT))
DETECTOR = GeometricDetector()


def detect(
    solids: list[tuple[float, ...]], detector: GeometricDetector = DETECTOR, noise: float = 0.015
) -> Boxes3D:
    distance, _ = _cast_boxes(np.array([0.0, 0.0, HEIGHT]), RAYS, np.array(solids))
    hit = distance < 80
    measured = distance[hit] + np.random.default_rng(0).normal(0, noise, int(hit.sum()))
    points = np.zeros((len(measured), 4), np.float32)
    points[:, :3] = RAYS[hit] * measured[:, None]
    frame = SensorFrame(
        5,
        lidars={"lidar": LidarSweep("lidar", 5, "lidar", points)},
        base_from_sensor={"lidar": BASE_FROM_LIDAR},
    )
    return detector.detect(frame, segment_ground(frame))


def names(boxes: Boxes3D) -> list[str]:
    return [boxes.class_names[label] for label in boxes.labels]


@settings(max_examples=60)
@given(st.floats(6, 20), st.floats(-np.pi, np.pi), st.floats(-np.pi, np.pi))
def test_car_is_detected_as_one_box_at_its_position(
    range_m: float, bearing: float, yaw: float
) -> None:
    x, y = range_m * np.cos(bearing), range_m * np.sin(bearing)
    boxes = detect([(x, y, 0.75, 4.2, 1.75, 1.5, yaw)])
    assert names(boxes) in (["car"], ["van"])
    assert np.hypot(boxes.boxes[0, 0] - x, boxes.boxes[0, 1] - y) < 1.0
    assert boxes.boxes[0, 5] == pytest.approx(1.5, abs=0.3)


@settings(max_examples=40)
@given(st.floats(4, 20), st.floats(-np.pi, np.pi))
def test_pedestrian_is_detected_as_one_box(range_m: float, bearing: float) -> None:
    x, y = range_m * np.cos(bearing), range_m * np.sin(bearing)
    boxes = detect([(x, y, 0.87, 0.5, 0.6, 1.74, 0.3)])
    assert names(boxes) == ["pedestrian"]
    assert np.hypot(boxes.boxes[0, 0] - x, boxes.boxes[0, 1] - y) < 0.4


def test_cars_parked_in_a_row_are_detected_separately() -> None:
    row = [(6.0 + 5.2 * i, 4.0, 0.75, 4.2, 1.75, 1.5, 0.0) for i in range(3)]
    boxes = detect(row)
    distance = np.hypot(
        boxes.boxes[None, :, 0] - np.array(row)[:, None, 0],
        boxes.boxes[None, :, 1] - np.array(row)[:, None, 1],
    )
    assert (distance.min(axis=1) < 1.0).all()
    assert len(boxes) == 3


@pytest.mark.parametrize(
    "solid",
    [
        (15.0, 6.0, 3.0, 30.0, 0.4, 6.0, 0.0),  # a wall
        (12.0, -3.0, 3.0, 0.2, 0.2, 6.0, 0.0),  # a pole
        (10.0, 3.0, 0.06, 20.0, 0.3, 0.12, 0.0),  # a kerb
        (14.0, 0.0, 5.0, 8.0, 20.0, 1.0, 0.0),  # a bridge
    ],
    ids=["wall", "pole", "kerb", "bridge"],
)
def test_structures_are_not_detected_as_objects(solid: tuple[float, ...]) -> None:
    assert names(detect([solid])) == []


def test_scores_are_sorted_and_above_the_threshold() -> None:
    scene = [(10.0, 3.0, 0.75, 4.2, 1.75, 1.5, 0.0), (30.0, -9.0, 0.87, 0.5, 0.6, 1.74, 0.0)]
    boxes = detect(scene, GeometricDetector(GeometricConfig(min_score=0.05)))
    assert (np.diff(boxes.scores) <= 0).all()
    assert ((boxes.scores > 0) & (boxes.scores <= 1)).all()
    strict = detect(scene, GeometricDetector(GeometricConfig(min_score=0.6)))
    assert (strict.scores >= 0.6).all() and len(strict) <= len(boxes)


def test_car_on_a_slope_is_detected_at_its_position() -> None:
    boxes = detect([(14.0, 2.0, 0.75, 4.2, 1.75, 1.5, 0.2)])
    tilt = poses.from_xyz_rpy((0.0, 0.0, 0.0), (0.0, -0.05, 0.0))
    distance, _ = _cast_boxes(
        np.array([0.0, 0.0, HEIGHT]), RAYS, np.array([(14.0, 2.0, 0.75, 4.2, 1.75, 1.5, 0.2)])
    )
    hit = distance < 80
    points = np.zeros((int(hit.sum()), 4), np.float32)
    points[:, :3] = RAYS[hit] * distance[hit, None]
    frame = SensorFrame(
        5,
        lidars={"lidar": LidarSweep("lidar", 5, "lidar", points)},
        base_from_sensor={"lidar": tilt @ BASE_FROM_LIDAR},
    )
    tilted = DETECTOR.detect(frame, segment_ground(frame))
    assert names(tilted) == names(boxes) == ["car"]
    assert np.hypot(*(tilted.boxes[0, :2] - boxes.boxes[0, :2])) < 0.3
