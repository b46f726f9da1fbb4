"""Whether confidences equal the probability of a right result, and are lower for wrong results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

# Bins of the reliability diagram and of the ECE, and bins of the histograms that the AUROC is computed
# from, which are a multiple of them.
BINS, FINE_BINS = 10, 1000


def error_auroc(confidence: NDArray[np.floating], right: NDArray[np.bool_]) -> float:
    """Area under the ROC curve of "this result is wrong", with a low confidence as the sign of it.

    It is the probability that a wrong result has a lower confidence than a right one, where equal
    confidences count half (Mann and Whitney 1947; Hendrycks and Gimpel 2017). NaN unless there are right
    and wrong results. confidence, right: (N,).
    """
    right = np.asarray(right, np.bool_)
    positives, negatives = int(right.sum()), int((~right).sum())
    if not positives or not negatives:
        return float("nan")
    ranks = rankdata(confidence)[right].sum()
    return float((ranks - positives * (positives + 1) / 2) / (positives * negatives))


def brier_score(confidence: NDArray[np.floating], right: NDArray[np.bool_]) -> float:
    """Mean squared difference between the confidence and 1 (right) or 0 (wrong); NaN without results.

    Brier 1950, for the outcomes right and wrong.
    """
    if not len(confidence):
        return float("nan")
    return float(np.mean((np.asarray(confidence, np.float64) - right) ** 2))


@dataclass
class ConfidenceScore:
    """Accumulates confidences of many results by predicted class, such as those of all pixels.

    The memory does not depend on the number of results.
    """

    classes: Sequence[str]
    _count: NDArray[np.int64] = field(init=False)
    _right: NDArray[np.int64] = field(init=False)
    _confidence: NDArray[np.float64] = field(init=False)
    _squared: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        self.classes = tuple(self.classes)
        shape = len(self.classes), FINE_BINS
        self._count, self._right = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        self._confidence, self._squared = np.zeros(shape), np.zeros(len(self.classes))

    def add(
        self,
        labels: NDArray[np.integer],
        confidence: NDArray[np.floating],
        right: NDArray[np.bool_],
    ) -> None:
        """Add results: predicted classes, confidences in [0, 1] and whether they are right, all (N,)."""
        c = np.clip(np.asarray(confidence, np.float64), 0.0, 1.0)
        index = np.minimum((c * FINE_BINS).astype(np.int64), FINE_BINS - 1)
        index += np.asarray(labels, np.int64) * FINE_BINS
        shape = self._count.shape
        size = self._count.size
        self._count += np.bincount(index, minlength=size).reshape(shape)
        self._right += np.bincount(index[right], minlength=size).reshape(shape)
        self._confidence += np.bincount(index, c, minlength=size).reshape(shape)
        self._squared += np.bincount(labels, (c - right) ** 2, minlength=len(self.classes))

    def merge(self, other: ConfidenceScore) -> None:
        """Add the results of another score of the same classes."""
        for name in ("_count", "_right", "_confidence", "_squared"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def summary(self) -> dict[str, Any]:
        """Figures of all results and, in by_class, of each predicted class with results.

        ece: expected calibration error (Guo et al. 2017, eq. 3) over BINS bins of the confidence. brier,
        error_auroc: see the functions. bins: lower edge, number of results, mean confidence, accuracy.
        """
        every = np.ones(len(self.classes), np.bool_)
        result: dict[str, Any] = self._figures(every)
        result["bins"] = self._bins(every)
        result["by_class"] = {}
        for k, name in enumerate(self.classes):
            if self._count[k].any():
                chosen = np.arange(len(self.classes)) == k
                result["by_class"][name] = self._figures(chosen)
        return result

    def _figures(self, chosen: NDArray[np.bool_]) -> dict[str, Any]:
        count, right = self._count[chosen].sum(0), self._right[chosen].sum(0)
        total = int(count.sum())
        if not total:
            nan = float("nan")
            return {"results": 0, "accuracy": nan, "ece": nan, "brier": nan, "error_auroc": nan}
        coarse = (v.reshape(BINS, -1).sum(1) for v in (self._confidence[chosen].sum(0), right))
        gaps = np.abs(np.subtract(*coarse))
        return {
            "results": total,
            "accuracy": float(right.sum() / total),
            "ece": float(gaps.sum() / total),
            "brier": float(self._squared[chosen].sum() / total),
            "error_auroc": auroc_of_histograms(count - right, right),
        }

    def _bins(self, chosen: NDArray[np.bool_]) -> list[dict[str, Any]]:
        count, right, confidence = (
            v[chosen].sum(0).reshape(BINS, -1).sum(1)
            for v in (self._count, self._right, self._confidence)
        )
        return [
            {
                "confidence_from": k / BINS,
                "results": int(count[k]),
                "confidence": float(confidence[k] / count[k]),
                "accuracy": float(right[k] / count[k]),
            }
            for k in np.flatnonzero(count)
        ]


def auroc_of_histograms(wrong: NDArray[np.int64], right: NDArray[np.int64]) -> float:
    """Probability that a wrong result is in a lower bin than a right one; equal bins count half."""
    if not wrong.sum() or not right.sum():
        return float("nan")
    lower = np.cumsum(wrong) - wrong
    pairs = (right * (lower + 0.5 * wrong)).sum(dtype=np.float64)
    return float(pairs / (float(wrong.sum()) * float(right.sum())))


def reliability_line(
    summary: Mapping[str, Any] | None,
) -> tuple[list[float], list[float]] | None:
    """Mean confidence and accuracy of the bins of a summary, for a reliability diagram."""
    bins = (summary or {}).get("bins", [])
    if not bins:
        return None
    return [b["confidence"] for b in bins], [b["accuracy"] for b in bins]
