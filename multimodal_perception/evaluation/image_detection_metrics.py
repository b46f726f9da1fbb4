"""Metrics of 2D boxes in real images: average precision, recall at a precision, and nested boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.evaluation.average_precision import (
    CocoAveragePrecision,
    ImageDetections,
    ImageGroundTruth,
)
from multimodal_perception.geometry.image_boxes import areas, intersections, iou

# Points of the precision-recall curve in the result.
CURVE_RECALLS = np.linspace(0.0, 1.0, 21)
# A box is nested if this fraction of the smaller of two boxes is inside the other one.
NESTED_FRACTION = 0.8


@dataclass(frozen=True)
class PrecisionRecall:
    """Precision and recall at IoU 0.5 of the boxes with at least each score, by descending score.

    scores, precision, recall: (N,) float64. labels: number of labels.
    """

    scores: NDArray[np.float64]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    labels: int

    def recall_at_precision(self, minimum: float) -> tuple[float, float]:
        """Largest recall with at least this precision, and its score threshold; 0 and NaN if none."""
        allowed = np.flatnonzero(self.precision >= minimum)
        if not len(allowed) or not self.labels:
            return (0.0 if self.labels else float("nan")), float("nan")
        best = allowed[self.recall[allowed].argmax()]
        return float(self.recall[best]), float(self.scores[best])

    def at_score(self, threshold: float) -> tuple[float, float]:
        """Recall and precision of the boxes with at least this score; NaN where undefined."""
        count = int((self.scores >= threshold).sum())
        if not count:
            return (0.0 if self.labels else float("nan")), float("nan")
        return float(self.recall[count - 1]), float(self.precision[count - 1])

    def curve(self) -> list[float]:
        """Interpolated precision at CURVE_RECALLS: the largest one at this recall or a higher one."""
        result = []
        for recall in CURVE_RECALLS:
            reached = self.precision[self.recall >= recall - 1e-12]
            result.append(float(reached.max()) if len(reached) else 0.0)
        return result


class ImageDetectionScore:
    """Accumulates images and computes the metrics by class.

    min_score: the detector's score threshold in operation, and min_scores: that of each class, by
    default min_score. AP and the precision-recall curve use all boxes, the other figures only boxes with
    at least this score. required_precision: for
    `recall_at_precision`. min_height: boxes without a label that are lower than this do not count as
    false, pixels; the height from which labels are evaluated.
    """

    def __init__(
        self,
        classes: Sequence[str],
        min_score: float,
        required_precision: float = 0.7,
        min_height: float = 0.0,
        min_scores: Sequence[float] | None = None,
    ) -> None:
        self.classes = tuple(classes)
        self.min_score, self.required_precision = min_score, required_precision
        self.min_scores = np.full(len(self.classes), min_score)
        if min_scores is not None:
            self.min_scores = np.array(min_scores, np.float64)
        self._ap = CocoAveragePrecision(classes, min_height)
        self._images = 0
        self._reported = np.zeros(len(self.classes), np.int64)
        self._nested = np.zeros(len(self.classes), np.int64)

    def add(self, truth: ImageGroundTruth, detections: ImageDetections) -> None:
        """Add one image. Labels and detections use the indices of the same classes."""
        self._images += 1
        self._ap.add(truth, detections)
        reported = detections.scores >= self.min_scores[detections.labels]
        nested = nested_boxes(
            detections.boxes[reported],
            detections.scores[reported],
            detections.labels[reported],
            truth,
        )
        for k in range(len(self.classes)):
            of_class = detections.labels[reported] == k
            self._reported[k] += int(of_class.sum())
            self._nested[k] += int((nested & of_class).sum())

    def summary(self) -> dict[str, Any]:
        """Metrics of all images: `classes` by name; `nested_share`, `confidence` of reported boxes."""
        averages = self._ap.summary()
        by_class: dict[str, Any] = {}
        for k, name in enumerate(self.classes):
            curve = self.precision_recall(k)
            recall, threshold = curve.recall_at_precision(self.required_precision)
            recall_now, precision_now = curve.at_score(self.min_scores[k])
            by_class[name] = {
                **averages[name],
                "recall_at_precision": recall,
                "score_at_precision": threshold,
                "min_score": float(self.min_scores[k]),
                "recall": recall_now,
                "precision": precision_now,
                "boxes": int(self._reported[k]),
                "nested_boxes": int(self._nested[k]),
                "precision_curve": curve.curve(),
            }
        boxes = int(self._reported.sum())
        return {
            "images": self._images,
            "min_score": self.min_score,
            "required_precision": self.required_precision,
            "ap": averages["all"]["ap"],
            "ap50": averages["all"]["ap50"],
            "confidence": self._ap.confidence(self.min_scores),
            "nested_share": float(self._nested.sum()) / boxes if boxes else float("nan"),
            "curve_recalls": CURVE_RECALLS.round(3).tolist(),
            "classes": by_class,
        }

    def precision_recall(self, k: int) -> PrecisionRecall:
        """Precision and recall of one class at IoU 0.5."""
        scores, matched, labels = self._ap.matches(k)
        true = np.cumsum(matched)
        return PrecisionRecall(
            scores,
            true / np.arange(1, len(true) + 1),
            true / max(labels, 1),
            labels,
        )


def nested_boxes(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    labels: NDArray[np.int64],
    truth: ImageGroundTruth,
) -> NDArray[np.bool_]:
    """Mask (N,) of the boxes that repeat a box of a higher score of the same class on the same object.

    Two boxes are nested if NESTED_FRACTION of the smaller one is inside the other. A car in front of
    another car gives nested boxes too: two boxes are on different objects if the labels (of any class)
    with which they have the largest IoU differ. Boxes that overlap with no label are on the same object
    if they are nested.
    """
    n = len(boxes)
    nested = np.zeros(n, np.bool_)
    if n < 2:
        return nested
    smaller = np.minimum(areas(boxes)[:, None], areas(boxes)[None])
    inside = intersections(boxes, boxes) >= NESTED_FRACTION * np.maximum(smaller, 1e-9)
    overlap = iou(boxes, truth.boxes)
    objects = np.full(n, -1, np.int64)
    if len(truth.boxes):
        objects = np.where(overlap.max(axis=1) > 0.0, overlap.argmax(axis=1), -1)
    order = np.argsort(-scores, kind="stable")
    for position, i in enumerate(order):
        before = order[:position]
        same = (labels[before] == labels[i]) & (objects[before] == objects[i])
        nested[i] = bool((same & inside[i, before]).any())
    return nested
