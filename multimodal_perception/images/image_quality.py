"""How far each image can be trusted: exposure, sharpness, motion, loud prints, what others see.

Cues are measured on a small copy of each image, so that they cost little and one scale fits all cameras;
each becomes a factor from 0 to 1, and the trust is their product. Night, fog, rain and glare leave real
images trustworthy: what counts is whether an image tells anything, not whether it is a fine one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.frame import CameraImage, SensorFrame, ThermalImage
from multimodal_perception.geometry.stamps import NANOSECONDS
from multimodal_perception.images.thermal_normalization import gain_controlled
from multimodal_perception.perception import ImageTrust

# Width of the small copy, pixels. Its finest octaves tell blur of 0.3 % of the width and more.
WIDTH = 320
# Grey levels that an image spans (of 255; of a radiometric one, counts): nothing shown, enough.
SPAN = (4.0, 24.0)
# Share of saturated pixels: bright sky is harmless, a blinded camera is not.
SATURATED = (0.35, 0.8)
# Means of the finest octave over the next, and of that over the third: real images lie above.
FINEST, SECOND = (0.5, 0.8), (0.4, 0.6)
# Share of pixels amid many strong colours: of real streets below the first.
LOUD = (0.004, 0.02)
# Strength of such colours, chroma levels, and the neighbourhood, pixels of the small copy.
LOUD_CHROMA, LOUD_SIZE = 12.0, 7


@dataclass(frozen=True)
class TrustConfig:
    """Trust in images.

    enabled: whether images are judged. absent_below: an image trusted less counts as missing for
    detector, segmentation and near field; 0 is never. warn_below: diagnostics warn. frozen_s: time
    over which not one pixel changes, after which an image is worth nothing; 0 is never. loud_least:
    the lowest factor of a loud print, which can be a colourful place as well. follow_s: time in which a
    place's colours become the usual.
    """

    enabled: bool = True
    absent_below: float = field(default=0.2, metadata={"min": 0.0, "max": 1.0})
    warn_below: float = field(default=0.5, metadata={"min": 0.0, "max": 1.0})
    frozen_s: float = field(default=0.35, metadata={"min": 0.0, "max": 60.0, "unit": "s"})
    loud_least: float = field(default=0.4, metadata={"min": 0.0, "max": 1.0})
    follow_s: float = field(default=30.0, metadata={"min": 0.1, "max": 3600.0, "unit": "s"})


@dataclass
class _Memory:
    """What is kept of one sensor: a sample of its last image, since when it stands, usual loudness."""

    stamp_ns: int
    sample: NDArray[np.generic]
    since_ns: int
    usual: float = LOUD[0]


class TrustMonitor:
    """Judges the images of frames in the order of their stamps.

    agreement: by sensor, 0 to 1, how far other sensors see the same (registration.watch tells), to be
    replaced whole; sensors that it lacks are not doubted.
    """

    def __init__(self, config: TrustConfig | None = None) -> None:
        self.config = config or TrustConfig()
        self.agreement: Mapping[str, float] = {}
        self._memory: dict[str, _Memory] = {}

    def judge(self, frame: SensorFrame) -> dict[str, ImageTrust]:
        """Trust by camera and thermal sensor of the frame."""
        if not self.config.enabled:
            return {}
        images: dict[str, CameraImage | ThermalImage] = {**frame.cameras, **frame.thermals}
        return {name: self._judge(image) for name, image in images.items()}

    def believed(self, frame: SensorFrame, trust: Mapping[str, ImageTrust]) -> SensorFrame:
        """The frame without the images that are trusted too little: they are missing then."""
        least = self.config.absent_below
        lost = {name for name, told in trust.items() if told.value < least}
        if not lost:
            return frame
        return replace(
            frame,
            cameras={n: i for n, i in frame.cameras.items() if n not in lost},
            thermals={n: i for n, i in frame.thermals.items() if n not in lost},
        )

    def _judge(self, image: CameraImage | ThermalImage) -> ImageTrust:
        small = _small(image)
        grey = small if small.ndim == 2 else cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
        exposure = _exposure(image, grey)
        # Of an image that shows nothing sharpness cannot be told, nor need it be.
        sharpness = _sharpness(grey) if exposure > 0 else 1.0
        motion, elapsed_s = self._motion(image)
        loudness = 1.0
        if small.ndim == 3:
            loudness = self._loudness(image.sensor, _loud_share(small), elapsed_s)
        cues = {
            "exposure": exposure,
            "sharpness": sharpness,
            "motion": motion,
            "loudness": loudness,
            "agreement": self.agreement.get(image.sensor, 1.0),
        }
        return ImageTrust(float(np.prod(list(cues.values()))), cues)

    def _motion(self, image: CameraImage | ThermalImage) -> tuple[float, float]:
        """0 for a frozen image, else 1; and the seconds since the last one, 0 without."""
        # Sensors have noise: of two images of one scene, some of these pixels always differ.
        sample = image.pixels[::8, ::8].copy()
        last = self._memory.get(image.sensor)
        now_ns = image.stamp_ns
        if last is None or now_ns < last.stamp_ns:
            self._memory[image.sensor] = _Memory(now_ns, sample, now_ns)
            return 1.0, 0.0
        elapsed_s = (now_ns - last.stamp_ns) / NANOSECONDS
        if not np.array_equal(sample, last.sample):
            last.since_ns = now_ns
        last.stamp_ns, last.sample = now_ns, sample
        still_s = (now_ns - last.since_ns) / NANOSECONDS
        frozen = 0 < self.config.frozen_s <= still_s
        return (0.0 if frozen else 1.0), elapsed_s

    def _loudness(self, sensor: str, share: float, elapsed_s: float) -> float:
        """Factor of a share of loud pixels beyond what has become usual for the sensor."""
        memory = self._memory[sensor]
        excess = share - max(memory.usual - LOUD[0], 0.0)
        memory.usual += (share - memory.usual) * (1.0 - np.exp(-elapsed_s / self.config.follow_s))
        return max(1.0 - _ramp(excess, *LOUD), self.config.loud_least)


def _small(image: CameraImage | ThermalImage) -> NDArray[np.uint8]:
    """A copy WIDTH wide at most: (h, w, 3) uint8 RGB of colour cameras, else (h, w) uint8."""
    small = np.ascontiguousarray(image.pixels)
    height, width = small.shape[:2]
    # First by a whole number, for which OpenCV is several times faster.
    whole = max(min(width // WIDTH, height), 1)
    if whole > 1:
        small = small[: height - height % whole, : width - width % whole]
        size = small.shape[1] // whole, small.shape[0] // whole
        small = cv2.resize(small, size, interpolation=cv2.INTER_AREA)
    factor = min(WIDTH / small.shape[1], 1.0)
    size = round(small.shape[1] * factor), max(round(small.shape[0] * factor), 1)
    small = cv2.resize(small, size, interpolation=cv2.INTER_AREA)
    if isinstance(image, CameraImage):
        return np.ascontiguousarray(small[..., ::-1]) if image.encoding == "bgr8" else small
    return small if small.dtype == np.uint8 else gain_controlled(small, SPAN[1])


def _exposure(image: CameraImage | ThermalImage, grey: NDArray[np.uint8]) -> float:
    """0 for an image of one value, or one whose pixels are almost all saturated."""
    pixels = image.pixels[::8, ::8]
    low, high = np.percentile(pixels if pixels.dtype != np.uint8 else grey, (1, 99))
    top = np.iinfo(pixels.dtype).max
    bright = pixels if pixels.ndim == 2 else pixels.min(axis=2)
    saturated = float(np.mean(bright >= top - top // 50))
    return _ramp(float(high - low), *SPAN) * (1.0 - _ramp(saturated, *SATURATED))


def _sharpness(grey: NDArray[np.uint8]) -> float:
    """0 for an image without its finest structure: out of focus, smeared or iced over.

    Natural images have alike energy in each octave (Field 1987); the share that a blur takes from the
    finest ones tells it, whatever the contrast. Noise feigns the finest one alone, hence two ratios.
    """
    values = grey.astype(np.float32)
    blurred = [values, *(cv2.GaussianBlur(values, (0, 0), s) for s in (1.0, 2.0, 4.0))]
    bands = [float(np.abs(a - b).mean()) + 1e-6 for a, b in pairwise(blurred)]
    return min(_ramp(bands[0] / bands[1], *FINEST), _ramp(bands[1] / bands[2], *SECOND))


def _loud_share(small: NDArray[np.uint8]) -> float:
    """Share of pixels amid strong colours that cancel out: prints made to mislead networks have them."""
    chroma = cv2.cvtColor(small, cv2.COLOR_RGB2YCrCb)[..., 1:].astype(np.float32) - 128.0
    chroma = cv2.GaussianBlur(chroma, (0, 0), 0.7)
    size = (LOUD_SIZE, LOUD_SIZE)
    strength = cv2.blur(cv2.magnitude(chroma[..., 0], chroma[..., 1]), size)
    common = cv2.blur(chroma, size)
    left = strength - cv2.magnitude(common[..., 0], common[..., 1])
    return float(np.mean(left > LOUD_CHROMA))


def _ramp(value: float, low: float, high: float) -> float:
    """0 up to low, 1 from high, straight between."""
    return float(np.clip((value - low) / (high - low), 0.0, 1.0))
