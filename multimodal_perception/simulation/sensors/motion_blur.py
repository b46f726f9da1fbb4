"""Motion blur: the light of each pixel is averaged along its motion during the exposure.

The motion of a pixel follows from the motion of the camera and of the surface that the pixel shows
(depth-based motion blur, Rosado 2007).
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.geometry import poses
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.kernels import njit
from multimodal_perception.simulation.world.scene import RayHits, Scene

# The motion is computed at every eighth pixel and interpolated between.
SAMPLE_STRIDE = 8
# Longer motions are clipped, in x and in y.
MAX_BLUR_PIXELS = 32.0


def pixel_motion(
    model: CameraModel,
    scene: Scene,
    hits: RayHits,
    directions: NDArray[np.float32],
    pose: NDArray[np.float64],
    ends: tuple[NDArray[np.float64], NDArray[np.float64]],
    seconds: float,
) -> NDArray[np.float32]:
    """Motion in the image during the exposure of what each pixel shows, (H, W, 2) float32 pixels.

    hits, directions: of the rays of all pixels. pose: the camera's pose (4, 4) at the centre of the
    exposure. ends: its poses at the start and at the end. seconds: exposure time.
    """
    shape = model.height, model.width
    every = slice(SAMPLE_STRIDE // 2, None, SAMPLE_STRIDE)
    coarse = np.arange(shape[0] * shape[1]).reshape(shape)[every, every]
    index = coarse.ravel()
    distance = np.minimum(hits.distance[index], 1e4)
    points = poses.transform_points(pose, directions[index] * distance[:, None].astype(np.float64))
    hit_object = scene.hit_objects(hits)[index]
    box = np.where(hit_object >= 0, scene.box_index[np.maximum(hit_object, 0)], -1)
    velocity = np.zeros((len(index), 3))
    has_box = box >= 0
    velocity[has_box, :2] = scene.velocities[box[has_box]]
    pixels, is_valid = [], np.ones(len(index), np.bool_)
    for end, half in zip(ends, (-0.5, 0.5), strict=True):
        moved_points = points + half * seconds * velocity
        points_in_camera = poses.transform_points(poses.inverse(end), moved_points)
        pixel, inside = model.project(points_in_camera)
        pixels.append(pixel)
        # Points that leave the image have a valid motion; points behind the camera have none.
        is_valid &= np.isfinite(pixel).all(axis=1) & (inside | (points_in_camera[:, 2] > 0.05))
    motion = np.where(is_valid[:, None], pixels[1] - pixels[0], 0.0)
    motion = np.clip(motion, -MAX_BLUR_PIXELS, MAX_BLUR_PIXELS).astype(np.float32)
    motion = motion.reshape(*coarse.shape, 2)
    return np.asarray(cv2.resize(motion, shape[::-1], interpolation=cv2.INTER_LINEAR), np.float32)


def apply_motion_blur(
    image: NDArray[np.float32], motion: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Average the image (H, W, 3) along the motion (H, W, 2) of each pixel, centred on the pixel."""
    result = np.empty_like(image)
    _average_along_motion(image, motion, result)
    return result


@njit(nogil=True)
def _average_along_motion(image, motion, result):  # type: ignore[no-untyped-def]
    rows, columns = image.shape[:2]
    for v in range(rows):
        for u in range(columns):
            du, dv = motion[v, u, 0], motion[v, u, 1]
            count = int(max(abs(du), abs(dv)) + 0.5) + 1
            if count == 1:
                for k in range(3):
                    result[v, u, k] = image[v, u, k]
                continue
            red, green, blue = 0.0, 0.0, 0.0
            for i in range(count):
                fraction = (i + 0.5) / count - 0.5
                x = min(max(int(np.floor(u + fraction * du + 0.5)), 0), columns - 1)
                y = min(max(int(np.floor(v + fraction * dv + 0.5)), 0), rows - 1)
                red += image[y, x, 0]
                green += image[y, x, 1]
                blue += image[y, x, 2]
            result[v, u, 0] = red / count
            result[v, u, 1] = green / count
            result[v, u, 2] = blue / count
