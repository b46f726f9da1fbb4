"""What the picture loses while the shutter is open: each pixel smeared along its own way.

The way of each pixel is that of the surface which it sees, by the camera's own motion and the
surface's; the light is averaged along it, as "depth-based" motion blur does (Rosado 2007).
"""

from __future__ import annotations

import cv2
import numba
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.geometry import poses
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.simulation.world.scene import Hits, Scene

# The way is asked for at every eighth pixel and is smooth between.
STEP = 8
# Longer ways are cut there.
MOST_PIXELS = 32.0


def image_motion(
    model: CameraModel,
    scene: Scene,
    hits: Hits,
    directions: NDArray[np.float32],
    pose: NDArray[np.float64],
    ends: tuple[NDArray[np.float64], NDArray[np.float64]],
    seconds: float,
) -> NDArray[np.float32]:
    """Pixels (H, W, 2) that what each pixel sees moves while the shutter is open.

    pose, ends: the camera's pose (4, 4) in the middle, at the beginning and at the end of it.
    """
    shape = model.height, model.width
    coarse = np.arange(shape[0] * shape[1]).reshape(shape)[STEP // 2 :: STEP, STEP // 2 :: STEP]
    index = coarse.ravel()
    distance = np.minimum(hits.distance[index], 1e4)
    places = poses.transform_points(pose, directions[index] * distance[:, None].astype(np.float64))
    owner = scene.seen_objects(hits)[index]
    box = np.where(owner >= 0, scene.box_of[np.maximum(owner, 0)], -1)
    speed = np.zeros((len(index), 3))
    moving = box >= 0
    speed[moving, :2] = scene.velocities[box[moving]]
    pixels, seen = [], np.ones(len(index), np.bool_)
    for end, half in zip(ends, (-0.5, 0.5), strict=True):
        there = poses.transform_points(poses.inverse(end), places + half * seconds * speed)
        at, inside = model.project(there)
        pixels.append(at)
        # What leaves the image has a way all the same; what is behind the camera has none.
        seen &= np.isfinite(at).all(axis=1) & (inside | (there[:, 2] > 0.05))
    way = np.where(seen[:, None], pixels[1] - pixels[0], 0.0)
    way = np.clip(way, -MOST_PIXELS, MOST_PIXELS).astype(np.float32).reshape(*coarse.shape, 2)
    return np.asarray(cv2.resize(way, shape[::-1], interpolation=cv2.INTER_LINEAR), np.float32)


def smeared(light: NDArray[np.float32], way: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean light (H, W, 3) along each pixel's way (H, W, 2), about the pixel."""
    result = np.empty_like(light)
    _smear(light, way, result)
    return result


@numba.njit(cache=True, nogil=True)
def _smear(light, way, result):  # type: ignore[no-untyped-def]
    rows, columns = light.shape[:2]
    for v in range(rows):
        for u in range(columns):
            du, dv = way[v, u, 0], way[v, u, 1]
            count = int(max(abs(du), abs(dv)) + 0.5) + 1
            if count == 1:
                for k in range(3):
                    result[v, u, k] = light[v, u, k]
                continue
            red, green, blue = 0.0, 0.0, 0.0
            for i in range(count):
                share = (i + 0.5) / count - 0.5
                x = min(max(int(np.floor(u + share * du + 0.5)), 0), columns - 1)
                y = min(max(int(np.floor(v + share * dv + 0.5)), 0), rows - 1)
                red += light[y, x, 0]
                green += light[y, x, 1]
                blue += light[y, x, 2]
            result[v, u, 0] = red / count
            result[v, u, 1] = green / count
            result[v, u, 2] = blue / count
