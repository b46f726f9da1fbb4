"""Ultrasonic readings drawn from above, as a network takes them."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray


def draw_echoes(rows: NDArray[np.float32], extent: float, cell: float) -> NDArray[np.float32]:
    """Two channels (2, S, S) float32: where something echoes, and where nothing does up to there.

    rows: (U, 8): x y z yaw of each sensor in base_link, its range, min and max range, full view angle;
    metres and radians. The arc of an echo is shared out: it sums to 1. A reading of +inf, or of max
    range and beyond, is free to max range; NaN and -inf say nothing.
    """
    size = round(2 * extent / cell)
    canvas = np.zeros((2, size, size), np.float32)
    for row in np.asarray(rows, np.float64).reshape(-1, 8):
        x, y, _, yaw, reading, _, limit, angle = row
        if not (np.isfinite([x, y, yaw, limit, angle]).all() and reading > 0 and limit > 0):
            continue
        echo = reading < limit
        _draw(canvas, x, y, yaw, min(reading, limit), angle / 2, echo, extent, cell)
    return canvas


@numba.njit(cache=True, nogil=True)
def _draw(canvas, x, y, yaw, reach, half, echo, extent, cell):  # type: ignore[no-untyped-def]
    size = canvas.shape[1]
    thick = 0.7 * cell
    around = int(np.ceil((reach + 2 * thick) / cell)) + 1
    column, row = int((x + extent) / cell), int((y + extent) / cell)
    total = 0
    for turn in range(2):
        for i in range(max(row - around, 0), min(row + around + 1, size)):
            for j in range(max(column - around, 0), min(column + around + 1, size)):
                dx, dy = (j + 0.5) * cell - extent - x, (i + 0.5) * cell - extent - y
                away = np.sqrt(dx * dx + dy * dy)
                bearing = np.arctan2(dy, dx) - yaw
                bearing = abs((bearing + np.pi) % (2 * np.pi) - np.pi)
                if bearing > half:
                    continue
                if echo and abs(away - reach) <= thick:
                    if turn == 0:
                        total += 1
                    else:
                        canvas[0, i, j] += 1.0 / total
                elif away < reach and turn == 0:
                    canvas[1, i, j] = 1.0
