"""Geometry of the rays of an image's pixels, an input of the image network.

The range of a pixel depends on the camera: its height, its inclination and its angle per pixel. A
network with pixels as its only input depends on the camera height, inclination and resolution of the
training rigs. These features contain them, above all the range at which the ray meets the ground plane
(as in ground-aware depth estimation, e.g. GEDepth, Yang et al. 2023), for every lens model alike.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.detection.bev_fusion.network_config import DEPTH_STRIDE, RAY_CHANNELS
from multimodal_perception.geometry.cameras import CameraModel

# Ranges to the ground plane are clipped to this interval, metres, and scaled to 0 to 1 on a log scale.
MIN_GROUND_RANGE, MAX_GROUND_RANGE = 1.0, 100.0
# Angle between neighbouring cells that gives the value 0, radians; twice the angle gives log(2).
REFERENCE_ANGLE = 0.017


def ray_features(
    model: CameraModel,
    base_from_optical: NDArray[np.float64],
    size: tuple[int, int],
    ground_z: float = 0.0,
) -> NDArray[np.float32]:
    """Features (RAY_CHANNELS, height / 8, width / 8) float32 of the rays through the cells' centres.

    model: of the scaled image, which may be smaller than size (height, width) of the network's input.
    base_from_optical: (4, 4). ground_z: height of the ground plane in base_link, metres.

    Channels: range to the ground plane on a log scale, 1 without intersection; 1 if the ray meets the
    plane within MAX_GROUND_RANGE; sine of the elevation; log of the angle between neighbouring cells
    relative to REFERENCE_ANGLE. Zeros outside the image and where the lens model has no ray.
    """
    rows, columns = size[0] // DEPTH_STRIDE, size[1] // DEPTH_STRIDE
    v, u = np.divmod(np.arange(rows * (columns + 1)), columns + 1)
    pixels = (np.column_stack([u, v]) + 0.5) * DEPTH_STRIDE - 0.5
    rays = model.unproject(pixels).reshape(rows, columns + 1, 3)
    with np.errstate(invalid="ignore", divide="ignore"):
        chord = np.linalg.norm(np.diff(rays, axis=1), axis=2)
        angle = 2.0 * np.arcsin(np.clip(chord / 2.0, 0.0, 1.0))
        angle[:, 1:] = np.where(np.isfinite(angle[:, 1:]), angle[:, 1:], angle[:, :-1])
        elevation = rays[:, :columns] @ base_from_optical[2, :3]
        height = base_from_optical[2, 3] - ground_z
        distance = np.where(elevation < 0.0, height / -elevation, np.inf)
        hits = (distance > 0.0) & (distance <= MAX_GROUND_RANGE)
        clipped = np.clip(distance, MIN_GROUND_RANGE, MAX_GROUND_RANGE)
        log_range = np.log(clipped / MIN_GROUND_RANGE) / np.log(MAX_GROUND_RANGE / MIN_GROUND_RANGE)
        result = np.stack(
            [np.where(hits, log_range, 1.0), hits, elevation, np.log(angle / REFERENCE_ANGLE)]
        )
    positions = pixels.reshape(rows, columns + 1, 2)[:, :columns]
    inside = (positions < [model.width, model.height]).all(axis=2)
    result[:, ~(inside & np.isfinite(result).all(axis=0))] = 0.0
    assert len(result) == RAY_CHANNELS
    return result.astype(np.float32)
