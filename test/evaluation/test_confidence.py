"""Calibration error, Brier score and error AUROC against closed-form values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multimodal_perception.evaluation.confidence import (
    ConfidenceScore,
    brier_score,
    error_auroc,
    reliability_line,
)


def test_auroc_of_a_perfect_an_inverted_and_a_constant_confidence() -> None:
    right = np.array([True, True, False, False])
    assert error_auroc(np.array([0.9, 0.8, 0.3, 0.2]), right) == 1.0
    assert error_auroc(np.array([0.1, 0.2, 0.8, 0.9]), right) == 0.0
    assert error_auroc(np.full(4, 0.5), right) == 0.5
    # Of four pairs, 0.6 is below 0.9, equal to 0.6, and 0.1 is below both.
    assert error_auroc(np.array([0.9, 0.6, 0.6, 0.1]), right) == pytest.approx(3.5 / 4)
    assert np.isnan(error_auroc(np.array([0.9]), np.array([True])))


def test_brier_score_of_known_results() -> None:
    assert brier_score(np.array([0.8, 0.4]), np.array([True, False])) == pytest.approx(0.1)
    assert np.isnan(brier_score(np.zeros(0), np.zeros(0, bool)))


def test_confidences_that_equal_the_accuracy_have_no_calibration_error() -> None:
    score = ConfidenceScore(("car", "person"))
    right = np.arange(1000) % 10 < 8
    score.add(np.zeros(1000, np.int64), np.full(1000, 0.8), right)
    summary = score.summary()
    assert summary["ece"] == pytest.approx(0.0, abs=1e-9)
    assert summary["brier"] == pytest.approx(0.16) and summary["accuracy"] == 0.8
    score.add(np.ones(1000, np.int64), np.full(1000, 0.95), right)
    summary = score.summary()
    assert summary["ece"] == pytest.approx(0.075)
    assert summary["by_class"]["person"]["ece"] == pytest.approx(0.15)
    confidence, accuracy = reliability_line(summary)  # type: ignore[misc]
    assert confidence == pytest.approx([0.8, 0.95]) and accuracy == pytest.approx([0.8, 0.8])


@given(st.integers(0, 10_000))
def test_histograms_give_the_figures_of_all_values(seed: int) -> None:
    rng = np.random.default_rng(seed)
    confidence, labels = rng.uniform(0, 1, 300), rng.integers(0, 3, 300)
    right = rng.uniform(0, 1, 300) < confidence
    parts = [ConfidenceScore(("a", "b", "c")) for _ in range(2)]
    for part, rows in zip(parts, (slice(0, 100), slice(100, 300)), strict=True):
        part.add(labels[rows], confidence[rows], right[rows])
    parts[0].merge(parts[1])
    summary = parts[0].summary()
    assert summary["brier"] == pytest.approx(brier_score(confidence, right))
    assert summary["error_auroc"] == pytest.approx(error_auroc(confidence, right), abs=0.002)
    assert sum(v["results"] for v in summary["by_class"].values()) == summary["results"] == 300


def test_no_results_give_no_figures() -> None:
    summary = ConfidenceScore(("a",)).summary()
    assert summary["results"] == 0 and np.isnan(summary["ece"]) and summary["by_class"] == {}
    assert reliability_line(summary) is None and reliability_line(None) is None
