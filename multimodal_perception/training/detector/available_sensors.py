"""Missing sensors of training frames of the fusion detector."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class DropoutConfig:
    """Fractions of training frames with missing sensors; all other frames have all sensors.

    Attributes:
        images: Fraction of frames without cameras and thermal cameras. Increase it when the detector
            must work with the LiDAR only.
        lidar: Fraction of frames without LiDAR. Increase it when the detector must work with images
            only.
        cameras: Fraction of frames without cameras but with thermal cameras. Increase it for vehicles
            whose cameras often fail, for instance at night.
        thermal_cameras: Fraction of frames without thermal cameras but with cameras. Increase it for
            vehicles without thermal cameras.
        ultrasonics: Fraction of frames without ultrasonic sensors, independent of the others. Increase
            it for vehicles without them.
        without_lidar_weight: Weight of a frame without LiDAR in the loss of the proposal network.
            Decrease it when the localisation with LiDAR gets worse: positions from images alone are
            inaccurate and have large losses.
    """

    images: float = field(default=0.2, metadata={"min": 0.0, "max": 1.0})
    lidar: float = field(default=0.1, metadata={"min": 0.0, "max": 1.0})
    cameras: float = field(default=0.1, metadata={"min": 0.0, "max": 1.0})
    thermal_cameras: float = field(default=0.1, metadata={"min": 0.0, "max": 1.0})
    ultrasonics: float = field(default=0.2, metadata={"min": 0.0, "max": 1.0})
    without_lidar_weight: float = field(default=0.25, metadata={"min": 0.0, "max": 1.0})

    def __post_init__(self) -> None:
        if self.images + self.lidar + self.cameras + self.thermal_cameras > 1.0:
            raise ValueError(
                "images, lidar, cameras and thermal_cameras must not sum to more than 1"
            )


@dataclass(frozen=True)
class AvailableSensors:
    """Which modalities a training frame contains."""

    lidar: bool
    cameras: bool
    thermal_cameras: bool
    ultrasonics: bool


def draw_available_sensors(config: DropoutConfig, rng: np.random.Generator) -> AvailableSensors:
    """Draw the modalities of a frame."""
    draw = rng.random()
    edges = np.cumsum([config.images, config.lidar, config.cameras, config.thermal_cameras])
    case = int(np.searchsorted(edges, draw, side="right"))
    return AvailableSensors(
        lidar=case != 1,
        cameras=case not in (0, 2),
        thermal_cameras=case not in (0, 3),
        ultrasonics=bool(rng.random() >= config.ultrasonics),
    )
