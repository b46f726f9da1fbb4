"""LiDAR intensities as reflectivity: drivers say 0 to 1, 0 to 255, or counts without a scale.

Nor do two models agree on how bright the same street is, so a sweep is exposed as a camera's image is:
by what it shows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Of a sweep so many intensities are looked at; its scale is told by this quantile of those.
LOOKED_AT, QUANTILE = 8192, 0.99
# Up to so much it is a share of 1, of which mirrors return more; up to a byte it is one.
SHARE, BYTE = 2.0, 255.0
# One in ten returns of what stands about shall exceed this, as on simulated streets, where there are so
# many of them, by no more than these gains.
BRIGHT, BRIGHT_QUANTILE, LEAST, GAINS = 0.62, 0.9, 200, (0.5, 6.0)


def full_scale(intensities: NDArray[np.floating]) -> float:
    """What counts as 1 of a sweep's intensities (N,): 1, 255, or beyond that what 99 % do not exceed."""
    some = intensities[:: max(1, len(intensities) // LOOKED_AT)]
    if not len(some) or some.max() <= SHARE:
        return 1.0
    high = _quantile(some, QUANTILE)
    return 1.0 if high <= SHARE else max(high, BYTE)


def exposure(reflectivities: NDArray[np.floating]) -> float:
    """The gain for a sweep of whose returns from what stands about these (N,), 0 to 1, are known."""
    if len(reflectivities) < LEAST:
        return 1.0
    bright = _quantile(reflectivities, BRIGHT_QUANTILE)
    return float(np.clip(BRIGHT / bright, *GAINS)) if bright > 0 else 1.0


def _quantile(values: NDArray[np.floating], share: float) -> float:
    """np.quantile of values (N,), N > 0, in a third of its time: it waits on every sweep."""
    at = (len(values) - 1) * share
    low, high = int(at), min(int(at) + 1, len(values) - 1)
    ordered = np.partition(values, (low, high))
    return float((low + 1 - at) * ordered[low] + (at - low) * ordered[high])
