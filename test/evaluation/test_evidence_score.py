"""Figures of the sensors' opinions against values computed by hand."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from multimodal_perception.cli.json_values import decode, encode
from multimodal_perception.evaluation.breakdown import breakdown
from multimodal_perception.evaluation.evidence_score import EvidenceScore
from multimodal_perception.evaluation.nuscenes_metrics import NuScenesProtocol, ScoredFrame
from multimodal_perception.evaluation.robustness.drive import FrameTruth
from multimodal_perception.evaluation.robustness.scores import SettingResult, merged
from multimodal_perception.evaluation.robustness.tasks import TaskOutput
from multimodal_perception.frame import CLASS_NAMES, Boxes3D, SensorFrame
from test.test_sensor_reliability import OBJECTS, boxes_of


def scene(**changes: object) -> tuple[Boxes3D, Boxes3D]:
    """Four boxes of cars, of which two are at a car, one is at a pedestrian and one at nothing."""
    boxes = boxes_of(0, wrong=["left"], unobserved=["thermal"])
    places = boxes.boxes.copy()
    places[:, 0] = 10 * np.arange(OBJECTS)
    labels = [CLASS_NAMES.index(n) for n in ("van", "car", "pedestrian")]
    truth = Boxes3D(0, "base_link", places[:3], np.ones(3, np.float32), np.array(labels))
    return replace(boxes, boxes=places, **changes), truth  # type: ignore[arg-type]


def test_the_probability_of_the_class_is_compared_with_the_labels() -> None:
    boxes, truth = scene()
    score = EvidenceScore()
    score.add(boxes, truth)
    figures = score.summary()
    evidence = boxes.evidence
    assert evidence is not None
    probability = evidence.probability(np.zeros(OBJECTS, np.int64))
    right = np.array([1, 1, 0, 0])
    assert figures["boxes"] == OBJECTS
    assert figures["combined"]["brier"] == pytest.approx(np.mean((probability - right) ** 2))
    assert figures["score"]["brier"] == pytest.approx(np.mean((0.8 - right) ** 2), rel=1e-5)
    assert figures["mean_conflict"] == pytest.approx(evidence.conflict.mean())
    assert "thermal" not in figures["sources"]
    assert figures["sources"]["left"]["mean_disbelief"] > 0.7
    assert figures["sources"]["lidar"]["mean_disbelief"] < 0.1
    assert figures["sources"]["lidar"]["boxes"] == OBJECTS


def test_merged_scores_have_the_figures_of_all_boxes() -> None:
    boxes, truth = scene()
    total, first, second = EvidenceScore(), EvidenceScore(), EvidenceScore()
    total.add(boxes, truth)
    for part, rows in ((first, [0, 3]), (second, [1, 2])):
        part.add(boxes.select(np.array(rows)), truth)
    first.merge(second)
    merged, expected = first.summary(), total.summary()
    assert merged["combined"]["brier"] == pytest.approx(expected["combined"]["brier"])
    assert merged["sources"]["left"] == pytest.approx(expected["sources"]["left"])


def test_results_of_a_study_have_the_figures_and_can_be_stored() -> None:
    boxes, truth = scene()
    frame = SensorFrame(0)
    output = TaskOutput(boxes)
    first, second = SettingResult(1), SettingResult(1)
    for part in (first, second):
        part.add(output, output, FrameTruth(truth), frame)
    restored = decode(json.loads(json.dumps(encode(first))))
    total = merged([restored, second])
    figures = total.figures(NuScenesProtocol())["detection"]["evidence"]
    assert figures["boxes"] == 2 * OBJECTS
    assert figures["sources"]["left"]["boxes"] == 2 * OBJECTS


def test_boxes_without_opinions_have_no_figures() -> None:
    boxes, truth = scene(evidence=None)
    score, result = EvidenceScore(), SettingResult(1)
    score.add(boxes, truth)
    assert score.summary() == {}
    result.add(TaskOutput(boxes), TaskOutput(boxes), FrameTruth(truth), SensorFrame(0))
    assert result.evidence is None
    assert "evidence" not in result.figures(NuScenesProtocol())["detection"]
    assert "evidence" not in breakdown([ScoredFrame(boxes, truth)])
    assert breakdown([ScoredFrame(scene()[0], truth)])["evidence"]["boxes"] == OBJECTS
