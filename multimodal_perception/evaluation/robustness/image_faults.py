"""Faults of the images of cameras and thermal cameras, applied to a frame.

Thermal images are changed in their own counts; faults in kelvin are converted with the calibration of a
radiometric camera. Of other thermal cameras, 30 K are the range between the 1st and the 99th percentile.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.evaluation.robustness import image_optics, image_weather
from multimodal_perception.evaluation.robustness.corruption import (
    FrameSource,
    NotApplicableError,
    generator,
    quantised,
    with_reading,
)
from multimodal_perception.evaluation.robustness.image_optics import Image
from multimodal_perception.evaluation.robustness.lidar_faults import rain_extinction
from multimodal_perception.frame import CameraImage, SensorFrame, ThermalImage

UNCALIBRATED_RANGE_K = 30.0
# Extinction at 10 um relative to visible light, as in the simulator (Beier and Gemperlein 2004).
THERMAL_EXTINCTION = 0.5
# Temperature noise of an image without flat-field correction, by column relative to by pixel.
COLUMN_SHARE = 1.0


def change_pixels(frame: SensorFrame, sensor: str, change: Callable[[Image], Image]) -> SensorFrame:
    """The frame with the image of a sensor changed; `change` gets values in [0, 1], channels last."""
    camera = frame.cameras.get(sensor)
    if camera is None:
        return _change_thermal(frame, frame.thermals[sensor], change)
    image = np.ascontiguousarray(camera.rgb()).astype(np.float32) / np.float32(255.0)
    pixels = quantised(255.0 * change(image), np.uint8)
    return with_reading(frame, replace(camera, pixels=encoded(camera, pixels)))


def encoded(camera: CameraImage, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """RGB pixels (H, W, 3) in the encoding of an image."""
    if camera.encoding == "bgr8":
        return np.ascontiguousarray(rgb[..., ::-1])
    if camera.encoding == "mono8":
        return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), np.uint8)
    return rgb


def low_light(frame: SensorFrame, sensor: str, value: float, source: FrameSource) -> SensorFrame:
    """The fraction `value` of the light."""
    rng = generator(source, "low_light", sensor)
    return change_pixels(frame, sensor, lambda i: image_optics.low_light(i, value, rng))


def motion_blur(frame: SensorFrame, sensor: str, value: float, source: FrameSource) -> SensorFrame:
    """Blur with a deviation of `value` pixels if the shorter side of the image has 224 pixels."""
    degrees = generator(source, "motion_blur", sensor).uniform(-45.0, 45.0)
    return change_pixels(frame, sensor, lambda i: image_optics.motion_blur(i, value, degrees))


def lens_dirt(frame: SensorFrame, sensor: str, value: float, source: FrameSource) -> SensorFrame:
    """Dirt on the fraction `value` of the lens."""
    return change_pixels(frame, sensor, lambda i: image_optics.lens_dirt(i, value, sensor))


def water_drops(frame: SensorFrame, sensor: str, value: float, source: FrameSource) -> SensorFrame:
    """`value` drops on the lens."""
    rng = generator(source, "water_drops", sensor, constant=True)
    return change_pixels(frame, sensor, lambda i: image_optics.water_drops(i, round(value), rng))


def sun_glare(frame: SensorFrame, sensor: str, value: float, source: FrameSource) -> SensorFrame:
    """Stray light of the sun; `value`: factor of the stray light, see image_optics.sun_glare."""
    rng = generator(source, "sun_glare", sensor, constant=True)
    return change_pixels(frame, sensor, lambda i: image_optics.sun_glare(i, value, rng))


def compress_jpeg(
    frame: SensorFrame, sensor: str, value: float, source: FrameSource
) -> SensorFrame:
    """JPEG with the quality `value`."""
    return change_pixels(frame, sensor, lambda i: image_optics.compress_jpeg(i, round(value)))


def fog(frame: SensorFrame, sensor: str, value: float, source: FrameSource) -> SensorFrame:
    """Fog with an extinction coefficient of `value` 1/m for visible light."""
    distance = image_weather.ground_distance(frame, sensor)
    rng = generator(source, "fog", sensor)
    if sensor in frame.thermals:
        return _warm_air(frame, sensor, distance, THERMAL_EXTINCTION * value)
    return change_pixels(frame, sensor, lambda i: image_weather.fog(i, distance, value, rng))


def rain(frame: SensorFrame, sensor: str, value: float, source: FrameSource) -> SensorFrame:
    """Rain of `value` mm/h."""
    distance = image_weather.ground_distance(frame, sensor)
    extinction, rng = rain_extinction(value), generator(source, "rain", sensor)
    if sensor in frame.thermals:
        return _warm_air(frame, sensor, distance, extinction)
    return change_pixels(
        frame, sensor, lambda i: image_weather.rain(i, distance, extinction, value, rng)
    )


def snow(frame: SensorFrame, sensor: str, value: float, source: FrameSource) -> SensorFrame:
    """ImageNet-C's snow of the severity `value`; only for visible light."""
    rng = generator(source, "snow", sensor)
    return change_pixels(frame, sensor, lambda i: image_weather.snow(i, round(value), rng))


def show_patch(frame: SensorFrame, sensor: str, value: float, source: FrameSource) -> SensorFrame:
    """The simulator's printed pattern of `value` metres on all objects (Thys et al. 2019)."""
    rendered = source.rendered(f"adversarial_patch={value:g}")
    if rendered is None:
        raise NotApplicableError("the patch needs simulated drives (--seeds)")
    return with_reading(frame, rendered.cameras[sensor])


def thermal_drift(
    frame: SensorFrame, sensor: str, value: float, source: FrameSource
) -> SensorFrame:
    """A drift of up to `value` kelvin since the last flat-field correction.

    It varies smoothly over the image, as the housing warms the sensor unevenly.
    """
    image = frame.thermals[sensor]
    rng = generator(source, "thermal_drift", sensor, constant=True)
    pattern = image_weather.cloud_pattern(image.pixels.shape, rng)
    spread = max(float(pattern.max() - pattern.min()), 1e-6)
    return _add_kelvin(frame, image, value * (pattern - pattern.min()) / spread)


def flat_field_failure(
    frame: SensorFrame, sensor: str, value: float, source: FrameSource
) -> SensorFrame:
    """Fixed-pattern noise of pixels and columns of `value` kelvin: missed flat-field corrections."""
    image = frame.thermals[sensor]
    rng = generator(source, "flat_field_failure", sensor, constant=True)
    shape = image.pixels.shape
    pattern = rng.standard_normal(shape) + COLUMN_SHARE * rng.standard_normal((1, shape[1]))
    return _add_kelvin(frame, image, value * pattern)


def counts_per_kelvin(image: ThermalImage) -> float:
    """Counts of a thermal image for a difference of one kelvin."""
    if image.counts_to_kelvin is not None:
        return 1.0 / image.counts_to_kelvin[0]
    low, high = np.percentile(image.filled_pixels(), (1, 99))
    return max(float(high - low), 1.0) / UNCALIBRATED_RANGE_K


def _change_thermal(
    frame: SensorFrame, image: ThermalImage, change: Callable[[Image], Image]
) -> SensorFrame:
    """Change a thermal image whose range is mapped to [0, 1]."""
    counts = image.filled_pixels().astype(np.float32)
    low, high = float(counts.min()), max(float(counts.max()), float(counts.min()) + 1.0)
    changed = change(((counts - low) / (high - low))[..., None])[..., 0]
    pixels = quantised(low + (high - low) * changed, image.pixels.dtype)
    return with_reading(frame, replace(image, pixels=pixels))


def _add_kelvin(
    frame: SensorFrame, image: ThermalImage, kelvin: NDArray[np.floating]
) -> SensorFrame:
    counts = image.pixels.astype(np.float64) + kelvin * counts_per_kelvin(image)
    return with_reading(frame, replace(image, pixels=quantised(counts, image.pixels.dtype)))


def _warm_air(
    frame: SensorFrame, sensor: str, distance: NDArray[np.float32], extinction: float
) -> SensorFrame:
    """A thermal image through fog or rain, which has the temperature of the air: the median."""
    return change_pixels(
        frame,
        sensor,
        lambda i: image_weather.haze(i, distance, extinction, float(np.median(i))),
    )
