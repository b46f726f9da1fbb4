"""Recall and precision of boxes: matching and counts with known results."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from multimodal_perception.datasets.kitti import KittiDataset
from multimodal_perception.evaluation.detections import (
    DetectionScore,
    evaluate_detections,
    match_by_distance,
)
from multimodal_perception.evaluation.report import write_json
from multimodal_perception.frame import CLASS_NAMES, Boxes3D, SensorFrame
from multimodal_perception.pipeline_builder import build_pipeline


def boxes(xy: list[tuple[float, float]], scores: list[float] | None = None, **more) -> Boxes3D:  # type: ignore[no-untyped-def]
    array = np.zeros((len(xy), 7), np.float32)
    if xy:
        array[:, :2] = xy
    array[:, 3:6] = 1.0
    score = np.array(scores if scores is not None else [1.0] * len(xy), np.float32)
    label = np.full(len(xy), CLASS_NAMES.index("car"), np.int64)
    return Boxes3D(0, "base_link", array, score, label, **more)


def test_box_of_highest_score_takes_the_nearest_label() -> None:
    detections = boxes([(0.0, 0.0), (0.3, 0.0), (5.0, 0.0)], [0.5, 0.9, 0.8])
    truth = boxes([(0.2, 0.0), (9.0, 0.0)])
    result = match_by_distance(
        detections.boxes, detections.scores, truth.boxes, 1.0, np.array([True, True])
    )
    assert result.tolist() == [-1, 0, -1]


def test_ignored_labels_and_boxes_out_of_range_are_not_counted() -> None:
    points = np.array([50, 50, 3, 50], np.int64)
    truth = boxes([(10, 0), (20, 0), (30, 0), (60, 0)], num_points=points)
    # A true positive, a box on an ignored label, a false positive, and a box out of range.
    detections = boxes([(10.5, 0), (30.2, 0), (15, 5), (60, 0)])
    score = DetectionScore()
    score.add(detections, SensorFrame(0, labels=truth))
    assert (score.matched_labels, score.labels) == (1, 2)
    assert (score.matched_boxes, score.boxes) == (1, 2)
    assert score.recall == score.precision == 0.5


def test_frame_without_labels_has_no_score() -> None:
    with pytest.raises(ValueError, match="no labels"):
        DetectionScore().add(boxes([]), SensorFrame(0))
    result = evaluate_detections([SensorFrame(0)], build_pipeline().process, repeats=1)
    assert result["frames"] == 1 and np.isnan(result["recall_1m"])


def test_nan_is_written_as_null(tmp_path: Path) -> None:
    write_json(tmp_path / "deep" / "r.json", {"recall": float("nan"), "n": [1, 2.5]})
    assert json.loads((tmp_path / "deep" / "r.json").read_text()) == {"recall": None, "n": [1, 2.5]}


def test_recall_and_precision_on_real_frames(shared_data: Path) -> None:
    result = evaluate_detections(
        KittiDataset(shared_data / "kitti" / "training"),
        build_pipeline().process,
        1,
        labels_in_view=True,
    )
    assert result["counts"]["labels"] == 7
    assert result["recall_1m"] >= 0.8
    assert result["precision_1m"] >= 0.5
    assert set(result["stage_ms"]) == {"image_quality", "ground", "detect", "track", "occupancy"}
