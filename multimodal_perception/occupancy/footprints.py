"""Occupancy from 3D boxes: footprints are occupied, and what moving ones have left clears faster."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numba
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.frame import Boxes3D
from multimodal_perception.occupancy.cells import Cells, cell_at, middle_of

Layer = NDArray[np.float32]
Window = tuple[int, int, int, int]
LARGEST_M = 50.0


@dataclass(frozen=True)
class FootprintConfig:
    """Inverse model of detected boxes.

    occupied: mass inside the footprint of a box with score 1. clearance: boxes whose underside is
    higher over base_link than this are overhead. moving_speed: from which on a box moves. trail:
    for how long the way behind a moving box clears faster.
    """

    occupied: float = field(default=0.6, metadata={"min": 0.0, "max": 0.99})
    clearance: float = field(default=2.2, metadata={"min": 0.1, "max": 10.0, "unit": "m"})
    moving_speed: float = field(default=0.5, metadata={"min": 0.0, "max": 20.0, "unit": "m/s"})
    trail: float = field(default=1.0, metadata={"min": 0.0, "max": 10.0, "unit": "s"})


class FootprintModel:
    """Boxes to masses. counts: boxes not used, by reason."""

    def __init__(self, config: FootprintConfig | None = None) -> None:
        self.config = config or FootprintConfig()
        self.counts: Counter[str] = Counter()

    def usable(self, boxes: Boxes3D, base_frame: str) -> Boxes3D:
        """The boxes that can be drawn; the rest is counted: wrong_frame, bad_box."""
        if boxes.frame_id != base_frame:
            self._count("wrong_frame", len(boxes))
            return boxes.select(np.zeros(len(boxes), bool))
        sizes = boxes.boxes[:, 3:5]
        good = np.isfinite(boxes.boxes).all(axis=1) & np.isfinite(boxes.scores)
        good &= (sizes > 0).all(axis=1) & (sizes <= LARGEST_M).all(axis=1)
        self._count("bad_box", int((~good).sum()))
        low = boxes.boxes[:, 2] - boxes.boxes[:, 5] / 2 < self.config.clearance
        return boxes.select(good & low)

    def occupied(self, boxes: Boxes3D, cells: Cells, reliability: float = 1.0) -> Layer:
        """Occupied mass (size, size) float32 of usable boxes."""
        layer = np.zeros((cells.size, cells.size), np.float32)
        masses = self.config.occupied * reliability * np.clip(boxes.scores, 0.0, 1.0)
        for box, mass in zip(boxes.boxes.astype(np.float64), masses, strict=True):
            _fill(layer, _window(cells, box), cells, box, np.float32(mass))
        return layer

    def left_behind(self, boxes: Boxes3D, cells: Cells, keep: float) -> Layer | None:
        """Share of the evidence (size, size) float32 to keep: `keep` where a box has just been.

        The way of each moving box over the last `trail` seconds, without where the boxes are now.
        None when nothing moves. boxes: usable ones, velocities over ground in base_link's axes.
        """
        if boxes.velocities is None:
            return None
        speed = np.hypot(*boxes.velocities.T)
        moving = np.flatnonzero(np.isfinite(speed) & (speed >= self.config.moving_speed))
        if not len(moving):
            return None
        behind = np.zeros((cells.size, cells.size), np.float32)
        for i in moving:
            box, velocity = boxes.boxes[i].astype(np.float64), boxes.velocities[i]
            # Closer together than half the shorter side, so that the way has no gaps.
            way = min(float(speed[i]) * self.config.trail, LARGEST_M)
            steps = int(np.ceil(way / (0.5 * max(min(box[3], box[4]), cells.resolution))))
            for back in np.linspace(0.0, way, steps + 1)[1:]:
                earlier = box.copy()
                earlier[:2] -= velocity / speed[i] * back
                _fill(behind, _window(cells, earlier), cells, earlier, np.float32(1.0))
        for box in boxes.boxes.astype(np.float64):
            _fill(behind, _window(cells, box), cells, box, np.float32(-1.0))
        return np.where(behind > 0, np.float32(keep), np.float32(1.0))

    def _count(self, reason: str, number: int) -> None:
        if number:
            self.counts[reason] += number


def _window(cells: Cells, box: NDArray[np.float64]) -> Window:
    return cells.window(float(box[0]), float(box[1]), 0.5 * float(np.hypot(box[3], box[4])))


@numba.njit(cache=True, nogil=True)
def _fill(layer, window, cells, box, mass):  # type: ignore[no-untyped-def]
    """Raise the cells whose middle the box covers to `mass`; a negative mass erases them.

    The cell that holds the box's own middle is one of them, however thin the box.
    """
    c, s = np.cos(box[6]), np.sin(box[6])
    own = cell_at(cells, box[0], box[1])
    for i in range(window[0], window[1]):
        for j in range(window[2], window[3]):
            x, y = middle_of(cells, i, j)
            dx, dy = x - box[0], y - box[1]
            inside = abs(c * dx + s * dy) <= box[3] / 2 and abs(c * dy - s * dx) <= box[4] / 2
            if inside or (i == own[0] and j == own[1]):
                if mass < 0:
                    layer[i, j] = 0.0
                else:
                    layer[i, j] = max(layer[i, j], mass)
