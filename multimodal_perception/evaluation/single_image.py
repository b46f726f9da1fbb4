"""Frames of a single visible image, for data sets of images without calibration."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.frame import CameraImage, SensorFrame
from multimodal_perception.geometry.cameras import CameraModel

CAMERA = "camera"
# The networks use the size of the image only; a horizontal field of view of 60 degrees is assumed.
FOCAL_PER_WIDTH = 0.5 / np.tan(np.radians(30.0))


def single_image_frame(pixels: NDArray[np.uint8]) -> SensorFrame:
    """A frame with one image (H, W, 3) in BGR order of a camera at the origin of base_link."""
    height, width = pixels.shape[:2]
    pose = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
    return SensorFrame(
        0,
        cameras={CAMERA: CameraImage(CAMERA, 0, f"{CAMERA}_optical", pixels, "bgr8")},
        base_from_sensor={CAMERA: pose},
        intrinsics={CAMERA: CameraModel.pinhole(width, height, width * FOCAL_PER_WIDTH)},
        expected=frozenset((CAMERA,)),
    )


def only_camera(frame: SensorFrame, camera: str) -> SensorFrame:
    """The frame with the image of one camera and nothing else; the extrinsics remain."""
    return replace(
        frame,
        cameras={camera: frame.cameras[camera]},
        thermals={},
        lidars={},
        ultrasonics={},
        expected=frozenset((camera,)),
    )
