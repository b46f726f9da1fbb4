"""Pictures of a sensor's reading, clean and changed side by side."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.frame import LidarSweep, SensorFrame, UltrasonicReading
from multimodal_perception.visualization.camera_view import thermal_colours
from multimodal_perception.visualization.canvas import Canvas
from multimodal_perception.visualization.error_view import encode_jpeg

HEIGHT = 180  # of a picture, pixels
EXTENT_M, CANVAS = 30.0, 360
# Factor by which the difference of an attacked image is shown.
AMPLIFICATION = 8


def comparison_picture(
    clean: SensorFrame, changed: SensorFrame, sensor: str, difference: bool = False
) -> bytes:
    """JPEG of the reading before and after; empty for sensors without a picture.

    difference: also show the amplified difference. A missing reading is black.
    """
    before = _draw(clean, sensor)
    if before is None:
        return b""
    after = _draw(changed, sensor)
    parts = [before, np.zeros_like(before) if after is None else after]
    if difference and parts[1].shape == before.shape:
        change = parts[1].astype(np.int16) - before
        parts.append(np.clip(128 + AMPLIFICATION * change, 0, 255).astype(np.uint8))
    return encode_jpeg(np.concatenate([_scaled(p) for p in parts], axis=1))


def _draw(frame: SensorFrame, sensor: str) -> NDArray[np.uint8] | None:
    reading = frame.readings.get(sensor)
    if reading is None or isinstance(reading, UltrasonicReading):
        return None
    if isinstance(reading, LidarSweep):
        canvas = Canvas.blank(EXTENT_M, CANVAS)
        pose = frame.base_from_sensor.get(sensor, np.eye(4))
        points = reading.points[:, :3] @ pose[:3, :3].T + pose[:3, 3]
        shade = np.clip(90 + 60 * points[:, 2:3], 60, 255).astype(np.uint8)
        canvas.draw_points(points[:, :2], np.repeat(shade, 3, axis=1))
        canvas.draw_ego()
        return canvas.image
    camera = frame.cameras.get(sensor)
    if camera is not None:
        return np.ascontiguousarray(camera.rgb())
    return thermal_colours(frame.thermals[sensor])


def _scaled(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    width = max(round(image.shape[1] * HEIGHT / image.shape[0]), 1)
    return np.asarray(cv2.resize(image, (width, HEIGHT), interpolation=cv2.INTER_AREA), np.uint8)
