"""Quality score of images from exposure, sharpness, frozen frames, texture and sensor agreement.

Each cue is measured on a downscaled copy of the image, which limits the cost and gives the same scale
for all cameras. A cue is a factor from 0 to 1, and the score is their product. The score describes
whether an image contains usable information: real images at night, in fog or rain and with glare keep a
high score.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.frame import CameraImage, SensorFrame, ThermalImage
from multimodal_perception.geometry.stamps import NANOSECONDS_PER_SECOND
from multimodal_perception.images.thermal_normalization import auto_gain
from multimodal_perception.perception import ImageQuality

# Width of the downscaled copy, px. Its finest octaves show blur of 0.3 % of the width and more.
WIDTH = 320
# The following pairs are the limits between which a cue goes from 0 to 1 or from 1 to 0.
# Range of the grey levels (of 255; of radiometric images, counts): below the first the image is blank.
VALUE_RANGE = (4.0, 24.0)
# Fraction of saturated pixels: a bright sky stays below the first.
SATURATED_FRACTION = (0.35, 0.8)
# Ratio of the mean absolute amplitude of the first to the second and of the second to the third
# octave. Sharp images are above the second value.
FIRST_OCTAVE_RATIO, SECOND_OCTAVE_RATIO = (0.5, 0.8), (0.4, 0.6)
# Fraction of pixels with adversarial-looking texture; on real streets it is below the first value.
ADVERSARIAL_FRACTION = (0.004, 0.02)
# Minimum chroma variation of such texture (chroma levels) within a neighbourhood (px of the small copy).
ADVERSARIAL_CHROMA, ADVERSARIAL_WINDOW = 12.0, 7


@dataclass(frozen=True)
class ImageQualityConfig:
    """Parameters of the image quality assessment.

    Attributes:
        enabled: Assess the quality of every camera and thermal image. Disable it to use all images as
            they are and to save computing time.
        min_quality: Quality score below which an image counts as missing for detection, segmentation
            and near field. Lower it to use poor images too; set it to 0 to never drop an image.
        warn_quality: Quality score below which the sensor's diagnostics status is a warning. Increase it
            to be warned earlier about blurred or badly exposed images; dirt on the lens does not lower
            the score.
        frozen_s: Time without a change of any sampled pixel after which an image is treated as frozen
            and its score becomes 0. Increase it for noise-free or heavily compressed streams; set it to
            0 to switch the check off.
        min_texture_factor: Lower limit of the factor for adversarial-looking texture, which colourful
            scenes can have as well. Decrease it to let such texture reduce the score further.
        texture_adaptation_s: Time constant with which a sensor's usual amount of colourful texture is
            adapted to the scene. Increase it to keep the factor low for longer when such texture
            persists.
    """

    enabled: bool = True
    min_quality: float = field(default=0.2, metadata={"min": 0.0, "max": 1.0})
    warn_quality: float = field(default=0.5, metadata={"min": 0.0, "max": 1.0})
    frozen_s: float = field(default=0.35, metadata={"min": 0.0, "max": 60.0, "unit": "s"})
    min_texture_factor: float = field(default=0.4, metadata={"min": 0.0, "max": 1.0})
    texture_adaptation_s: float = field(
        default=30.0, metadata={"min": 0.1, "max": 3600.0, "unit": "s"}
    )


@dataclass
class _SensorState:
    """State of one sensor.

    sample: pixels of the last image. since_ns: stamp of the last image that differed from the
    previous one. usual_fraction: slow mean of the fraction of pixels with adversarial-looking texture.
    """

    stamp_ns: int
    sample: NDArray[np.generic]
    since_ns: int
    usual_fraction: float = ADVERSARIAL_FRACTION[0]


class ImageQualityMonitor:
    """Assesses the images of frames in the order of their stamps."""

    def __init__(self, config: ImageQualityConfig | None = None) -> None:
        self.config = config or ImageQualityConfig()
        self.counts: Counter[str] = Counter()
        self._states: dict[str, _SensorState] = {}

    def assess(
        self, frame: SensorFrame, agreement: Mapping[str, float] | None = None
    ) -> dict[str, ImageQuality]:
        """Quality by camera and thermal sensor of the frame.

        agreement: by sensor, 0 to 1, how well its image agrees with other sensors' data (see
        CalibrationMonitor.agreement); sensors that are not listed count as agreeing.
        """
        if not self.config.enabled:
            return {}
        images: dict[str, CameraImage | ThermalImage] = {**frame.cameras, **frame.thermals}
        others = agreement or {}
        return {name: self._assess(image, others.get(name, 1.0)) for name, image in images.items()}

    def drop_low_quality(
        self, frame: SensorFrame, quality: Mapping[str, ImageQuality]
    ) -> SensorFrame:
        """The frame without images whose score is below min_quality; they count as missing."""
        dropped = {name for name, q in quality.items() if q.value < self.config.min_quality}
        if not dropped:
            return frame
        return replace(
            frame,
            cameras={n: i for n, i in frame.cameras.items() if n not in dropped},
            thermals={n: i for n, i in frame.thermals.items() if n not in dropped},
        )

    def _assess(self, image: CameraImage | ThermalImage, agreement: float) -> ImageQuality:
        small = _downscaled(image)
        grey = small if small.ndim == 2 else cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
        exposure = _exposure(image, grey)
        # The sharpness of a blank image is undefined, and its score is 0 anyway.
        sharpness = _sharpness(grey) if exposure > 0 else 1.0
        not_frozen, elapsed_s = self._not_frozen(image)
        texture = 1.0
        if small.ndim == 3:
            texture = self._texture(image.sensor, _adversarial_fraction(small), elapsed_s)
        cues = {
            "exposure": exposure,
            "sharpness": sharpness,
            "not_frozen": not_frozen,
            "texture": texture,
            "agreement": agreement,
        }
        return ImageQuality(float(np.prod(list(cues.values()))), cues)

    def _not_frozen(self, image: CameraImage | ThermalImage) -> tuple[float, float]:
        """0 for a frozen image, else 1; and the seconds since the last image (0 for the first one)."""
        # Sensors have noise, so two images of the same scene always differ in some of these pixels.
        sample = image.pixels[::8, ::8].copy()
        last = self._states.get(image.sensor)
        now_ns = image.stamp_ns
        if last is None or now_ns < last.stamp_ns:
            self._states[image.sensor] = _SensorState(now_ns, sample, now_ns)
            return 1.0, 0.0
        elapsed_s = (now_ns - last.stamp_ns) / NANOSECONDS_PER_SECOND
        if not np.array_equal(sample, last.sample):
            last.since_ns = now_ns
        last.stamp_ns, last.sample = now_ns, sample
        unchanged_s = (now_ns - last.since_ns) / NANOSECONDS_PER_SECOND
        frozen = 0 < self.config.frozen_s <= unchanged_s
        return (0.0 if frozen else 1.0), elapsed_s

    def _texture(self, sensor: str, fraction: float, elapsed_s: float) -> float:
        """Factor for the fraction of adversarial-looking pixels above the sensor's usual fraction."""
        state = self._states[sensor]
        excess = fraction - max(state.usual_fraction - ADVERSARIAL_FRACTION[0], 0.0)
        weight = 1.0 - np.exp(-elapsed_s / self.config.texture_adaptation_s)
        state.usual_fraction += (fraction - state.usual_fraction) * weight
        return max(1.0 - _ramp(excess, *ADVERSARIAL_FRACTION), self.config.min_texture_factor)


def _downscaled(image: CameraImage | ThermalImage) -> NDArray[np.uint8]:
    """A copy with a width up to WIDTH: (h, w, 3) uint8 RGB of colour cameras, else (h, w) uint8."""
    pixels = image.pixels if isinstance(image, CameraImage) else image.filled_pixels()
    small = np.ascontiguousarray(pixels)
    height, width = small.shape[:2]
    # First by an integer factor, for which OpenCV is several times faster.
    divisor = max(min(width // WIDTH, height), 1)
    if divisor > 1:
        small = small[: height - height % divisor, : width - width % divisor]
        size = small.shape[1] // divisor, small.shape[0] // divisor
        small = cv2.resize(small, size, interpolation=cv2.INTER_AREA)
    factor = min(WIDTH / small.shape[1], 1.0)
    size = round(small.shape[1] * factor), max(round(small.shape[0] * factor), 1)
    small = cv2.resize(small, size, interpolation=cv2.INTER_AREA)
    if isinstance(image, CameraImage):
        return np.ascontiguousarray(small[..., ::-1]) if image.encoding == "bgr8" else small
    return small if small.dtype == np.uint8 else auto_gain(small, VALUE_RANGE[1])


def _exposure(image: CameraImage | ThermalImage, grey: NDArray[np.uint8]) -> float:
    """0 for a constant image or one with mostly saturated pixels, 1 for a well exposed one."""
    full = image.pixels if isinstance(image, CameraImage) else image.filled_pixels()
    pixels = full[::8, ::8]
    low, high = np.percentile(pixels if pixels.dtype != np.uint8 else grey, (1, 99))
    top = np.iinfo(pixels.dtype).max
    bright = pixels if pixels.ndim == 2 else pixels.min(axis=2)
    saturated = float(np.mean(bright >= top - top // 50))
    return _ramp(float(high - low), *VALUE_RANGE) * (1.0 - _ramp(saturated, *SATURATED_FRACTION))


def _sharpness(grey: NDArray[np.uint8]) -> float:
    """0 for an image without fine structure (defocused, smeared or iced lens), 1 for a sharp one.

    Natural images have a similar amplitude in each octave (Field 1987), and blur reduces the finest
    octaves. The ratios of the mean absolute amplitudes of octaves do not depend on the contrast.
    Two ratios are used because noise raises the finest octave only.
    """
    values = grey.astype(np.float32)
    blurred = [values, *(cv2.GaussianBlur(values, (0, 0), s) for s in (1.0, 2.0, 4.0))]
    bands = [float(np.abs(a - b).mean()) + 1e-6 for a, b in pairwise(blurred)]
    return min(
        _ramp(bands[0] / bands[1], *FIRST_OCTAVE_RATIO),
        _ramp(bands[1] / bands[2], *SECOND_OCTAVE_RATIO),
    )


def _adversarial_fraction(small: NDArray[np.uint8]) -> float:
    """Fraction of pixels with adversarial-looking texture: strong local colours that cancel out.

    Printed patches that mislead networks have such texture.
    """
    chroma = cv2.cvtColor(small, cv2.COLOR_RGB2YCrCb)[..., 1:].astype(np.float32) - 128.0
    chroma = cv2.GaussianBlur(chroma, (0, 0), 0.7)
    size = (ADVERSARIAL_WINDOW, ADVERSARIAL_WINDOW)
    strength = cv2.blur(cv2.magnitude(chroma[..., 0], chroma[..., 1]), size)
    mean = cv2.blur(chroma, size)
    variation = strength - cv2.magnitude(mean[..., 0], mean[..., 1])
    return float(np.mean(variation > ADVERSARIAL_CHROMA))


def _ramp(value: float, low: float, high: float) -> float:
    """Linear from 0 at low to 1 at high, clipped."""
    return float(np.clip((value - low) / (high - low), 0.0, 1.0))
