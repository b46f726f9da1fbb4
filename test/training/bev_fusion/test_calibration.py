"""Scores that become probabilities and variances that become those of the errors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from multimodal_perception.detection.bev_fusion.boxes import BevDetections, calibrated_scores
from multimodal_perception.detection.bev_fusion.image_bev import ImageSet
from multimodal_perception.detection.bev_fusion.network_config import CLASSES, VARIANCES
from multimodal_perception.networks.bev_fusion_refinement import BevFusionRefinement
from multimodal_perception.training.bev_fusion.calibration import (
    Evaluated,
    correct_variances,
    evaluate_frame,
    fit_scores,
)
from multimodal_perception.training.bev_fusion.dataset import BevFusionFrame
from multimodal_perception.training.bev_fusion.targets import FrameObjects
from test.training.bev_fusion.tiny import TINY


def test_calibrated_scores_are_the_fraction_of_correct_boxes() -> None:
    rng = np.random.default_rng(0)
    count = 6000
    labels = rng.integers(0, 2, count)
    scores = rng.uniform(0.02, 0.98, count)
    logits = np.log(scores / (1 - scores))
    truth = 1 / (1 + np.exp(-np.where(labels == 0, 0.5 * logits - 1.0, 2.0 * logits + 0.5)))
    evaluated = Evaluated(scores, labels, rng.random(count) < truth, np.zeros((0, VARIANCES)))
    result = fit_scores(evaluated)
    assert list(result) == list(CLASSES)
    assert result["car"] == pytest.approx([0.5, -1.0], abs=0.15)
    assert result["van"] == pytest.approx([2.0, 0.5], abs=0.3)
    calibrated = calibrated_scores(scores, labels, np.array(list(result.values())))
    for low in (0.1, 0.4, 0.7):
        rows = (calibrated > low) & (calibrated < low + 0.2)
        assert truth[rows].mean() == pytest.approx(calibrated[rows].mean(), abs=0.04)
    # Classes without boxes have the parameters of all classes.
    assert result["bus"] == result["cone"] and result["bus"] != result["car"]


def test_scores_without_any_correct_box_stay_as_they_are() -> None:
    nothing = Evaluated(np.zeros(0), np.zeros(0, np.int64), np.zeros(0, bool), np.zeros((0, 9)))
    assert fit_scores(nothing)["car"] == [1.0, 0.0]


def test_variances_are_scaled_to_the_squared_errors() -> None:
    rng = np.random.default_rng(0)
    factors = np.linspace(0.3, 2.0, VARIANCES)
    network = BevFusionRefinement(TINY)
    before = network.residual.bias.detach().clone()
    found = correct_variances(network, rng.normal(size=(5000, VARIANCES)) * factors)
    np.testing.assert_allclose(found, factors**2, rtol=0.1)
    change = (network.residual.bias - before).detach().numpy()
    np.testing.assert_allclose(change[-VARIANCES:], np.log(factors**2), atol=0.1)
    assert not change[:-VARIANCES].any()
    assert (correct_variances(network, np.zeros((0, VARIANCES))) == 1).all()


def test_matches_errors_and_ignored_objects_of_a_frame() -> None:
    boxes = np.array([[10, 0, 1, 4, 2, 1.5, 0], [20, 5, 1, 4, 2, 1.5, 0]], np.float32)
    objects = FrameObjects(
        boxes, np.array([0, 0]), np.zeros((2, 2), np.float32), boxes[:1] + np.eye(1, 7, 1) * 20,
        np.array([0]),
    )  # fmt: skip
    frame = BevFusionFrame({}, None, np.zeros((0, 4), np.float32), objects, ImageSet(), True)
    found = np.array(
        [[11, 0, 1, 4, 2, 1.5, np.pi], [10, 21, 1, 4, 2, 1.5, 0], [20, 5, 1, 4, 2, 1.5, 0]]
    )
    detections = BevDetections(
        found.astype(np.float32), np.array([0.9, 0.8, 0.7], np.float32), np.array([0, 0, 1]),
        np.zeros((3, 2), np.float32), np.full((3, VARIANCES), 0.25, np.float32),
        np.zeros((3, VARIANCES), np.float32),
    )  # fmt: skip
    evaluated = evaluate_frame(detections, frame)
    # The box on the ignored object is left out; a box of another class is no match.
    assert evaluated.scores.tolist() == pytest.approx([0.9, 0.7])
    assert evaluated.matched.tolist() == [True, False]
    np.testing.assert_allclose(evaluated.relative_errors[0], [2, *[0] * 8], atol=1e-6)


def test_the_stage_writes_calibration_and_corrected_weights(trained: dict[str, Path]) -> None:
    path = trained["calibration"]
    values = json.loads(path.read_text())
    assert set(values) == set(CLASSES) and all(len(v) == 2 and v[0] > 0 for v in values.values())
    assert (path.parent / "stage2.safetensors").exists()
    state = torch.load(path.parent / "checkpoint.pt", weights_only=True)
    assert state["progress"]["seconds"] > 0
