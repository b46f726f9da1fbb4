"""Average precision of 2D boxes as defined by COCO (Lin et al. 2014, and the COCO evaluation code).

For each class and image the boxes are matched in descending order of their scores. Each box is matched
with the unmatched label of the highest IoU, if that is at least the threshold. Any number of boxes may
match an ignored label; such boxes are neither true nor false positives. AP is the mean interpolated
precision at 101 recalls. The AP of a class is the mean over the IoU thresholds 0.50 to 0.95.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.evaluation.confidence import ConfidenceScore
from multimodal_perception.geometry.image_boxes import areas, intersections

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
# Only the boxes with the highest scores of each image and class are evaluated.
MAX_DETECTIONS = 100


@dataclass(frozen=True)
class ImageGroundTruth:
    """Labels of one image: boxes (K, 4) left, top, right, bottom in pixels, and class indices (K,).

    evaluated: (K,) mask; the other labels are ignored, like crowd regions of COCO.
    """

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    evaluated: NDArray[np.bool_]


@dataclass(frozen=True)
class ImageDetections:
    """Detections of one image: boxes (N, 4), scores (N,) and class indices (N,)."""

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]


class CocoAveragePrecision:
    """Accumulates the matches of images and computes AP by class.

    min_height: boxes without a label that are lower than this are ignored, pixels. COCO does the same
    with boxes outside of its range of areas.
    """

    def __init__(self, classes: Sequence[str], min_height: float = 0.0) -> None:
        self.classes = tuple(classes)
        self._min_height = min_height
        # By class, for each image: scores, true positives and ignored boxes (see match_boxes).
        self._matches: list[list[tuple[NDArray, NDArray, NDArray]]] = [[] for _ in self.classes]
        self._label_counts = np.zeros(len(self.classes), np.int64)

    def add(self, truth: ImageGroundTruth, detections: ImageDetections) -> None:
        """Match the detections of one image with its labels."""
        for k in range(len(self.classes)):
            class_truth, class_detections = truth.labels == k, detections.labels == k
            evaluated = truth.evaluated[class_truth]
            self._label_counts[k] += int(evaluated.sum())
            scores = detections.scores[class_detections]
            order = np.argsort(-scores, kind="stable")[:MAX_DETECTIONS]
            boxes = detections.boxes[class_detections][order]
            matched, ignored = match_boxes(boxes, truth.boxes[class_truth], evaluated)
            small = boxes[:, 3] - boxes[:, 1] < self._min_height
            self._matches[k].append((scores[order], matched, ignored | (small & ~matched)))

    def summary(self) -> dict[str, dict[str, float]]:
        """ap, ap50, ap75 and labels, by class and for "all" (the mean of the classes with labels)."""
        result = {}
        for k, name in enumerate(self.classes):
            values = self._class_ap(k)
            result[name] = {
                "ap": float(values.mean()),
                "ap50": float(values[0]),
                "ap75": float(values[5]),
                "labels": int(self._label_counts[k]),
            }
        labelled = [r for r in result.values() if r["labels"]]
        mean = {
            key: float(np.mean([r[key] for r in labelled])) if labelled else float("nan")
            for key in ("ap", "ap50", "ap75")
        }
        result["all"] = {**mean, "labels": int(self._label_counts.sum())}
        return result

    def matches(self, k: int, t: int = 0) -> tuple[NDArray[np.float64], NDArray[np.bool_], int]:
        """Scores (N,) and true positives (N,) of a class by descending score, and its label count.

        t: index into IOU_THRESHOLDS. Boxes on ignored labels are left out.
        """
        if not self._matches[k]:
            return np.zeros(0), np.zeros(0, np.bool_), 0
        scores = np.concatenate([m[0] for m in self._matches[k]])
        order = np.argsort(-scores, kind="stable")
        matched = np.concatenate([m[1][t] for m in self._matches[k]])[order]
        ignored = np.concatenate([m[2][t] for m in self._matches[k]])[order]
        kept = scores[order][~ignored].astype(np.float64)
        return kept, matched[~ignored], int(self._label_counts[k])

    def confidence(self, min_scores: Sequence[float] | NDArray[np.floating]) -> dict[str, Any]:
        """Confidence of the boxes with at least the score of their class in `min_scores`.

        A box is right if it matches a label at IoU 0.5. See ConfidenceScore.summary.
        """
        score = ConfidenceScore(self.classes)
        for k in range(len(self.classes)):
            scores, right, _ = self.matches(k)
            reported = scores >= min_scores[k]
            score.add(np.full(int(reported.sum()), k), scores[reported], right[reported])
        return score.summary()

    def _class_ap(self, k: int) -> NDArray[np.float64]:
        """AP by IoU threshold (10,); NaN if the class has no labels."""
        if not self._label_counts[k]:
            return np.full(len(IOU_THRESHOLDS), np.nan)
        matches = [self.matches(k, t) for t in range(len(IOU_THRESHOLDS))]
        return np.array([interpolated_precision(matched, n) for _, matched, n in matches])


def match_boxes(
    boxes: NDArray[np.float32], truth: NDArray[np.float32], evaluated: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """True positives and ignored boxes, (10, N) each by IoU threshold.

    boxes: (N, 4), by descending score. truth: (K, 4) labels. evaluated: (K,) labels that are not
    ignored. The overlap with an ignored label is the fraction of the box inside it, as COCO does for
    crowd regions.
    """
    n, shape = len(boxes), (len(IOU_THRESHOLDS), len(boxes))
    matched, ignored = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
    if not n or not len(truth):
        return matched, ignored
    common = intersections(boxes, truth)
    box_areas = areas(boxes)[:, None]
    union = np.where(evaluated[None], box_areas + areas(truth)[None] - common, box_areas)
    overlap = common / np.maximum(union, 1e-9)
    for t, threshold in enumerate(IOU_THRESHOLDS):
        taken = np.zeros(len(truth), np.bool_)
        for i in range(n):
            # The minimum is the same as in the evaluation code of COCO.
            candidate = (overlap[i] >= min(threshold, 1 - 1e-10)) & ~(taken & evaluated)
            labels = np.flatnonzero(candidate & evaluated)
            if len(labels):
                best = labels[overlap[i, labels].argmax()]
                taken[best] = matched[t, i] = True
            elif (candidate & ~evaluated).any():
                ignored[t, i] = True
    return matched, ignored


def interpolated_precision(true_positive: NDArray[np.bool_], labels: int) -> float:
    """Mean interpolated precision at 101 recalls.

    true_positive: (N,) for the boxes by descending score. labels: number of labels.
    """
    hits = np.cumsum(true_positive)
    precision = hits / np.arange(1, len(true_positive) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    index = np.searchsorted(hits / labels, RECALLS, side="left")
    padded = np.append(precision, 0.0)
    return float(padded[np.minimum(index, len(true_positive))].mean())
