"""nuScenes metrics by distance and tag, and the observable labels."""

from __future__ import annotations

import math

import numpy as np
import pytest

from multimodal_perception.evaluation.breakdown import (
    breakdown,
    observable_labels,
    with_point_counts,
)
from multimodal_perception.evaluation.nuscenes_metrics import NuScenesProtocol, ScoredFrame
from multimodal_perception.frame import CLASS_NAMES, Boxes3D, LidarSweep, SensorFrame


def cars(xy, **more) -> Boxes3D:  # type: ignore[no-untyped-def]
    boxes = np.zeros((len(xy), 7), np.float32)
    boxes[:, :2] = np.reshape(xy, (len(xy), 2))
    boxes[:, 3:6] = (4, 2, 1.5)
    label = np.full(len(xy), CLASS_NAMES.index("car"), np.int64)
    return Boxes3D(0, "base_link", boxes, np.ones(len(xy), np.float32), label, **more)


def test_labels_without_points_and_visibility_are_not_observable() -> None:
    three = [(5, 0), (9, 0), (13, 0)]
    points, visibility = np.array([0, 1, 0]), np.array([0.1, 0.0, 0.6], np.float32)
    assert observable_labels(cars(three)).tolist() == [True] * 3
    assert observable_labels(cars(three, num_points=points)).tolist() == [False, True, False]
    assert observable_labels(cars(three, visibility=visibility)).tolist() == [False, False, True]
    both = cars(three, num_points=points, visibility=visibility)
    assert observable_labels(both).tolist() == [False, True, True]
    assert both.select(observable_labels(both)).visibility.tolist() == [0.0, np.float32(0.6)]  # type: ignore[union-attr]


def test_metrics_by_distance_and_tag() -> None:
    near, far = cars([(5, 0)]), cars([(35, 0)])
    frames = [
        ScoredFrame(near, near, tags={"condition": "day", "scenario": "street"}),
        ScoredFrame(cars([]), far, tags={"condition": "night"}),
    ]
    metrics = breakdown(frames)
    assert list(metrics["by_distance"]) == ["0-15", "15-30", "30-50"]
    assert metrics["by_distance"]["0-15"]["map"] == pytest.approx(1.0)
    assert math.isnan(metrics["by_distance"]["15-30"]["map"])
    assert metrics["by_distance"]["30-50"]["map"] == 0.0
    assert metrics["by_condition"]["day"]["map"] == pytest.approx(1.0)
    assert metrics["by_condition"]["night"]["map"] == 0.0
    assert metrics["by_scenario"]["street"]["labels"] == 1
    assert 0.0 < metrics["map"] < 1.0
    short = breakdown(frames, NuScenesProtocol().limit_range(20.0))
    assert list(short["by_distance"]) == ["0-15", "15-20"] and short["labels"] == 1


def test_attributes_are_selected_with_their_boxes() -> None:
    both = cars([(5, 0), (20, 0)])
    frame = ScoredFrame(both, both, np.array([1, 2]), np.array([1, 3]))
    bands = breakdown([frame])["by_distance"]
    assert bands["0-15"]["aae"] == 0.0 and bands["15-30"]["aae"] == 1.0


def test_metrics_by_the_number_of_points_on_the_object() -> None:
    truth = cars([(5, 0), (20, 0), (35, 0)], num_points=np.array([3, 200, 0]))
    found = cars([(5, 0), (20, 0), (28, 9)], num_points=np.array([6, 150, 7]))
    bands = breakdown([ScoredFrame(found, truth)])["by_points"]
    assert [k for k, v in bands.items() if v["labels"]] == ["0", "1-4", "100+"]
    # A box that matches a label counts in the band of the label, other boxes in their own.
    assert {k: v["boxes"] for k, v in bands.items() if v["boxes"]} == {
        "1-4": 1,
        "5-19": 1,
        "100+": 1,
    }
    assert bands["1-4"]["map"] == pytest.approx(1.0) and bands["0"]["map"] == 0.0
    assert "by_points" not in breakdown([ScoredFrame(cars([(5, 0)]), truth)])


def test_points_of_a_frame_are_counted_in_boxes() -> None:
    points = np.array([[5, 0, 0, 1], [5.5, 0.5, 0.2, 1], [9, 0, 0, 1]], np.float32)
    frame = SensorFrame(
        0,
        lidars={"lidar": LidarSweep("lidar", 0, "lidar", points)},
        base_from_sensor={"lidar": np.eye(4)},
    )
    counted = with_point_counts(cars([(5, 0), (20, 0)]), frame)
    assert counted.num_points is not None and counted.num_points.tolist() == [2, 0]
    without = with_point_counts(cars([(5, 0)]), SensorFrame(0))
    assert without.num_points is not None and without.num_points.tolist() == [0]
