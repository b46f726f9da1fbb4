"""Figures of the opinions on drives that they were not trained on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.box_evidence import GROUPS
from multimodal_perception.detection.bev_fusion.opinion_features import FIRST_SLOT, SLOTS
from multimodal_perception.evaluation.confidence import ConfidenceScore
from multimodal_perception.opinions import Opinions, combine, discount, from_evidence, vacuous

DIGITS = 4


def validate(
    evidence: NDArray[np.float32], boxes: Mapping[str, NDArray[Any]], reliability: float
) -> dict[str, Any]:
    """Figures of the opinions about the boxes of a detector; empty without boxes.

    evidence: (N, slots, K). boxes: arrays of rendering. reliability: weight of the opinions before they
    are combined.

    A box is correct if the group of its class is that of the object at its position. By modality, of the
    boxes that it observes, and for the combined opinion: ece, brier and error_auroc of the probability
    of the box's group; mean_uncertainty, and mean_uncertainty_with_fault of sensors with a fault.
    detector_score: the same figures of the score of the detector, and reduced_score: of the score times
    1 - conflict.
    """
    rows = np.isfinite(boxes["scores"]) & (boxes["groups"] >= 0)
    if not rows.any():
        return {}
    evidence, valid, faulty = evidence[rows], boxes["valid"][rows], boxes["faulty"][rows]
    groups, scores = boxes["groups"][rows], boxes["scores"][rows].astype(np.float64)
    right = boxes["truth"][rows] == groups
    opinions = [_slot_opinions(evidence[:, k], valid[:, k]) for k in range(len(SLOTS))]
    discounted = [discount(o, reliability) for o in opinions]
    result: dict[str, Any] = {"boxes": int(rows.sum()), "right": _rounded(float(right.mean()))}
    for modality, first in FIRST_SLOT.items():
        # The first slot of an image modality is the view that shows most of the box.
        observed = valid[:, first]
        probability = opinions[first].probability()[np.arange(len(groups)), groups]
        figures = _figures(probability[observed], groups[observed], right[observed])
        sound, wrong = observed & ~faulty[:, first], observed & faulty[:, first]
        figures["mean_uncertainty"] = _mean(opinions[first].uncertainty[sound])
        figures["mean_uncertainty_with_fault"] = _mean(opinions[first].uncertainty[wrong])
        result[modality] = figures
    total = combine(discounted)
    probability = total.opinions.probability()[np.arange(len(groups)), groups]
    result["combined"] = _figures(probability, groups, right)
    result["combined"]["mean_uncertainty"] = _mean(total.opinions.uncertainty)
    result["detector_score"] = _figures(scores, groups, right)
    result["reduced_score"] = _figures(scores * (1.0 - total.conflict), groups, right)
    return result


def _slot_opinions(evidence: NDArray[np.float32], valid: NDArray[np.bool_]) -> Opinions:
    given, empty = from_evidence(evidence), vacuous(len(valid), len(GROUPS))
    return Opinions(
        np.where(valid[:, None], given.belief, empty.belief),
        np.where(valid, given.uncertainty, empty.uncertainty),
    )


def _figures(
    confidence: NDArray[np.float64], groups: NDArray[np.int64], right: NDArray[np.bool_]
) -> dict[str, Any]:
    score = ConfidenceScore(GROUPS)
    score.add(groups, confidence, right)
    summary = score.summary()
    names = "ece", "brier", "error_auroc"
    return {"boxes": len(right), **{name: _rounded(summary[name]) for name in names}}


def _mean(values: NDArray[np.float64]) -> float | None:
    return _rounded(float(values.mean())) if len(values) else None


def _rounded(value: float) -> float | None:
    """A number that JSON can represent; None for NaN."""
    return round(value, DIGITS) if math.isfinite(value) else None
