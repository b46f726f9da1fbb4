"""Average precision of boxes in images, as COCO defines it (Lin et al. 2014; its evaluation's rules).

Per class all boxes of all images are matched in the order of their scores, image by image: each takes
the free label that it overlaps most, if by at least the threshold. A label that does not count may be
taken by any number of boxes; those then count neither way. AP is the mean of the precision, made to fall
only, at 101 recalls; the AP of a class is its mean over the thresholds 0.50 to 0.95.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.geometry.image_boxes import areas, intersections

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
# Boxes of one image and class that count, the best ones.
MOST = 100


@dataclass(frozen=True)
class ImageTruth:
    """Labels of one image: boxes (K, 4), classes (K,) and which count."""

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    counts: NDArray[np.bool_]


@dataclass(frozen=True)
class ImageBoxes:
    """Answers for one image: boxes (N, 4), scores (N,) and classes (N,)."""

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]


class AveragePrecision:
    """Gathers images of one class table and tells AP by class."""

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        self._rows: list[list[tuple[NDArray, NDArray, NDArray]]] = [[] for _ in self.classes]
        self._labels = np.zeros(len(self.classes), np.int64)

    def add(self, truth: ImageTruth, found: ImageBoxes) -> None:
        """One image."""
        for k in range(len(self.classes)):
            of_truth, of_found = truth.labels == k, found.labels == k
            counts = truth.counts[of_truth]
            self._labels[k] += int(counts.sum())
            order = np.argsort(-found.scores[of_found], kind="stable")[:MOST]
            boxes = found.boxes[of_found][order]
            hits, left = match(boxes, truth.boxes[of_truth], counts)
            self._rows[k].append((found.scores[of_found][order], hits, left))

    def summary(self) -> dict[str, dict[str, float]]:
        """By class and "all" (the mean of the classes with labels): ap, ap50, ap75 and labels."""
        result = {}
        for k, name in enumerate(self.classes):
            values = self._of_class(k)
            result[name] = {
                "ap": float(values.mean()),
                "ap50": float(values[0]),
                "ap75": float(values[5]),
                "labels": int(self._labels[k]),
            }
        told = [r for r in result.values() if r["labels"]]
        mean = {
            key: float(np.mean([r[key] for r in told])) if told else float("nan")
            for key in ("ap", "ap50", "ap75")
        }
        result["all"] = {**mean, "labels": int(self._labels.sum())}
        return result

    def _of_class(self, k: int) -> NDArray[np.float64]:
        """AP by threshold (10,); NaN without labels."""
        if not self._labels[k]:
            return np.full(len(THRESHOLDS), np.nan)
        scores = np.concatenate([r[0] for r in self._rows[k]])
        order = np.argsort(-scores, kind="stable")
        hits = np.concatenate([r[1] for r in self._rows[k]], axis=1)[:, order]
        left = np.concatenate([r[2] for r in self._rows[k]], axis=1)[:, order]
        result = np.zeros(len(THRESHOLDS))
        for t in range(len(THRESHOLDS)):
            right = hits[t][~left[t]]
            result[t] = interpolated(right, int(self._labels[k]))
        return result


def match(
    boxes: NDArray[np.float32], truth: NDArray[np.float32], counts: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Of boxes (N, 4), best first: right ones and ones that do not count, (10, N) by threshold.

    Against a label that does not count, the overlap is the share of the box that lies in it, as COCO
    does for crowds: part of something unclear is unclear.
    """
    n, shape = len(boxes), (len(THRESHOLDS), len(boxes))
    hits, left = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
    if not n or not len(truth):
        return hits, left
    common = intersections(boxes, truth)
    own = areas(boxes)[:, None]
    union = np.where(counts[None], own + areas(truth)[None] - common, own)
    overlap = common / np.maximum(union, 1e-9)
    for t, threshold in enumerate(THRESHOLDS):
        taken = np.zeros(len(truth), np.bool_)
        for i in range(n):
            # As COCO's evaluation, a hair below the threshold is enough.
            fits = (overlap[i] >= min(threshold, 1 - 1e-10)) & ~(taken & counts)
            real = np.flatnonzero(fits & counts)
            if len(real):
                best = real[overlap[i, real].argmax()]
                taken[best] = hits[t, i] = True
            elif (fits & ~counts).any():
                left[t, i] = True
    return hits, left


def interpolated(right: NDArray[np.bool_], labels: int) -> float:
    """Mean precision at 101 recalls of answers, best first, of which some are right."""
    true = np.cumsum(right)
    precision = true / np.arange(1, len(right) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(true / labels, RECALLS, side="left")
    padded = np.append(precision, 0.0)
    return float(padded[np.minimum(at, len(right))].mean())
