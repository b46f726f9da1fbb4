"""Thermal images made ready: broken pixels mended, the sensor's pattern taken off, steady contrast."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.float32]


@dataclass(frozen=True)
class ThermalConfig:
    """How thermal images are normalised.

    low_percent, high_percent: of the pixels, what becomes 0 and 1. follow_s: time in which the limits
    follow the scene. least_span: counts between the limits at least, so that noise is not stretched
    over the whole range. Counts are those of the image.
    """

    low_percent: float = field(default=1.0, metadata={"min": 0.0, "max": 49.0})
    high_percent: float = field(default=99.0, metadata={"min": 51.0, "max": 100.0})
    follow_s: float = field(default=1.0, metadata={"min": 0.0, "max": 60.0, "unit": "s"})
    least_span: float = field(default=16.0, metadata={"min": 1.0, "max": 65535.0})


def gain_controlled(image: NDArray[np.number], least_span: float = 1.0) -> NDArray[np.uint8]:
    """A picture (H, W) uint8 of counts or kelvin: the 1st to the 99.5th percentile, black to white.

    A span below `least_span` is not stretched, or a blank wall would show noise alone.
    """
    low, high = np.percentile(image, (1.0, 99.5))
    share = (image - low) / max(float(high - low), least_span)
    return np.asarray(255 * np.clip(share, 0, 1) + 0.5, np.float64).astype(np.uint8)


def anchoring_power(image: NDArray[np.float32], level: float) -> np.float32:
    """The power of an image (H, W) in [0, 1] that brings its upper quartile to `level`.

    A clear sky is some 45 K colder than all else and takes most of the range that percentiles span;
    the power gives it back to what is warm. It is from 1/2 to 8, so that noise is not stretched without
    end.
    """
    quartile = float(np.percentile(image[::2, ::2] if min(image.shape) >= 64 else image, 75))
    power = np.log(level) / np.log(np.clip(quartile, 1e-3, 1.0 - 1e-3))
    return np.float32(np.clip(power, 0.5, 8.0))


def find_bad_pixels(frames: NDArray[np.uint16], deviation: float = 8.0) -> NDArray[np.bool_]:
    """Broken pixels (H, W) of images (N, H, W): those that no scene explains.

    Dead ones hardly change although their neighbours do; hot or cold ones stay out of the range of
    those two pixels away, which an edge never does. Clusters of up to 3x3 are found. `deviation` is in
    robust standard deviations of a pixel from its surroundings' median.

    Raises ValueError for fewer than eight images: one cannot tell a pixel from the scene.
    """
    if frames.ndim != 3 or len(frames) < 8:
        raise ValueError(f"at least 8 images (N, H, W) are needed, got shape {frames.shape}")
    values = frames.astype(np.float32)
    mean = values.mean(axis=0)
    noise = 1.4826 * float(np.median(np.abs(mean - cv2.medianBlur(mean, 5))))
    ring = np.ones((5, 5), np.uint8)
    ring[1:4, 1:4] = 0
    away = np.maximum(mean - cv2.dilate(mean, ring), cv2.erode(mean, ring) - mean)
    spread = values.std(axis=0)
    around = cv2.medianBlur(spread, 5)
    stuck = (spread < 0.05 * around) & (around > 1.0)
    return (away > deviation * max(noise, 1.0)) | stuck


def mend_bad_pixels(pixels: Pixels, bad: NDArray[np.bool_]) -> Pixels:
    """The image (H, W) with bad pixels (H, W) replaced by the mean of their good neighbours.

    A bad pixel without a good neighbour within two pixels gets the median of the good ones.

    Raises ValueError when the shapes differ or no pixel is good.
    """
    if pixels.shape != bad.shape:
        raise ValueError(f"mask is {bad.shape}, the image {pixels.shape}")
    if not bad.any():
        return pixels
    if bad.all():
        raise ValueError("all pixels are bad")
    good = (~bad).astype(np.float32)
    values = pixels.astype(np.float32) * good
    result = pixels.copy()
    todo = bad
    for size in (3, 5):
        total = cv2.boxFilter(values, -1, (size, size), normalize=False)
        count = np.rint(cv2.boxFilter(good, -1, (size, size), normalize=False))
        reach = todo & (count > 0)
        result[reach] = _as(total[reach] / count[reach], pixels.dtype)
        todo = todo & ~reach
    if todo.any():
        result[todo] = _as(np.median(pixels[~bad]), pixels.dtype)
    return result


@dataclass(frozen=True)
class FlatField:
    """The fixed pattern of one sensor: corrected = (pixels - offset) * gain.

    offset, gain: (H, W) float32, counts and one.
    """

    offset: NDArray[np.float32]
    gain: NDArray[np.float32]

    @classmethod
    def from_shutter(cls, frames: NDArray[np.uint16]) -> FlatField:
        """Offset alone, from images (N, H, W) of something of one temperature, as of a shutter."""
        mean = np.atleast_3d(frames.astype(np.float32)).mean(axis=0)
        return cls((mean - mean.mean()).astype(np.float32), np.ones_like(mean))

    @classmethod
    def from_two_points(cls, cold: NDArray[np.uint16], hot: NDArray[np.uint16]) -> FlatField:
        """Offset and gain from images (N, H, W) of something even, at two temperatures.

        Raises ValueError when the second is not hotter. A pixel that answers to less than a tenth of
        what the others do keeps gain 1: it is a bad pixel.
        """
        low = cold.astype(np.float32).mean(axis=0)
        span = hot.astype(np.float32).mean(axis=0) - low
        typical = float(np.median(span))
        if not typical > 0:
            raise ValueError("the second images are not hotter than the first")
        answers = span > 0.1 * typical
        gain = np.where(answers, typical / np.where(answers, span, 1.0), 1.0).astype(np.float32)
        return cls((low - low.mean() / gain).astype(np.float32), gain)

    def correct(self, pixels: Pixels) -> NDArray[np.float32]:
        """Counts (H, W) float32 without the pattern. Raises ValueError when the shapes differ."""
        if pixels.shape != self.offset.shape:
            raise ValueError(f"the flat field is {self.offset.shape}, the image {pixels.shape}")
        return (pixels.astype(np.float32) - self.offset) * self.gain


class ThermalNormaliser:
    """Counts of one sensor to [0, 1] by percentiles that follow the scene slowly.

    Each image's own percentiles would make everything flicker when something hot passes.
    """

    def __init__(
        self,
        config: ThermalConfig | None = None,
        flat_field: FlatField | None = None,
        bad_pixels: NDArray[np.bool_] | None = None,
    ) -> None:
        self._config = config or ThermalConfig()
        self._flat_field = flat_field
        self._bad_pixels = bad_pixels
        self._limits: tuple[float, float] | None = None
        self._stamp_ns = 0

    def normalise(self, pixels: Pixels, stamp_ns: int) -> NDArray[np.float32]:
        """Image (H, W) float32 in [0, 1] of counts (H, W).

        After a jump of the stamps back, or a gap much longer than follow_s, the limits begin anew.

        Raises ValueError when a flat field or a mask of another shape was given.
        """
        values: Pixels = pixels
        if self._bad_pixels is not None:
            values = mend_bad_pixels(values, self._bad_pixels)
        if self._flat_field is not None:
            values = self._flat_field.correct(values)
        low, high = self._follow(values, stamp_ns)
        return np.clip((values.astype(np.float32) - low) / (high - low), 0.0, 1.0)

    def _follow(self, values: Pixels, stamp_ns: int) -> tuple[float, float]:
        config = self._config
        # Every second pixel tells the percentiles as well, in a quarter of the time.
        sample = values[::2, ::2] if min(values.shape) >= 64 else values
        low, high = np.percentile(sample, (config.low_percent, config.high_percent)).tolist()
        elapsed_s = (stamp_ns - self._stamp_ns) / 1e9
        if self._limits is not None and 0 <= elapsed_s < 5 * config.follow_s:
            # A first-order low-pass by the time gone, so that the camera's rate does not matter; and
            # never faster than the range itself, or a flame would darken all else in one image.
            last_low, last_high = self._limits
            gone = elapsed_s / config.follow_s
            most = max(last_high - last_low, config.least_span) * float(np.expm1(gone))
            weight = 1.0 - float(np.exp(-gone))
            low = last_low + min(max(weight * (low - last_low), -most), most)
            high = last_high + min(max(weight * (high - last_high), -most), most)
        self._limits, self._stamp_ns = (low, high), stamp_ns
        lack = max(config.least_span - (high - low), 0.0) / 2
        return low - lack, high + lack


def _as(values: NDArray[np.floating] | np.floating, dtype: np.dtype) -> NDArray[np.generic]:
    rounded = np.asarray(values) if dtype.kind == "f" else np.rint(values)
    return rounded.astype(dtype)
