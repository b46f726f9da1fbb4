"""Calibration of the sensors in a rig file: extrinsics, intrinsics, limits of ultrasonic sensors."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.frame import Modality
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.cameras import CameraModel, Distortion

# Largest coordinate of a sensor in the base frame.
MAX_MOUNTING_M = 100.0


@dataclass(frozen=True)
class Extrinsics:
    """Mounting pose of a sensor: base_from_sensor.

    Attributes:
        xyz: Position of the sensor in the base frame. Change it to the measured or calibrated
            position.
        rpy: Roll, pitch and yaw of the sensor about the fixed axes x, y, z of the base frame, as in
            URDF. Change it to the measured or calibrated orientation.
        optical: Whether rpy describes the optical frame (z forward, x right, y down) of a camera.
            Keep it false if rpy describes the camera body (x forward, y left, z up); the optical
            rotation of REP 103 is then added. Set it to true for calibrations of the optical frame.
    """

    xyz: tuple[float, float, float] = field(metadata={"unit": "m"})
    rpy: tuple[float, float, float] = field(default=(0.0, 0.0, 0.0), metadata={"unit": "rad"})
    optical: bool = False

    def __post_init__(self) -> None:
        if not all(abs(value) <= MAX_MOUNTING_M for value in self.xyz):
            raise ValueError(f"xyz: allowed: up to {MAX_MOUNTING_M:g} m (metres); got {self.xyz}")
        if not all(abs(value) <= 2 * math.pi for value in self.rpy):
            raise ValueError(f"rpy: allowed: -2 pi to 2 pi (radians); got {self.rpy}")

    def matrix(self, modality: Modality) -> NDArray[np.float64]:
        """Return base_from_sensor (4, 4); for cameras and thermal cameras, of the optical frame."""
        pose = poses.from_xyz_rpy(self.xyz, self.rpy)
        if modality in (Modality.CAMERA, Modality.THERMAL) and not self.optical:
            pose = pose @ BODY_FROM_OPTICAL
        return pose

    @classmethod
    def from_matrix(
        cls, base_from_sensor: NDArray[np.float64], modality: Modality, optical: bool = False
    ) -> Extrinsics:
        """Return the extrinsics entry of a rig file for base_from_sensor (4, 4)."""
        pose = base_from_sensor
        if modality in (Modality.CAMERA, Modality.THERMAL) and not optical:
            pose = pose @ poses.inverse(BODY_FROM_OPTICAL)
        x, y, z = (round(float(v), 6) for v in pose[:3, 3])
        roll, pitch, yaw = (round(float(v), 7) for v in poses.to_rpy(pose))
        return cls((x, y, z), (roll, pitch, yaw), optical)


# Body (x forward) from optical (z forward), REP 103.
BODY_FROM_OPTICAL = poses.from_xyz_rpy((0, 0, 0), (-math.pi / 2, 0, -math.pi / 2))


@dataclass(frozen=True)
class Intrinsics:
    """Intrinsics of a camera or thermal camera in a rig file.

    Attributes:
        width: Width of the image. Change it to the width of the published images.
        height: Height of the image. Change it to the height of the published images.
        fx: Focal length in x. Set it to the value of the camera calibration.
        fy: Focal length in y. Set it to the value of the camera calibration.
        cx: Column of the principal point. Set it to the value of the camera calibration.
        cy: Row of the principal point. Set it to the value of the camera calibration.
        model: Distortion model: pinhole (no distortion), plumb_bob, rational_polynomial or
            equidistant. Use equidistant for fisheye lenses.
        coefficients: Distortion coefficients in the order of OpenCV. Set as many as the model
            takes; keep the list empty for pinhole.
    """

    width: int = field(metadata={"min": 1, "max": 20000, "unit": "px"})
    height: int = field(metadata={"min": 1, "max": 20000, "unit": "px"})
    fx: float = field(metadata={"unit": "px"})
    fy: float = field(metadata={"unit": "px"})
    cx: float = field(metadata={"unit": "px"})
    cy: float = field(metadata={"unit": "px"})
    model: Distortion = "pinhole"
    coefficients: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        self.camera_model()

    def camera_model(self) -> CameraModel:
        """Return the camera model. Raises ValueError if the values are invalid."""
        matrix = np.array([[self.fx, 0, self.cx], [0, self.fy, self.cy], [0, 0, 1.0]])
        return CameraModel(
            self.width, self.height, matrix, self.model, np.array(self.coefficients, np.float64)
        )


@dataclass(frozen=True)
class RangeLimits:
    """Measuring limits of an ultrasonic sensor; used by the simulator and by `rig check`.

    Attributes:
        min_range: Shortest distance that the sensor measures. Set it to the value of the data
            sheet.
        max_range: Longest distance that the sensor measures. Set it to the value of the data sheet.
        field_of_view: Full opening angle of the sensor's cone. Set it to the value of the data
            sheet.
    """

    min_range: float = field(metadata={"min": 0.0, "max": 100.0, "unit": "m"})
    max_range: float = field(metadata={"min": 0.0, "max": 100.0, "unit": "m"})
    field_of_view: float = field(metadata={"min": 1e-3, "max": math.pi, "unit": "rad"})

    def __post_init__(self) -> None:
        if not self.min_range < self.max_range:
            raise ValueError("min_range must be below max_range")
