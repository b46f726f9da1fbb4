"""Normalisation of thermal images to [0, 1] with temporally stable contrast."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.float32]

# Percentiles of the pixels that are mapped to 0 and 1.
PERCENTILES = (1.0, 99.0)
# Time constant with which the limits follow the scene, s.
TIME_CONSTANT_S = 1.0
# Minimum distance between the limits, counts, so that noise in a uniform scene is not amplified.
MIN_RANGE = 16.0


def auto_gain(image: NDArray[np.number], min_range: float = 1.0) -> NDArray[np.uint8]:
    """Map the 1st to 99.5th percentile of counts or kelvin (H, W) to 0 .. 255, (H, W) uint8.

    min_range: minimum distance between both percentiles, so that noise in a uniform scene is not
    amplified.
    """
    low, high = np.percentile(image, (1.0, 99.5))
    relative = (image - low) / max(float(high - low), min_range)
    return np.asarray(255 * np.clip(relative, 0, 1) + 0.5, np.float64).astype(np.uint8)


def quartile_gamma(image: NDArray[np.float32], level: float) -> np.float32:
    """The exponent that maps the upper quartile of an image (H, W) in [0, 1] to `level`.

    A clear sky is about 45 K colder than everything else and occupies most of the range between the
    percentiles. The exponent restores the contrast of warm objects. It is limited to 0.5 .. 8, so that
    noise is not amplified without bounds.
    """
    quartile = float(np.percentile(image[::2, ::2] if min(image.shape) >= 64 else image, 75))
    gamma = np.log(level) / np.log(np.clip(quartile, 1e-3, 1.0 - 1e-3))
    return np.float32(np.clip(gamma, 0.5, 8.0))


class ThermalNormaliser:
    """Maps the counts of one sensor to [0, 1] by percentiles that follow the scene slowly.

    The percentiles of each single image would make the background flicker when a hot object passes.
    """

    def __init__(self) -> None:
        self._limits: tuple[float, float] | None = None
        self._stamp_ns = 0

    def normalise(self, pixels: Pixels, stamp_ns: int) -> NDArray[np.float32]:
        """Normalise counts (H, W) to an image (H, W) float32 in [0, 1].

        The limits are reset if the stamps jump back or after a gap much longer than TIME_CONSTANT_S.
        """
        low, high = self.update_limits(pixels, stamp_ns)
        return np.clip((pixels.astype(np.float32) - low) / (high - low), 0.0, 1.0)

    def update_limits(self, pixels: Pixels, stamp_ns: int) -> tuple[float, float]:
        """The counts that are mapped to 0 and 1, after they followed the image (H, W)."""
        # Every second row and column is sufficient for the percentiles, in a quarter of the time.
        sample = pixels[::2, ::2] if min(pixels.shape) >= 64 else pixels
        low, high = np.percentile(sample, PERCENTILES).tolist()
        elapsed_s = (stamp_ns - self._stamp_ns) / 1e9
        if self._limits is not None and 0 <= elapsed_s < 5 * TIME_CONSTANT_S:
            # A first-order low-pass over time, independent of the frame rate. The change is also limited
            # in relation to the present range, so that a flame does not darken the image at once.
            last_low, last_high = self._limits
            relative_time = elapsed_s / TIME_CONSTANT_S
            max_step = max(last_high - last_low, MIN_RANGE) * float(np.expm1(relative_time))
            weight = 1.0 - float(np.exp(-relative_time))
            low = last_low + min(max(weight * (low - last_low), -max_step), max_step)
            high = last_high + min(max(weight * (high - last_high), -max_step), max_step)
        self._limits, self._stamp_ns = (low, high), stamp_ns
        margin = max(MIN_RANGE - (high - low), 0.0) / 2
        return low - margin, high + margin
