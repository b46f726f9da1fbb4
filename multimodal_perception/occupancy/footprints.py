"""Occupancy from detected boxes: occupied footprints, and faster decay behind moving boxes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.frame import Boxes3D
from multimodal_perception.kernels import njit
from multimodal_perception.occupancy.cells import GridGeometry, cell_at, cell_centre

Layer = NDArray[np.float32]
Window = tuple[int, int, int, int]
MAX_LENGTH_M = 50.0


@dataclass(frozen=True)
class FootprintConfig:
    """Inverse sensor model of detected boxes.

    Attributes:
        occupied_mass: Occupied mass inside the footprint of a box with score 1. Increase it to rely
            more on detections where no range sensor measures the object.
        clearance: Height above base_link from which the underside of a box does not block the
            vehicle. Set it to the height of your vehicle plus a margin.
        min_moving_speed: Speed above which a box is treated as moving. Increase it if parked
            vehicles get a speed from noisy tracking.
        trail_time_s: Duration for which the area behind a moving box decays faster. Increase it if
            moving objects leave occupied cells behind them; set it to 0 to switch the decay off.
    """

    occupied_mass: float = field(default=0.6, metadata={"min": 0.0, "max": 0.99})
    clearance: float = field(default=2.2, metadata={"min": 0.1, "max": 10.0, "unit": "m"})
    min_moving_speed: float = field(default=0.5, metadata={"min": 0.0, "max": 20.0, "unit": "m/s"})
    trail_time_s: float = field(default=1.0, metadata={"min": 0.0, "max": 10.0, "unit": "s"})


class FootprintModel:
    """Converts boxes to occupied masses. counts: rejected boxes by reason."""

    def __init__(self, config: FootprintConfig | None = None) -> None:
        self.config = config or FootprintConfig()
        self.counts: Counter[str] = Counter()

    def select_usable(self, boxes: Boxes3D, base_frame: str) -> Boxes3D:
        """Valid boxes at the height of the vehicle. Invalid ones are counted: wrong_frame, bad_box."""
        if boxes.frame_id != base_frame:
            self._count("wrong_frame", len(boxes))
            return boxes.select(np.zeros(len(boxes), bool))
        sizes = boxes.boxes[:, 3:5]
        valid = np.isfinite(boxes.boxes).all(axis=1) & np.isfinite(boxes.scores)
        valid &= (sizes > 0).all(axis=1) & (sizes <= MAX_LENGTH_M).all(axis=1)
        self._count("bad_box", int((~valid).sum()))
        low = boxes.boxes[:, 2] - boxes.boxes[:, 5] / 2 < self.config.clearance
        return boxes.select(valid & low)

    def occupied_mass(self, boxes: Boxes3D, cells: GridGeometry, reliability: float = 1.0) -> Layer:
        """Occupied mass (size, size) float32 of usable boxes."""
        layer = np.zeros((cells.cells_per_side, cells.cells_per_side), np.float32)
        masses = self.config.occupied_mass * reliability * np.clip(boxes.scores, 0.0, 1.0)
        for box, mass in zip(boxes.boxes.astype(np.float64), masses, strict=True):
            _fill(layer, _window(cells, box), cells, box, np.float32(mass))
        return layer

    def moved_cells_factor(self, boxes: Boxes3D, cells: GridGeometry, keep: float) -> Layer | None:
        """Factor (size, size) float32 on the evidence: `keep` where a moving box has left, else 1.

        These are the cells that a moving box covered in the last `trail_time_s` seconds and no box
        covers now. None if no box moves. boxes: usable ones, velocities over ground in base_link's
        axes.
        """
        if boxes.velocities is None:
            return None
        speed = np.hypot(*boxes.velocities.T)
        moving = np.flatnonzero(np.isfinite(speed) & (speed >= self.config.min_moving_speed))
        if not len(moving):
            return None
        behind = np.zeros((cells.cells_per_side, cells.cells_per_side), np.float32)
        for i in moving:
            box, velocity = boxes.boxes[i].astype(np.float64), boxes.velocities[i]
            # Steps of up to half the shorter side, so that the covered area has no gaps.
            length = min(float(speed[i]) * self.config.trail_time_s, MAX_LENGTH_M)
            steps = int(np.ceil(length / (0.5 * max(min(box[3], box[4]), cells.resolution))))
            for back in np.linspace(0.0, length, steps + 1)[1:]:
                earlier = box.copy()
                earlier[:2] -= velocity / speed[i] * back
                _fill(behind, _window(cells, earlier), cells, earlier, np.float32(1.0))
        for box in boxes.boxes.astype(np.float64):
            _fill(behind, _window(cells, box), cells, box, np.float32(-1.0))
        return np.where(behind > 0, np.float32(keep), np.float32(1.0))

    def _count(self, reason: str, number: int) -> None:
        if number:
            self.counts[reason] += number


def _window(cells: GridGeometry, box: NDArray[np.float64]) -> Window:
    return cells.window(float(box[0]), float(box[1]), 0.5 * float(np.hypot(box[3], box[4])))


@njit(nogil=True)
def _fill(layer, window, cells, box, mass):  # type: ignore[no-untyped-def]
    """Raise the cells whose centre is inside the box to `mass`; a negative mass sets them to zero.

    The cell that contains the centre of the box is always included, so that thin boxes are not lost.
    """
    c, s = np.cos(box[6]), np.sin(box[6])
    centre = cell_at(cells, box[0], box[1])
    for i in range(window[0], window[1]):
        for j in range(window[2], window[3]):
            x, y = cell_centre(cells, i, j)
            dx, dy = x - box[0], y - box[1]
            inside = abs(c * dx + s * dy) <= box[3] / 2 and abs(c * dy - s * dx) <= box[4] / 2
            if inside or (i == centre[0] and j == centre[1]):
                if mass < 0:
                    layer[i, j] = 0.0
                else:
                    layer[i, j] = max(layer[i, j], mass)
