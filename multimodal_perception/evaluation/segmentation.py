"""Scores of segmentation: intersection over union by class, from a confusion matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.segmentation.classes import IGNORED


class Confusion:
    """Pixels by what they are (rows) and what they were called (columns)."""

    def __init__(self, classes: tuple[str, ...]) -> None:
        self.classes = classes
        self.counts = np.zeros((len(classes), len(classes)), np.int64)

    def add(self, truth: NDArray, answer: NDArray) -> None:
        """Count the pixels of one image; those whose truth is IGNORED do not count.

        Raises ValueError when the shapes differ or a label is no class.
        """
        if truth.shape != answer.shape:
            raise ValueError(f"truth is {truth.shape}, the answer {answer.shape}")
        scored = truth != IGNORED
        n = len(self.classes)
        true, called = truth[scored].astype(np.int64), answer[scored].astype(np.int64)
        if true.size and max(true.max(), called.max()) >= n:
            raise ValueError(f"labels must be below {n}")
        self.counts += np.bincount(true * n + called, minlength=n * n).reshape(n, n)

    @property
    def iou(self) -> NDArray[np.float64]:
        """Of each class: pixels in both over pixels in either; NaN where the truth never shows it."""
        hit = np.diag(self.counts)
        shown = self.counts.sum(axis=1)
        either = shown + self.counts.sum(axis=0) - hit
        return np.where(shown > 0, hit / np.maximum(either, 1), np.nan)

    @property
    def mean_iou(self) -> float:
        """Mean over the classes that the truth shows; NaN without any."""
        iou = self.iou
        return float(np.nanmean(iou)) if np.isfinite(iou).any() else float("nan")

    def summary(self) -> dict[str, Any]:
        """miou, pixel accuracy and the IoU of each class."""
        total = self.counts.sum()
        return {
            "miou": self.mean_iou,
            "accuracy": float(np.trace(self.counts) / total) if total else float("nan"),
            "iou": dict(zip(self.classes, self.iou.tolist(), strict=True)),
        }
