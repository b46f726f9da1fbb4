"""Vehicles that the networks miss and the geometric detector reports are added to the result."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multimodal_perception.datasets.open_dataset import open_dataset
from multimodal_perception.detection.bev_fusion.geometric_check import (
    MAX_REPLACED_SCORE,
    MAX_REPLACED_SCORE_IF_CERTAIN,
    add_unexplained_vehicles,
)
from multimodal_perception.frame import CLASS_NAMES, Boxes3D, Modality
from multimodal_perception.pipeline_builder import open_detector
from multimodal_perception.pointcloud.ground_segmentation import segment_ground
from multimodal_perception.pointcloud.weather_noise_filter import filter_weather_noise

CAR_SIZE, PERSON_SIZE = (4.0, 1.7, 1.5), (0.6, 0.6, 1.7)


def boxes(*entries: tuple[str, float, float, float]) -> Boxes3D:
    """Boxes of class, score, x and y, all with yaw 0."""
    rows = [
        (x, y, 0.8, *(PERSON_SIZE if name in ("pedestrian", "cyclist") else CAR_SIZE), 0.0)
        for name, _, x, y in entries
    ]
    return Boxes3D(
        7,
        "base_link",
        np.array(rows, np.float32).reshape(-1, 7),
        np.array([score for _, score, _, _ in entries], np.float32),
        np.array([CLASS_NAMES.index(name) for name, _, _, _ in entries], np.int64),
    )


def entries(result: Boxes3D) -> list[tuple[str, float]]:
    return [
        (CLASS_NAMES[label], round(float(score), 3))
        for label, score in zip(result.labels, result.scores, strict=True)
    ]


def test_missed_confident_vehicle_is_added_in_order_of_score() -> None:
    result = add_unexplained_vehicles(
        boxes(("car", 0.97, 20.0, 0.0), ("car", 0.5, 30.0, 0.0)),
        boxes(("car", 0.95, 7.0, 0.0)),
        0.9,
    )
    assert (result.added, result.removed) == (1, 0)
    assert entries(result.boxes) == [("car", 0.97), ("car", 0.95), ("car", 0.5)]
    assert result.boxes.boxes[1, 0] == 7.0
    assert (result.boxes.stamp_ns, result.boxes.frame_id) == (7, "base_link")


@pytest.mark.parametrize(
    "geometric",
    [
        ("car", 0.89, 7.0, 0.0),  # not confident
        ("pedestrian", 0.99, 7.0, 0.0),  # not a vehicle
        ("cyclist", 0.99, 7.0, 0.0),
    ],
)
def test_other_geometric_boxes_are_not_added(geometric: tuple[str, float, float, float]) -> None:
    result = add_unexplained_vehicles(boxes(), boxes(geometric), 0.9)
    assert (result.added, len(result.boxes)) == (0, 0)


@pytest.mark.parametrize(("x", "score"), [(7.9, 0.1), (9.0, MAX_REPLACED_SCORE_IF_CERTAIN + 0.01)])
def test_vehicle_that_the_networks_report_is_not_added_again(x: float, score: float) -> None:
    """Within 1 m at any score, or overlapping with a score above the limit of weak boxes."""
    networks = boxes(("van", score, x, 0.0))
    result = add_unexplained_vehicles(networks, boxes(("car", 0.99, 7.0, 0.0)), 0.9)
    assert (result.added, result.removed) == (0, 0)
    assert entries(result.boxes) == [("van", score)]


def test_people_inside_an_added_vehicle_and_weak_overlapping_boxes_are_removed() -> None:
    networks = boxes(
        ("pedestrian", 0.8, 5.5, 0.3),  # inside the vehicle
        ("pedestrian", 0.7, 5.5, 1.2),  # beside it
        ("truck", MAX_REPLACED_SCORE - 0.01, 8.5, 0.0),
    )
    result = add_unexplained_vehicles(networks, boxes(("car", 0.99, 7.0, 0.0)), 0.9)
    assert (result.added, result.removed) == (1, 2)
    assert entries(result.boxes) == [("car", 0.99), ("pedestrian", 0.7)]


@pytest.mark.parametrize(("certainty", "added"), [(0.97, 0), (0.99, 1)])
def test_nearly_certain_vehicle_replaces_a_stronger_overlapping_box(
    certainty: float, added: int
) -> None:
    """Between the two limits of the score."""
    score = (MAX_REPLACED_SCORE + MAX_REPLACED_SCORE_IF_CERTAIN) / 2
    networks = boxes(("bus", score, 9.0, 0.0))
    result = add_unexplained_vehicles(networks, boxes(("car", certainty, 7.0, 0.0)), 0.9)
    assert (result.added, result.removed) == (added, added)


positions = st.floats(-50.0, 50.0, width=32)
detections = st.lists(
    st.tuples(
        st.sampled_from(("car", "truck", "pedestrian", "cyclist")),
        st.floats(0.0, 1.0, width=32),
        positions,
        positions,
    ),
    max_size=8,
)


@given(detections, detections, st.floats(0.0, 1.0))
def test_every_confident_vehicle_has_a_box_and_counts_agree(
    networks: list[tuple[str, float, float, float]],
    geometric: list[tuple[str, float, float, float]],
    min_score: float,
) -> None:
    before = boxes(*networks)
    result = add_unexplained_vehicles(before, boxes(*geometric), min_score)
    after = result.boxes
    assert len(after) == len(before) + result.added - result.removed
    assert np.all(np.diff(after.scores) <= 0) or result.added == 0
    for name, score, x, y in geometric:
        if name in ("car", "truck") and np.float32(score) >= min_score:
            distance = np.hypot(after.boxes[:, 0] - x, after.boxes[:, 1] - y)
            assert distance.min() <= np.hypot(*CAR_SIZE[:2])  # a box that overlaps it at least


@pytest.mark.parametrize("modalities", [tuple(Modality), (Modality.LIDAR,)])
def test_car_ahead_is_found_in_every_frame_of_a_real_queue(
    modalities: tuple[Modality, ...], shared_data: Path
) -> None:
    """The networks of version 0.2 missed the car 7 m ahead in most frames of this real queue."""
    frames = open_dataset(shared_data / "kitti_queue")
    detector = open_detector("shipped")
    for index in range(len(frames)):
        frame = frames[index].select_modalities(modalities)
        result = detector.detect(frame, filter_weather_noise(segment_ground(frame)).reliable)
        assert frame.labels is not None
        offset = result.boxes[:, :2] - frame.labels.boxes[0, :2]
        vehicle = np.isin(result.labels, [CLASS_NAMES.index(n) for n in ("car", "van", "truck")])
        assert np.any(vehicle & (np.hypot(offset[:, 0], offset[:, 1]) <= 1.0)), index
