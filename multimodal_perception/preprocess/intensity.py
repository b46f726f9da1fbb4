"""LiDAR intensities as reflectivity: drivers say 0 to 1, 0 to 255, or counts without a scale."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Of a sweep so many intensities are looked at; its scale is told by this quantile of those.
LOOKED_AT, QUANTILE = 8192, 0.99
# Up to so much it is a share of 1, of which mirrors return more; up to a byte it is one.
SHARE, BYTE = 2.0, 255.0


def full_scale(intensities: NDArray[np.floating]) -> float:
    """What counts as 1 of a sweep's intensities (N,): 1, 255, or beyond that what 99 % do not exceed."""
    some = intensities[:: max(1, len(intensities) // LOOKED_AT)]
    if not len(some):
        return 1.0
    high = float(np.quantile(some, QUANTILE))
    return 1.0 if high <= SHARE else max(high, BYTE)


def reflectivity(intensities: NDArray[np.floating]) -> NDArray[np.float32]:
    """Finite intensities (N,) of one sweep from 0 to 1."""
    return np.clip(intensities / np.float32(full_scale(intensities)), 0.0, 1.0).astype(np.float32)
