"""Motion of pasted objects: their points in past sweeps, and their velocities.

Ground-truth sampling pastes the points of a single sweep. Without points in the past sweeps, a network
would recognise pasted objects by this. Their points are repeated there, moved back along the heading at
a speed that is usual for the class.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.detection.bev_fusion.sweep_pillars import MIN_PAST_HEIGHT, PastSweep
from multimodal_perception.geometry.boxes import points_in_box

# Lowest and highest speed of moving objects in m/s, and the fraction of objects that move.
SPEEDS = {
    "car": (1.0, 15.0),
    "van": (1.0, 15.0),
    "truck": (1.0, 14.0),
    "bus": (1.0, 13.0),
    "trailer": (1.0, 14.0),
    "motorcyclist": (2.0, 15.0),
    "cyclist": (1.0, 7.0),
    "pedestrian": (0.5, 2.2),
}
MOVING_FRACTION = 0.5


def draw_velocities(
    boxes: NDArray[np.float32], names: Sequence[str], rng: np.random.Generator
) -> NDArray[np.float32]:
    """Velocities (K, 2) along the headings of boxes (K, 7), 0 for stationary objects."""
    speeds = np.zeros(len(boxes), np.float32)
    for k, name in enumerate(names):
        moving, fraction = rng.random(2)
        if name in SPEEDS and moving < MOVING_FRACTION:
            low, high = SPEEDS[name]
            speeds[k] = low + fraction * (high - low)
    yaw = boxes[:, 6]
    return (speeds[:, None] * np.column_stack([np.cos(yaw), np.sin(yaw)])).astype(np.float32)


def add_past_points(
    sweeps: Sequence[PastSweep],
    points: NDArray[np.float32],
    boxes: NDArray[np.float32],
    velocities: NDArray[np.float32],
) -> list[PastSweep]:
    """The past sweeps with the points of pasted objects, moved back by their velocities.

    points: (N, 4) of the present frame with the pasted objects, z above the ground. boxes: (K, 7) of the
    pasted objects. velocities: (K, 2).
    """
    added: list[list[NDArray[np.float32]]] = [[s.points] for s in sweeps]
    for box, velocity in zip(boxes, velocities, strict=True):
        own = points[points_in_box(points, box), :3]
        own = own[own[:, 2] >= MIN_PAST_HEIGHT]
        for sweep, parts in zip(sweeps, added, strict=True):
            moved = own.copy()
            moved[:, :2] -= velocity * np.float32(sweep.age_s)
            parts.append(moved)
    return [
        PastSweep(np.concatenate(parts), sweep.age_s)
        for sweep, parts in zip(sweeps, added, strict=True)
    ]
