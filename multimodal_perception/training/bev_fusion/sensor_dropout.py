"""Missing sensors in training frames, so that one network works with every subset of the sensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class SensorDropoutConfig:
    """Fractions of training frames with missing sensors.

    A frame always keeps its LiDAR or an image. Frames of rigs without LiDAR or without images are not
    counted in these fractions.

    Attributes:
        lidar: Fraction of the frames without LiDAR among those with images. Increase it when the
            detector must work with images only.
        images: Fraction of the frames without any image among those with LiDAR. Increase it when the
            detector must work with the LiDAR only.
        cameras: Fraction of the frames without cameras but with thermal cameras. Increase it for
            vehicles whose cameras often fail, for instance at night.
        thermal_cameras: Fraction of the frames without thermal cameras but with cameras. Increase it
            for vehicles without thermal cameras.
        each_image: Fraction of the other images that are missing, each independently of the others.
            Increase it for robustness against failures of single cameras.
        ultrasonics: Fraction of the frames without ultrasonic sensors, independent of the others.
            Increase it for vehicles without them.
        past_sweeps: Fraction of the frames without past sweeps; the others have a random number of
            them, mostly all. Increase it for vehicles without odometry.
        without_lidar_weight: Weight of a frame without LiDAR in the losses of the boxes. Decrease it
            when the localisation with LiDAR gets worse: positions from images alone are inaccurate and
            have large losses.
    """

    lidar: float = field(default=0.3, metadata={"min": 0.0, "max": 1.0})
    images: float = field(default=0.2, metadata={"min": 0.0, "max": 1.0})
    cameras: float = field(default=0.08, metadata={"min": 0.0, "max": 1.0})
    thermal_cameras: float = field(default=0.08, metadata={"min": 0.0, "max": 1.0})
    each_image: float = field(default=0.12, metadata={"min": 0.0, "max": 1.0})
    ultrasonics: float = field(default=0.2, metadata={"min": 0.0, "max": 1.0})
    past_sweeps: float = field(default=0.15, metadata={"min": 0.0, "max": 1.0})
    without_lidar_weight: float = field(default=0.5, metadata={"min": 0.0, "max": 1.0})

    def __post_init__(self) -> None:
        if self.lidar + self.images > 1.0 or self.cameras + self.thermal_cameras > 1.0:
            raise ValueError(
                "lidar and images, and cameras and thermal_cameras, must not sum to more than 1"
            )


@dataclass(frozen=True)
class FrameSensors:
    """The sensors of a training frame. images: keys of the images. past_sweeps: how many."""

    lidar: bool
    images: tuple[str, ...]
    ultrasonics: bool
    past_sweeps: int


def draw_sensors(
    config: SensorDropoutConfig,
    has_lidar: bool,
    images: Sequence[str],
    past_sweeps: int,
    rng: np.random.Generator,
) -> FrameSensors:
    """Draw the sensors of a frame.

    images: keys of the frame's images, which start with their modality. past_sweeps: available ones. The
    number of random draws does not depend on the result.
    """
    which, modality, ultrasonic, past, count = rng.random(5)
    single = rng.random(len(images)) < config.each_image
    lidar, kept = has_lidar, list(images)
    if images and has_lidar:
        lidar = which >= config.lidar
        if config.lidar <= which < config.lidar + config.images:
            kept = []
    cameras = [k for k in kept if k.startswith("camera")]
    thermals = [k for k in kept if not k.startswith("camera")]
    if cameras and thermals:
        if modality < config.cameras:
            kept = thermals
        elif modality < config.cameras + config.thermal_cameras:
            kept = cameras
    rest = [k for k, off in zip(images, single, strict=True) if k in kept and not off]
    if rest or lidar:
        kept = rest
    number = past_sweeps if count < 0.7 else int((count - 0.7) / 0.3 * past_sweeps) + 1
    return FrameSensors(
        lidar,
        tuple(kept),
        bool(ultrasonic >= config.ultrasonics),
        0 if past < config.past_sweeps or not lidar else min(number, past_sweeps),
    )
