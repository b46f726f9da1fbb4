"""Calibration of scores, consistency of covariances and errors of velocities, with known answers."""

from __future__ import annotations

import numpy as np
import pytest

from multimodal_perception.evaluation.class_sets import CLASS_SETS
from multimodal_perception.evaluation.matched_boxes import MatchedBoxes, match_frames
from multimodal_perception.evaluation.nuscenes_metrics import NuScenesProtocol, ScoredFrame
from multimodal_perception.evaluation.uncertainty import (
    covariance_consistency,
    score_calibration,
    velocity_errors,
)
from multimodal_perception.frame import CLASS_NAMES, Boxes3D


def matched(count: int, **changes: object) -> MatchedBoxes:
    """`count` cars that match their labels exactly."""
    boxes = np.ones((count, 7))
    values = {
        "names": np.full(count, "car"),
        "scores": np.ones(count),
        "boxes": boxes,
        "matched": np.ones(count, bool),
        "labels": boxes,
        "velocities": np.zeros((count, 2)),
        "label_velocities": np.zeros((count, 2)),
        "covariances": np.broadcast_to(np.eye(6), (count, 6, 6)),
        "velocity_covariances": np.full((count, 2, 2), np.nan),
    }
    return MatchedBoxes(**(values | changes))  # type: ignore[arg-type]


def cars(xy: list[tuple[float, float]], scores: list[float], **more: object) -> Boxes3D:
    boxes = np.ones((len(xy), 7), np.float32)
    boxes[:, :2] = np.reshape(xy, (-1, 2))
    labels = np.full(len(xy), CLASS_NAMES.index("car"), np.int64)
    return Boxes3D(0, "base_link", boxes, np.array(scores, np.float32), labels, **more)  # type: ignore[arg-type]


def test_boxes_are_matched_with_the_labels_of_their_class_and_frame() -> None:
    velocity = np.array([[2.0, 0.0], [0.0, 1.0]], np.float32)
    truth = cars([(5, 0), (20, 0)], [1, 1], velocities=velocity)
    found = cars([(5.5, 0), (5.2, 0), (60, 0)], [0.9, 0.8, 0.7])
    pairs = match_frames(
        [ScoredFrame(found, truth), ScoredFrame(found, cars([], []))], NuScenesProtocol()
    )
    # The box at 60 m is beyond the range of cars; the second box finds the label taken.
    assert pairs.scores.tolist() == pytest.approx([0.9, 0.8] * 2)
    assert pairs.matched.tolist() == [True, False, False, False]
    assert pairs.labels[0, 0] == 5.0 and np.isnan(pairs.labels[1:]).all()
    assert pairs.label_velocities[0].tolist() == [2.0, 0.0] and np.isnan(pairs.velocities).all()
    assert not len(match_frames([], NuScenesProtocol()))
    assert not len(match_frames([ScoredFrame(found, truth)], CLASS_SETS["six"].protocol(["bus"])))


def test_calibration_error_is_the_difference_of_score_and_precision() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random(20_000)
    hits = rng.random(len(scores)) < scores
    far = np.ones((len(scores), 7))
    far[:, 0] = rng.uniform(-40, 40, len(scores))
    exact = score_calibration(matched(len(scores), scores=scores, matched=hits, boxes=far))
    assert exact["ece"] < 0.01 and exact["d_ece"] < 0.05
    shifted = score_calibration(
        matched(len(scores), scores=np.clip(scores + 0.2, 0, 1), matched=hits, boxes=far)
    )
    # 0.2 for scores below 0.8, and half of the rest on average for those that are clipped at 1.
    assert shifted["ece"] == pytest.approx(0.18, abs=0.01) == shifted["by_class"]["car"]
    assert sum(b["boxes"] for b in exact["bins"]) == len(scores)
    # Scores p are right with the probability p: E[p (1 - p)] = 1 / 6, and an AUROC of 5 / 6.
    assert exact["brier"] == pytest.approx(1 / 6, abs=0.01) == exact["brier_by_class"]["car"]
    assert exact["error_auroc"] == pytest.approx(5 / 6, abs=0.01)
    assert exact["error_auroc_by_class"]["car"] == exact["error_auroc"]


def test_detection_calibration_error_depends_on_the_distance() -> None:
    """Near boxes are right and distant ones wrong: calibrated on average, but not at any distance."""
    boxes = np.ones((200, 7))
    boxes[100:, 0] = 45.0
    hits = np.arange(200) < 100
    result = score_calibration(matched(200, scores=np.full(200, 0.5), matched=hits, boxes=boxes))
    assert result["ece"] == pytest.approx(0.0) and result["d_ece"] == pytest.approx(0.5)
    assert np.isnan(score_calibration(matched(0))["ece"])


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
def test_errors_that_follow_the_covariance_have_a_nees_of_one(factor: float) -> None:
    rng = np.random.default_rng(1)
    count = 8000
    root = rng.normal(size=(6, 6)) * 0.1
    covariance = root @ root.T
    errors = rng.multivariate_normal(np.zeros(6), covariance, count)
    labels = np.ones((count, 7))
    boxes = labels.copy()
    boxes[:, :3] += errors[:, :3]
    boxes[:, 6] += errors[:, 5] + np.pi * rng.integers(0, 2, count)  # wrong fronts do not count
    reported = np.broadcast_to(factor**2 * covariance, (count, 6, 6))
    result = covariance_consistency(
        matched(count, boxes=boxes, labels=labels, covariances=reported)
    )
    for part in ("xy", "z", "yaw"):
        assert result[part]["nees"] == pytest.approx(factor**-2, rel=0.1)
        assert result[part]["median_nees"] == pytest.approx(factor**-2, rel=0.1)
    if factor == 1.0:
        assert result["xy"]["within_95"] == pytest.approx(0.95, abs=0.01)


def test_consistency_of_velocities_with_a_covariance() -> None:
    rng = np.random.default_rng(2)
    covariance = np.array([[0.5, 0.2], [0.2, 0.3]])
    errors = rng.multivariate_normal(np.zeros(2), covariance, 8000)
    reported = np.broadcast_to(4 * covariance, (8000, 2, 2)).copy()
    reported[0] = np.nan
    result = covariance_consistency(matched(8000, velocities=errors, velocity_covariances=reported))
    assert result["velocity"]["nees"] == pytest.approx(0.25, rel=0.1)
    assert "velocity" not in covariance_consistency(matched(3))


def test_boxes_without_covariance_or_label_are_left_out() -> None:
    covariances = np.broadcast_to(np.eye(6), (3, 6, 6)).copy()
    covariances[0] = np.nan
    result = covariance_consistency(
        matched(3, covariances=covariances, matched=np.array([True, True, False]))
    )
    assert result["boxes"] == 1 and result["xy"]["nees"] == 0.0
    assert covariance_consistency(matched(2, covariances=np.full((2, 6, 6), np.nan))) == {}


def test_velocity_errors_of_moving_and_standing_objects() -> None:
    true = np.array([[3.0, 4.0], [0.0, 0.3], [10.0, 0.0], [5.0, 5.0]])
    found = np.array([[3.0, 3.0], [0.0, 0.0], [7.0, 0.0], [np.nan, np.nan]])
    result = velocity_errors(matched(4, velocities=found, label_velocities=true))
    assert result["car"]["moving"] == {
        "mean": pytest.approx(2.0),
        "median": pytest.approx(2.0),
        "p90": pytest.approx(2.8),
        "boxes": 2,
    }
    assert result["car"]["standing"]["mean"] == pytest.approx(0.3)
    assert velocity_errors(matched(2, velocities=np.full((2, 2), np.nan))) == {}
