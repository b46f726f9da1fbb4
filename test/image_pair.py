"""A camera and the thermal camera beside it, for the tests of every stage that takes both."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from multimodal_perception.frame import CameraImage, SensorFrame, ThermalImage

CAMERA, THERMAL = "camera_front", "thermal_front"


def with_camera(frame: SensorFrame, pixels: np.ndarray) -> SensorFrame:
    """The frame with this camera image alone beside its thermal one."""
    image = CameraImage(CAMERA, frame.stamp_ns, "c", np.ascontiguousarray(pixels))
    return replace(frame, cameras={CAMERA: image})


def with_thermal(frame: SensorFrame, pixels: np.ndarray) -> SensorFrame:
    """The frame with this thermal image."""
    return replace(frame, thermals={THERMAL: ThermalImage(THERMAL, frame.stamp_ns, "t", pixels)})


def resized(frame: SensorFrame, width: int, height: int) -> SensorFrame:
    """The frame as a camera of this size would give it."""
    rows, columns = frame.cameras[CAMERA].pixels.shape[:2]
    pixels = cv2.resize(frame.cameras[CAMERA].pixels, (width, height))
    model = frame.intrinsics[CAMERA].scaled(width / columns, height / rows)
    intrinsics = {**frame.intrinsics, CAMERA: model}
    return replace(with_camera(frame, pixels), intrinsics=intrinsics)
