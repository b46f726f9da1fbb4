"""Summary of measured latencies."""

from __future__ import annotations

import random
from collections.abc import Iterable

import numpy as np


def latency_percentiles(values: Iterable[float]) -> dict[str, float]:
    """The median and the 95th percentile of durations as {"p50": ..., "p95": ...}, in their unit.

    Both are NaN if there are no values.
    """
    array = np.array(list(values), np.float64)
    if not len(array):
        return {"p50": float("nan"), "p95": float("nan")}
    return {"p50": float(np.percentile(array, 50)), "p95": float(np.percentile(array, 95))}


class LatencySample:
    """Percentiles of any number of durations with bounded memory.

    Exact up to `size` values; after that of a uniform random sample of all values (algorithm R of
    Vitter, "Random Sampling with a Reservoir", 1985). The seed is fixed.
    """

    def __init__(self, size: int = 10_000) -> None:
        self._size = size
        self._random = random.Random(0)
        self._values: list[float] = []
        self.count = 0

    def add(self, value: float) -> None:
        """Add one duration."""
        self.count += 1
        if len(self._values) < self._size:
            self._values.append(value)
            return
        at = self._random.randrange(self.count)
        if at < self._size:
            self._values[at] = value

    def percentiles(self) -> dict[str, float]:
        """Return the median and the 95th percentile, see latency_percentiles."""
        return latency_percentiles(self._values)
