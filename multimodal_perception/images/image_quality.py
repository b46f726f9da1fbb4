"""Quality score of images: exposure, sharpness, frozen frames, lens, texture and sensor agreement.

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
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.geometry.stamps import NANOSECONDS_PER_SECOND
from multimodal_perception.images.lens_obstruction import LensMonitor, flow_field
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
# Fraction of pixels with texture like adversarial patches; on real streets it is below the first value.
ADVERSARIAL_FRACTION = (0.004, 0.02)
# An image is frozen, apart from noise, if its coarse copy (px) differs from an earlier one by less than
# this fraction of its contrast while the vehicle has driven this distance, m. On simulated drives by day
# and night the difference is at least 0.08.
COARSE_SIZE, FROZEN_CONTRAST, FROZEN_DISTANCE = (40, 24), 0.04, 3.0
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
            to be warned earlier about blurred or badly exposed images.
        frozen_s: Time without a change of any sampled pixel, or without a change except noise while the
            vehicle moves, after which an image is treated as frozen and its score becomes 0. Increase it
            for noise-free or heavily compressed streams; set it to 0 to switch the check off.
        lens_distance: Distance that the vehicle must drive for one check of the lens for dirt, drops
            and other patches; two checks in a row must agree. Increase it if patches are reported that
            do not exist; set it to 0 to switch the check off.
        lens_covered: Fraction of the examined part of the lens that must be covered by patches for a
            warning. Increase it if small drops and dirt should not cause a warning.
        min_texture_factor: Lower limit of the factor for texture that resembles adversarial patches,
            which colourful scenes can have as well. Decrease it to let such texture reduce the score
            further.
        texture_adaptation_s: Time constant with which a sensor's usual amount of colourful texture is
            adapted to the scene. Increase it to keep the factor low for longer when such texture
            persists.
    """

    enabled: bool = True
    min_quality: float = field(default=0.2, metadata={"min": 0.0, "max": 1.0, "dynamic": True})
    warn_quality: float = field(default=0.5, metadata={"min": 0.0, "max": 1.0, "dynamic": True})
    frozen_s: float = field(default=0.35, metadata={"min": 0.0, "max": 60.0, "unit": "s"})
    lens_distance: float = field(default=15.0, metadata={"min": 0.0, "max": 1000.0, "unit": "m"})
    lens_covered: float = field(default=0.001, metadata={"min": 0.0, "max": 1.0})
    min_texture_factor: float = field(default=0.4, metadata={"min": 0.0, "max": 1.0})
    texture_adaptation_s: float = field(
        default=30.0, metadata={"min": 0.1, "max": 3600.0, "unit": "s"}
    )


@dataclass
class _SensorState:
    """State of one sensor.

    sample: pixels of the last image. since_ns: stamp of the last image that differed from the
    previous one. coarse, coarse_ns, coarse_m: coarse copy of the last image that differed by more than
    noise, its stamp, and the driven distance at that time. travelled: driven distance at the last image.
    unchanged_s: time without a change.
    usual_fraction: slow mean of the fraction of pixels with texture like adversarial patches.
    """

    stamp_ns: int
    sample: NDArray[np.generic]
    since_ns: int
    coarse: NDArray[np.float32]
    coarse_ns: int
    coarse_m: float
    travelled: float
    unchanged_s: float = 0.0
    usual_fraction: float = ADVERSARIAL_FRACTION[0]


class ImageQualityMonitor:
    """Assesses the images of frames in the order of their stamps."""

    def __init__(self, config: ImageQualityConfig | None = None) -> None:
        self.config = config or ImageQualityConfig()
        self.counts: Counter[str] = Counter()
        self._states: dict[str, _SensorState] = {}
        self._lenses: dict[str, tuple[CameraModel, LensMonitor]] = {}
        self._position: NDArray[np.float64] | None = None
        self._travelled = 0.0

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
        self._travelled += self._movement(frame)
        return {
            name: self._assess(image, others.get(name, 1.0), frame)
            for name, image in images.items()
        }

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

    def _movement(self, frame: SensorFrame) -> float:
        """Metres since the last frame; 0 without odometry."""
        last = self._position
        self._position = None if frame.odom_from_base is None else frame.odom_from_base[:3, 3]
        if last is None or self._position is None:
            return 0.0
        return float(np.linalg.norm(self._position - last))

    def _assess(
        self, image: CameraImage | ThermalImage, agreement: float, frame: SensorFrame
    ) -> ImageQuality:
        small = _downscaled(image)
        grey = small if small.ndim == 2 else cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
        exposure = _exposure(image, grey)
        # The sharpness of a blank image is undefined, and its score is 0 anyway.
        sharpness = _sharpness(grey) if exposure > 0 else 1.0
        not_frozen, elapsed_s, moved = self._not_frozen(image, grey)
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
        problems: tuple[str, ...] = ()
        if not not_frozen:
            unchanged_s = self._states[image.sensor].unchanged_s
            problems = (f"frozen: the image has not changed for {unchanged_s:.1f} s",)
        covered = self._covered_lens(image.sensor, grey, moved, frame)
        if covered is not None:
            dirty = covered >= self.config.lens_covered > 0.0
            cues["lens"] = 1.0 - min(covered, 1.0) if dirty else 1.0
            if dirty:
                patches = f"dirt, drops or other patches on the lens ({100 * covered:.1f} %)"
                problems = (*problems, patches)
        return ImageQuality(float(np.prod(list(cues.values()))), cues, problems)

    def _covered_lens(
        self, sensor: str, grey: NDArray[np.uint8], moved: float, frame: SensorFrame
    ) -> float | None:
        """Covered fraction of a lens; None if it is unknown (yet)."""
        model, pose = frame.intrinsics.get(sensor), frame.base_from_sensor.get(sensor)
        if model is None or pose is None or not self.config.lens_distance:
            return None
        last = self._lenses.get(sensor)
        if last is not None and _have_equal_views(last[0], model):
            lens = last[1]
        else:
            size = grey.shape[1], grey.shape[0]
            window_m = self.config.lens_distance
            lens = LensMonitor(flow_field(model, pose, size, window_m, frame.ground_z), window_m)
            self._lenses[sensor] = model, lens
        if lens.flow.examined.shape == grey.shape:
            lens.observe(grey, moved)
        return lens.covered

    def _not_frozen(
        self, image: CameraImage | ThermalImage, grey: NDArray[np.uint8]
    ) -> tuple[float, float, float]:
        """0 for a frozen image, else 1; and seconds and metres since the last image.

        Seconds and metres are 0 for the first image.
        """
        # Sensors have noise, so two images of the same scene always differ in some of these pixels.
        sample = image.pixels[::8, ::8].copy()
        coarse = cv2.resize(grey, COARSE_SIZE, interpolation=cv2.INTER_AREA).astype(np.float32)
        last = self._states.get(image.sensor)
        now_ns, travelled = image.stamp_ns, self._travelled
        if last is None or now_ns < last.stamp_ns:
            self._states[image.sensor] = _SensorState(
                now_ns, sample, now_ns, coarse, now_ns, travelled, travelled
            )
            self._lenses.pop(image.sensor, None)
            return 1.0, 0.0, 0.0
        elapsed_s = (now_ns - last.stamp_ns) / NANOSECONDS_PER_SECOND
        # A reading that is in several frames is one image.
        moved = travelled - last.travelled if elapsed_s > 0 else 0.0
        if elapsed_s > 0:
            last.travelled = travelled
        if not np.array_equal(sample, last.sample):
            last.since_ns = now_ns
        last.stamp_ns, last.sample = now_ns, sample
        difference = float(np.abs(coarse - last.coarse).mean())
        if difference >= FROZEN_CONTRAST * (float(last.coarse.std()) + 1.0):
            last.coarse, last.coarse_ns, last.coarse_m = coarse, now_ns, travelled
        unchanged_s = (now_ns - last.since_ns) / NANOSECONDS_PER_SECOND
        if last.travelled - last.coarse_m >= FROZEN_DISTANCE:
            noise_only_s = (now_ns - last.coarse_ns) / NANOSECONDS_PER_SECOND
            unchanged_s = max(unchanged_s, noise_only_s)
        last.unchanged_s = unchanged_s
        frozen = 0 < self.config.frozen_s <= unchanged_s
        return (0.0 if frozen else 1.0), elapsed_s, moved

    def _texture(self, sensor: str, fraction: float, elapsed_s: float) -> float:
        """Factor for the fraction of pixels with such texture above the sensor's usual fraction."""
        state = self._states[sensor]
        excess = fraction - max(state.usual_fraction - ADVERSARIAL_FRACTION[0], 0.0)
        weight = 1.0 - np.exp(-elapsed_s / self.config.texture_adaptation_s)
        state.usual_fraction += (fraction - state.usual_fraction) * weight
        return max(1.0 - _ramp(excess, *ADVERSARIAL_FRACTION), self.config.min_texture_factor)


def _have_equal_views(a: CameraModel, b: CameraModel) -> bool:
    return a is b or (
        (a.width, a.height, a.model) == (b.width, b.height, b.model)
        and np.array_equal(a.matrix, b.matrix)
        and np.array_equal(a.coefficients, b.coefficients)
    )


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
    """Fraction of pixels with texture like adversarial patches: strong local colours that cancel out.

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
