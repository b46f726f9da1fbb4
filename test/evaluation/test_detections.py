"""Matching and counting with answers worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from multimodal_perception.datasets.kitti import Kitti
from multimodal_perception.evaluation.detections import DetectionScore, evaluate, match
from multimodal_perception.evaluation.report import write_json
from multimodal_perception.frame import CLASS_NAMES, Boxes3D, SensorFrame
from multimodal_perception.pipeline import build_pipeline


def boxes(xy: list[tuple[float, float]], scores: list[float] | None = None, **more) -> Boxes3D:  # type: ignore[no-untyped-def]
    array = np.zeros((len(xy), 7), np.float32)
    if xy:
        array[:, :2] = xy
    array[:, 3:6] = 1.0
    score = np.array(scores if scores is not None else [1.0] * len(xy), np.float32)
    label = np.full(len(xy), CLASS_NAMES.index("car"), np.int64)
    return Boxes3D(0, "base_link", array, score, label, **more)


def test_the_best_score_takes_the_nearest_label_once() -> None:
    found = boxes([(0.0, 0.0), (0.3, 0.0), (5.0, 0.0)], [0.5, 0.9, 0.8])
    truth = boxes([(0.2, 0.0), (9.0, 0.0)])
    result = match(found.boxes, found.scores, truth.boxes, 1.0, np.array([True, True]))
    assert result.tolist() == [-1, 0, -1]


def test_counts_by_hand() -> None:
    points = np.array([50, 50, 3, 50], np.int64)
    truth = boxes([(10, 0), (20, 0), (30, 0), (60, 0)], num_points=points)
    # One right; one on a label that does not count; one false; one out of range.
    found = boxes([(10.5, 0), (30.2, 0), (15, 5), (60, 0)])
    score = DetectionScore()
    score.add(found, SensorFrame(0, labels=truth))
    assert (score.found, score.labels) == (1, 2)
    assert (score.right, score.boxes) == (1, 2)
    assert score.recall == score.precision == 0.5


def test_without_labels_there_is_no_score() -> None:
    with pytest.raises(ValueError, match="no labels"):
        DetectionScore().add(boxes([]), SensorFrame(0))
    result = evaluate([SensorFrame(0)], build_pipeline().process, repeats=1)
    assert result["frames"] == 1 and np.isnan(result["recall_1m"])


def test_a_value_that_is_none_is_null_in_json(tmp_path: Path) -> None:
    write_json(tmp_path / "deep" / "r.json", {"recall": float("nan"), "n": [1, 2.5]})
    assert json.loads((tmp_path / "deep" / "r.json").read_text()) == {"recall": None, "n": [1, 2.5]}


def test_real_frames_reach_the_recall_that_the_readme_states(shared_data: Path) -> None:
    result = evaluate(Kitti(shared_data / "kitti" / "training"), build_pipeline().process, 1)
    assert result["counts"]["labels"] == 7
    assert result["recall_1m"] >= 0.8
    assert result["precision_1m"] >= 0.5
    assert set(result["stage_ms"]) == {"trust", "ground", "detect", "track", "occupancy"}
