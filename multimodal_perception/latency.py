"""Summary of measured latencies."""

from __future__ import annotations

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
