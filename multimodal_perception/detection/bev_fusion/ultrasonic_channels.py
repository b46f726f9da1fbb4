"""Ultrasonic readings of a frame, and their rasterisation into BEV channels for a network."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.frame import SensorFrame
from multimodal_perception.geometry import poses
from multimodal_perception.kernels import njit


def rasterise_ultrasonic_ranges(
    readings: NDArray[np.float32], half_extent: float, cell: float
) -> NDArray[np.float32]:
    """Two BEV channels (2, S, S) float32: obstacle arcs and free space.

    readings: (U, 8): x, y, z and yaw of each sensor in base_link, its range, minimum range, maximum
    range and full field-of-view angle; metres and radians.

    Channel 0: the arc at the measured range; its cells sum to 1 for each reading. Channel 1: 1 in the
    cells of the cone up to the measured range. A range of +inf, or of the maximum range and more, means
    free space up to the maximum range; NaN and -inf are ignored.
    """
    size = round(2 * half_extent / cell)
    channels = np.zeros((2, size, size), np.float32)
    for row in np.asarray(readings, np.float64).reshape(-1, 8):
        x, y, _, yaw, distance, _, max_range, angle = row
        if not np.isfinite([x, y, yaw, max_range, angle]).all():
            continue
        if not (distance > 0 and max_range > 0):
            continue
        is_obstacle = distance < max_range
        _rasterise(
            channels, x, y, yaw, min(distance, max_range), angle / 2, is_obstacle, half_extent, cell
        )
    return channels


@njit(nogil=True)
def _rasterise(channels, x, y, yaw, distance, half_angle, is_obstacle, half_extent, cell):  # type: ignore[no-untyped-def]
    """Add one reading. The first pass counts the cells of the arc, the second one fills them."""
    size = channels.shape[1]
    arc_half_width = 0.7 * cell
    radius = int(np.ceil((distance + 2 * arc_half_width) / cell)) + 1
    column, row = int((x + half_extent) / cell), int((y + half_extent) / cell)
    arc_cells = 0
    for second_pass in range(2):
        for i in range(max(row - radius, 0), min(row + radius + 1, size)):
            for j in range(max(column - radius, 0), min(column + radius + 1, size)):
                dx, dy = (j + 0.5) * cell - half_extent - x, (i + 0.5) * cell - half_extent - y
                cell_distance = np.sqrt(dx * dx + dy * dy)
                bearing = np.arctan2(dy, dx) - yaw
                bearing = abs((bearing + np.pi) % (2 * np.pi) - np.pi)
                if bearing > half_angle:
                    continue
                if is_obstacle and abs(cell_distance - distance) <= arc_half_width:
                    if second_pass == 0:
                        arc_cells += 1
                    else:
                        channels[0, i, j] += 1.0 / arc_cells
                elif cell_distance < distance and second_pass == 0:
                    channels[1, i, j] = 1.0


def ultrasonic_readings(frame: SensorFrame) -> NDArray[np.float32]:
    """A frame's ultrasonic readings (U, 8) float32, see rasterise_ultrasonic_ranges."""
    rows = []
    for name, reading in frame.ultrasonics.items():
        if name not in frame.base_from_sensor:
            continue
        pose = frame.reference_from_sensor(name)
        limits = reading.range_m, reading.min_range, reading.max_range, reading.field_of_view
        rows.append((*pose[:3, 3], poses.to_yaw(pose), *limits))
    return np.array(rows, np.float32).reshape(-1, 8)
