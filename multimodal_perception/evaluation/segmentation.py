"""Segmentation metrics: pixel accuracy and intersection over union, from a confusion matrix."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.evaluation.confidence import ConfidenceScore
from multimodal_perception.perception import SegmentationMask
from multimodal_perception.segmentation.classes import IGNORED
from multimodal_perception.segmentation.confidence import label_confidence

# The confidence is evaluated at every CONFIDENCE_STEP-th pixel of each row and column.
CONFIDENCE_STEP = 4


def add_confidence(score: ConfidenceScore, truth: NDArray, mask: SegmentationMask) -> None:
    """Count the confidences of a mask of SEGMENTATION_CLASSES; masks without logits have none.

    truth: class indices (H, W), IGNORED where not counted.
    """
    confidence = label_confidence(mask, CONFIDENCE_STEP)
    if confidence is None:
        return
    step = slice(None, None, CONFIDENCE_STEP)
    labels, true = mask.labels[step, step], truth[step, step]
    evaluated = true != IGNORED
    score.add(labels[evaluated], confidence[evaluated], labels[evaluated] == true[evaluated])


@dataclass
class ConfusionMatrix:
    """Pixel counts by true class (rows) and predicted class (columns)."""

    classes: tuple[str, ...]
    counts: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self.counts = np.zeros((len(self.classes), len(self.classes)), np.int64)

    def add(self, truth: NDArray, prediction: NDArray) -> None:
        """Count the pixels of one image, except those with the true label IGNORED.

        truth, prediction: class indices of equal shape. Raises ValueError if the shapes differ or an
        index is not a class.
        """
        if truth.shape != prediction.shape:
            raise ValueError(
                f"shape of truth {truth.shape} and prediction {prediction.shape} differ"
            )
        evaluated = truth != IGNORED
        n = len(self.classes)
        true, predicted = truth[evaluated].astype(np.int64), prediction[evaluated].astype(np.int64)
        if true.size and max(true.max(), predicted.max()) >= n:
            raise ValueError(f"labels must be below {n}")
        self.counts += np.bincount(true * n + predicted, minlength=n * n).reshape(n, n)

    @property
    def iou(self) -> NDArray[np.float64]:
        """Intersection over union by class (C,); NaN for classes without pixels in the truth."""
        intersection = np.diag(self.counts)
        true_pixels = self.counts.sum(axis=1)
        union = true_pixels + self.counts.sum(axis=0) - intersection
        return np.where(true_pixels > 0, intersection / np.maximum(union, 1), np.nan)

    @property
    def mean_iou(self) -> float:
        """Mean IoU of the classes with pixels in the truth; NaN without any."""
        iou = self.iou
        return float(np.nanmean(iou)) if np.isfinite(iou).any() else float("nan")

    def summary(self) -> dict[str, Any]:
        """miou, pixel accuracy, and iou by class."""
        total = self.counts.sum()
        return {
            "miou": self.mean_iou,
            "accuracy": float(np.trace(self.counts) / total) if total else float("nan"),
            "iou": dict(zip(self.classes, self.iou.tolist(), strict=True)),
        }
