"""The pixels that attacks change, and the unit of their bounds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.evaluation.robustness.corruption import with_reading
from multimodal_perception.evaluation.robustness.image_faults import encoded
from multimodal_perception.frame import SensorFrame, ThermalImage
from multimodal_perception.images.thermal_normalization import ThermalNormaliser

# Levels of an image in which bounds are given.
LEVELS = 255.0


def with_pixels(frame: SensorFrame, sensor: str, pixels: NDArray[np.floating]) -> SensorFrame:
    """The frame with other pixels: levels (H, W, 3) of a camera, counts (H, W) of a thermal one."""
    camera = frame.cameras.get(sensor)
    if camera is not None:
        rgb = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
        return with_reading(frame, replace(camera, pixels=encoded(camera, rgb)))
    image = frame.thermals[sensor]
    top = np.iinfo(image.pixels.dtype).max
    counts = np.clip(np.rint(pixels), 0, top).astype(image.pixels.dtype)
    return with_reading(frame, replace(image, pixels=counts))


def image_pixels(frame: SensorFrame, sensor: str) -> tuple[NDArray[np.float32], float, float]:
    """Pixels as float32, their largest possible value, and the pixels' change for one level.

    A level of a camera is one step of 8 bits; of a thermal camera 1/255 of the range between the
    contrast limits of the image.
    """
    camera = frame.cameras.get(sensor)
    if camera is not None:
        return np.ascontiguousarray(camera.rgb()).astype(np.float32), 255.0, 1.0
    image = frame.thermals[sensor]
    pixels = image.filled_pixels().astype(np.float32)
    low, high = contrast_limits(image)
    return pixels, float(np.iinfo(image.pixels.dtype).max), (high - low) / LEVELS


def contrast_limits(image: ThermalImage) -> tuple[float, float]:
    """Counts that a thermal image is normalised between, as in its first frame."""
    return ThermalNormaliser().update_limits(image.filled_pixels(), image.stamp_ns)


def pixel_bound(levels: float, level: float) -> float:
    """Largest change of a pixel in whole counts, at least one. level: see image_pixels."""
    return max(float(np.floor(levels * level + 1e-6)), 1.0)
