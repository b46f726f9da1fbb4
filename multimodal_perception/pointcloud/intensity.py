"""Scaling of LiDAR intensities to normalised intensities that are comparable between sensors.

Drivers publish intensities from 0 to 1, from 0 to 255, or as counts without a defined scale, and
two models of LiDAR measure different intensities in the same street. The unit is detected first;
then a gain brings the intensities of objects in each sweep to the level of the simulator, like a
camera's exposure control.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# The unit is detected from about this number of intensities of a sweep, by this quantile.
UNIT_SAMPLES, UNIT_QUANTILE = 8192, 0.99
# Largest quantile that means a unit of 0 to 1 (retroreflectors exceed 1), and full scale of bytes.
MAX_FRACTION, BYTE_SCALE = 2.0, 255.0
# The gain makes this quantile of the intensities of objects equal to TARGET_INTENSITY, as on simulated
# streets. It needs MIN_SAMPLES intensities and is limited to GAIN_LIMITS.
TARGET_INTENSITY, TARGET_QUANTILE, MIN_SAMPLES, GAIN_LIMITS = 0.62, 0.9, 200, (0.5, 6.0)


def full_scale(intensities: NDArray[np.floating]) -> float:
    """Intensity that corresponds to 1 in a sweep's unit, from its intensities (N,).

    1 or 255 for the usual units; for larger counts their UNIT_QUANTILE.
    """
    samples = intensities[:: max(1, len(intensities) // UNIT_SAMPLES)]
    if not len(samples) or samples.max() <= MAX_FRACTION:
        return 1.0
    high = _quantile(samples, UNIT_QUANTILE)
    return 1.0 if high <= MAX_FRACTION else max(high, BYTE_SCALE)


def estimate_gain(intensities: NDArray[np.floating]) -> float:
    """Gain for a sweep from the normalised intensities (N,), 0 to 1, of its returns from objects."""
    if len(intensities) < MIN_SAMPLES:
        return 1.0
    level = _quantile(intensities, TARGET_QUANTILE)
    return float(np.clip(TARGET_INTENSITY / level, *GAIN_LIMITS)) if level > 0 else 1.0


def _quantile(values: NDArray[np.floating], q: float) -> float:
    """Same as np.quantile for values (N,), N > 0, but three times as fast; it runs for every sweep."""
    position = (len(values) - 1) * q
    low, high = int(position), min(int(position) + 1, len(values) - 1)
    ordered = np.partition(values, (low, high))
    return float((low + 1 - position) * ordered[low] + (position - low) * ordered[high])
