"""Whether scores are probabilities, covariances describe the errors, and velocities are accurate."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

from multimodal_perception.evaluation.confidence import brier_score, error_auroc
from multimodal_perception.evaluation.matched_boxes import MatchedBoxes
from multimodal_perception.geometry.poses import wrap_angle

SCORE_BINS = 10
# Bins of the D-ECE: score, distance and azimuth of the box.
D_ECE_BINS, MAX_DISTANCE_M, MIN_BIN_BOXES = (5, 5, 4), 50.0, 8
# Objects above this speed are moving, m/s.
MOVING_SPEED = 0.5
# Fraction of the errors that must lie within the confidence region of the reported fraction.
CONFIDENCE = 0.95


def score_calibration(matched: MatchedBoxes) -> dict[str, Any]:
    """Calibration errors of the scores, which should be the probability that a box matches a label.

    ece: expected calibration error (Guo et al. 2017), the mean absolute difference of score and
    precision over SCORE_BINS bins of the score, weighted by the boxes in them. d_ece: the same over bins
    of score, distance and azimuth (detection ECE, Kueppers et al. 2020), without bins of fewer than
    MIN_BIN_BOXES boxes. brier, error_auroc: Brier score, and area under the ROC curve of "this box is
    wrong" (see evaluation.confidence). by_class: ece. brier_by_class, error_auroc_by_class. bins: lower
    edge of the score, boxes, mean score, precision.
    """
    hits, scores = matched.matched, matched.scores
    index = np.minimum((scores * SCORE_BINS).astype(np.int64), SCORE_BINS - 1)
    azimuth = np.arctan2(matched.boxes[:, 1], matched.boxes[:, 0]) / (2 * np.pi) + 0.5
    distance = np.hypot(matched.boxes[:, 0], matched.boxes[:, 1]) / MAX_DISTANCE_M
    cells = np.zeros(len(scores), np.int64)
    for values, count in zip((scores, distance, azimuth), D_ECE_BINS, strict=True):
        cells = cells * count + np.clip((values * count).astype(np.int64), 0, count - 1)
    return {
        "ece": _calibration_error(scores, hits, index),
        "d_ece": _calibration_error(scores, hits, cells, MIN_BIN_BOXES),
        "brier": brier_score(scores, hits),
        "error_auroc": error_auroc(scores, hits),
        "boxes": len(scores),
        **{
            f"{name}_by_class": {
                str(c): function(scores[matched.names == c], hits[matched.names == c])
                for c in np.unique(matched.names)
            }
            for name, function in (("brier", brier_score), ("error_auroc", error_auroc))
        },
        "by_class": {
            str(name): _calibration_error(
                *(v[matched.names == name] for v in (scores, hits, index))
            )
            for name in np.unique(matched.names)
        },
        "bins": [
            {
                "score_from": k / SCORE_BINS,
                "boxes": int((index == k).sum()),
                "mean_score": float(scores[index == k].mean()),
                "precision": float(hits[index == k].mean()),
            }
            for k in np.unique(index)
        ],
    }


def _calibration_error(
    scores: NDArray[np.float64],
    hits: NDArray[np.bool_],
    index: NDArray[np.int64],
    min_boxes: int = 1,
) -> float:
    """Weighted mean of |mean score - precision| over the bins `index` (N,); NaN without boxes."""
    gaps, counts = [], []
    for k in np.unique(index):
        rows = index == k
        if rows.sum() >= min_boxes:
            gaps.append(abs(scores[rows].mean() - hits[rows].mean()))
            counts.append(rows.sum())
    return float(np.average(gaps, weights=counts)) if counts else float("nan")


def covariance_consistency(matched: MatchedBoxes) -> dict[str, Any]:
    """NEES of the covariances of matched boxes (Bar-Shalom et al. 2001, section 5.4).

    For the position on the ground plane ("xy"), the height, the yaw, and the velocity if it has a
    covariance: the normalised estimation error squared divided by its degrees of freedom (nees, 1 for
    covariances that describe the errors, larger if they are too small), and the fraction of the errors
    within the CONFIDENCE region. Errors of yaw are modulo half a turn, because a wrong front is no error
    of the covariance. Empty without covariances.
    """
    # Zeros mean that the covariance of a box is unknown (see Boxes3D).
    given = matched.covariances.any(axis=(1, 2))
    known = matched.matched & given & np.isfinite(matched.covariances).all(axis=(1, 2))
    if not known.any():
        return {}
    part = matched.select(known)
    error = np.zeros((len(part), 6))
    error[:, :3] = part.boxes[:, :3] - part.labels[:, :3]
    yaw = wrap_angle(part.boxes[:, 6] - part.labels[:, 6])
    error[:, 5] = (yaw + np.pi / 2) % np.pi - np.pi / 2
    result: dict[str, Any] = {"boxes": len(part)}
    for name, rows in (("xy", [0, 1]), ("z", [2]), ("yaw", [5])):
        result[name] = _consistency(error[:, rows], part.covariances[:, rows][:, :, rows])
    velocity = part.velocities - part.label_velocities
    measured = np.isfinite(part.velocity_covariances).all(axis=(1, 2))
    measured &= np.isfinite(velocity).all(axis=1)
    if measured.any():
        covariance = part.velocity_covariances[measured]
        result["velocity"] = _consistency(velocity[measured], covariance)
    return result


def _consistency(errors: NDArray[np.float64], covariances: NDArray[np.float64]) -> dict[str, float]:
    """Consistency of covariances (N, D, D) with errors (N, D)."""
    freedom = errors.shape[1]
    solved = np.linalg.solve(covariances, errors[..., None])[..., 0]
    squared = (errors * solved).sum(axis=1)
    return {
        "nees": float(squared.mean() / freedom),
        "median_nees": float(np.median(squared) / chi2.ppf(0.5, freedom)),
        "within_95": float((squared <= chi2.ppf(CONFIDENCE, freedom)).mean()),
    }


def velocity_errors(matched: MatchedBoxes) -> dict[str, Any]:
    """Errors of the velocities of matched boxes in m/s, by class, of moving and standing objects.

    An object moves if its true speed is above MOVING_SPEED. Empty if no box has a velocity.
    """
    known = matched.matched & np.isfinite(matched.velocities).all(axis=1)
    known &= np.isfinite(matched.label_velocities).all(axis=1)
    part = matched.select(known)
    error = np.linalg.norm(part.velocities - part.label_velocities, axis=1)
    moving = np.linalg.norm(part.label_velocities, axis=1) > MOVING_SPEED
    result: dict[str, Any] = {}
    for name in np.unique(part.names):
        for state, rows in (("moving", moving), ("standing", ~moving)):
            values = error[rows & (part.names == name)]
            if len(values):
                result.setdefault(str(name), {})[state] = {
                    "mean": float(values.mean()),
                    "median": float(np.median(values)),
                    "p90": float(np.percentile(values, 90)),
                    "boxes": len(values),
                }
    return result
