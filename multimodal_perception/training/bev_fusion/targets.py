"""Targets of the first stage, and which objects the available sensors can detect."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.detection.bev_fusion.network_config import (
    CLASSES,
    BevFusionNetworkConfig,
)
from multimodal_perception.training.bev_fusion.box_losses import (
    MAX_CENTRES,
    UNLABELLED,
    centre_targets,
)

# Visible pixels from which an object in an image is detected, and from which its cells are ignored.
MIN_PIXELS, MIN_IGNORED_PIXELS = 24.0, 4.0
# Distance up to which objects are detected by images alone, metres.
WITHOUT_LIDAR_RANGE = 45.0


@dataclass(frozen=True)
class FrameObjects:
    """Labelled objects of a training frame, in the frame of the grid, z above the ground.

    boxes: (K, 7). labels: (K,) indices into CLASSES. velocities: (K, 2) m/s over ground. ignored: (J,
    7) boxes of objects with few points or pixels of the available sensors, and ignored_labels (J,): the
    loss does not depend on whether the network detects them.
    """

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    velocities: NDArray[np.float32]
    ignored: NDArray[np.float32]
    ignored_labels: NDArray[np.int64]


def observability(
    boxes: NDArray[np.float32],
    num_points: NDArray[np.integer] | None,
    pixels: NDArray[np.floating],
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which objects (K,) are detected, and which are ignored.

    num_points: (K,) LiDAR points of the present sweep, None without LiDAR. pixels: (K,) visible pixels
    in the image that shows most of each object, of the available images.
    """
    detected = pixels >= MIN_PIXELS
    if num_points is None:
        near = np.hypot(boxes[:, 0], boxes[:, 1]) < WITHOUT_LIDAR_RANGE
        return detected & near, (pixels >= MIN_IGNORED_PIXELS) & ~(detected & near)
    detected = detected | (num_points > 0)
    return detected, (pixels >= MIN_IGNORED_PIXELS) & ~detected


def stage1_targets(
    objects: FrameObjects, config: BevFusionNetworkConfig, velocity_weight: float
) -> dict[str, NDArray[Any]]:
    """Targets of the first stage by name.

    heat (classes, S, S): see centre_targets; cells of ignored objects have UNLABELLED. centres (M,),
    codes (M, 10), weights (M,), velocities (M, 2), velocity_weights (M,). velocity_weight: of a
    standing object; that of moving ones is twice as large, because they are rarer.
    """
    size, cell, extent = config.lift_size, config.lift_cell, config.pillars.half_extent
    heat, cells, codes, weights = centre_targets(
        objects.boxes, objects.labels, len(CLASSES), size, cell, extent
    )
    position = (objects.boxes[:, :2] + extent) / cell
    inside = np.flatnonzero(((position >= 0) & (position < size)).all(axis=1))[:MAX_CENTRES]
    velocities = np.zeros((MAX_CENTRES, 2), np.float32)
    velocity_weights = np.zeros(MAX_CENTRES, np.float32)
    own = objects.velocities[inside]
    velocities[: len(inside)] = own
    moving = np.linalg.norm(own, axis=1) > 0.5
    velocity_weights[: len(inside)] = velocity_weight * np.where(moving, 2.0, 1.0)
    _ignore(heat, objects, config)
    return {
        "heat": heat,
        "centres": cells,
        "codes": codes,
        "weights": weights,
        "velocities": velocities,
        "velocity_weights": velocity_weights,
    }


def _ignore(
    heat: NDArray[np.float32], objects: FrameObjects, config: BevFusionNetworkConfig
) -> None:
    """Set the cells around the centres of ignored objects to UNLABELLED, except centres of others."""
    size, cell, extent = config.lift_size, config.lift_cell, config.pillars.half_extent
    for box, label in zip(objects.ignored, objects.ignored_labels, strict=True):
        radius = max(1, round(0.5 * float(min(box[3], 1.6 * box[4])) / cell))
        column, row = (int(np.floor((v + extent) / cell)) for v in box[:2])
        part = heat[
            label,
            max(row - radius, 0) : max(row + radius + 1, 0),
            max(column - radius, 0) : max(column + radius + 1, 0),
        ]
        part[part < UNLABELLED] = UNLABELLED
    assert heat.shape[1:] == (size, size)
