"""Fog, rain and snow in images. Images are float32 arrays (H, W, channels) in [0, 1].

Fog and rain attenuate the light of the scene and add scattered light (Koschmieder
1924). The distance of each pixel is that of flat ground, as recorded images have no depth. Snow is that
of ImageNet-C (Hendrycks and Dietterich 2019).
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.evaluation.robustness.image_optics import (
    Image,
    length_scale,
    motion_blur,
)
from multimodal_perception.frame import SensorFrame

# Distance of pixels above the horizon and of distant ground, metres: buildings and trees are nearer than
# the horizon.
FAR = 80.0
# Fog scatters daylight: almost white. Relative variation of its density.
FOG_BRIGHTNESS, DENSITY_VARIATION = 0.85, 0.25
MAX_STREAKS = 1600
# ImageNet-C's snow by severity: mean and deviation of the flakes' brightness, size of the flakes,
# threshold, deviation of the blur and fraction of the image that stays.
SNOW = (
    (0.10, 0.3, 3.0, 0.50, 4.0, 0.80),
    (0.20, 0.3, 2.0, 0.50, 4.0, 0.70),
    (0.55, 0.3, 4.0, 0.90, 8.0, 0.70),
    (0.55, 0.3, 4.5, 0.85, 8.0, 0.65),
    (0.55, 0.3, 2.5, 0.85, 12.0, 0.55),
)


def ground_distance(frame: SensorFrame, sensor: str) -> NDArray[np.float32]:
    """Distance (H, W) of each pixel's ray to flat ground, metres, at most FAR.

    FAR everywhere for a camera without calibration. Computed at every eighth pixel and interpolated.
    """
    pixels = (frame.cameras.get(sensor) or frame.thermals[sensor]).pixels
    height, width = pixels.shape[:2]
    model = frame.intrinsics.get(sensor)
    if model is None or sensor not in frame.base_from_sensor:
        return np.full((height, width), FAR, np.float32)
    pose = frame.base_from_sensor[sensor]
    coarse = model.scaled(max(width // 8, 2) / model.width, max(height // 8, 2) / model.height)
    v, u = np.mgrid[0 : coarse.height, 0 : coarse.width]
    rays = coarse.unproject(np.column_stack([u.ravel(), v.ravel()])) @ pose[:3, :3].T
    # The inverse of the distance is smooth, also at the horizon.
    height_below = min(float(frame.ground_z - pose[2, 3]), -0.01)
    inverse = np.nan_to_num(rays[:, 2] / height_below, nan=0.0)
    inverse = np.maximum(inverse, 1.0 / FAR).astype(np.float32).reshape(v.shape)
    full = cv2.resize(inverse, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(1.0 / full, np.float32)


def haze(image: Image, distance: NDArray[np.float32], extinction: float, air: float) -> Image:
    """Attenuated light of the scene, plus the light that the air scatters or emits.

    distance: (H, W) metres. extinction: 1/m. air: value of the scattered (or emitted) light.
    """
    remaining = np.exp(-np.float32(extinction) * distance)[..., None]
    return np.asarray(remaining * image + (1.0 - remaining) * np.float32(air), np.float32)


def fog(image: Image, distance: NDArray[np.float32], extinction: float, rng: Any) -> Image:
    """Fog whose density varies over the image, as in ImageNet-C."""
    density = 1.0 + DENSITY_VARIATION * cloud_pattern(image.shape[:2], rng)
    return haze(image, distance * density, extinction, FOG_BRIGHTNESS)


def rain(
    image: Image, distance: NDArray[np.float32], extinction: float, rate: float, rng: Any
) -> Image:
    """Rain of `rate` mm/h: haze, and streaks whose number grows with the rate.

    Drops that fall during the exposure are bright streaks (Garg and Nayar 2007).
    """
    result = haze(image, distance, extinction, 0.6)
    height, width = image.shape[:2]
    starts = rng.random((MAX_STREAKS, 2)) * (width, height)
    lengths = height * rng.uniform(0.02, 0.12, MAX_STREAKS)
    slope = rng.normal(0.0, 0.1)
    streaks = np.zeros((height, width), np.float32)
    count = min(round(14.0 * rate), MAX_STREAKS)
    for (u, v), length in zip(starts[:count], lengths, strict=False):
        end = int(u + slope * length), int(v + length)
        cv2.line(streaks, (int(u), int(v)), end, 1.0, max(width // 640, 1), cv2.LINE_AA)
    streaks = cv2.GaussianBlur(streaks, (0, 0), 0.7)[..., None]
    return np.clip(result + 0.25 * streaks, 0.0, 1.0)


def snow(image: Image, severity: int, rng: Any) -> Image:
    """ImageNet-C's snow: moving flakes in front of a brighter, paler scene."""
    mean, deviation, size, threshold, blur, kept = SNOW[severity - 1]
    height, width = image.shape[:2]
    size = max(size * length_scale(image), 1.0)
    shape = int(np.ceil(height / size)), int(np.ceil(width / size))
    layer = (mean + deviation * rng.standard_normal(shape)).astype(np.float32)
    layer = np.asarray(cv2.resize(layer, (width, height), interpolation=cv2.INTER_LINEAR))
    layer = np.where(layer < threshold, np.float32(0.0), np.clip(layer, 0.0, 1.0))
    flakes = motion_blur(layer[..., None], blur, -90.0 + rng.uniform(-45.0, 45.0))
    grey = image.mean(axis=2, keepdims=True)
    pale = kept * image + (1.0 - kept) * np.maximum(image, 1.5 * grey + 0.5)
    return np.clip(pale + flakes + flakes[::-1, ::-1], 0.0, 1.0)


def cloud_pattern(shape: tuple[int, int], rng: Any) -> NDArray[np.float32]:
    """A smooth random pattern (H, W) from -1 to 1: the sum of octaves with half the amplitude each."""
    total = np.zeros(shape, np.float32)
    amplitude = 0.5
    for cells in (2, 4, 8, 16):
        values = rng.uniform(-1.0, 1.0, (cells + 1, cells + 1)).astype(np.float32)
        total += amplitude * cv2.resize(values, shape[::-1], interpolation=cv2.INTER_CUBIC)
        amplitude *= 0.5
    return np.clip(total, -1.0, 1.0)
