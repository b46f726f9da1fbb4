"""Points to pillars: every point scattered into its cell of the ground plane, none left out.

PointPillars (Lang et al. 2019) caps the points of a pillar and learns on each point; here the scatter is
a compiled kernel that gathers moments and a height histogram, and the network learns on those.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numba
import numpy as np
from numpy.typing import NDArray

# Heights over base_link that the histogram covers.
LOW, BIN, BINS = -0.8, 0.4, 12
MOMENTS = 14
CHANNELS = MOMENTS + BINS
RANGE = 10  # the channel that is known of a pillar without points as well
# log1p of counts, looked up: of so many points in a pillar, and in a bin of its histogram, it is told.
LOGS = np.log1p(np.arange(4096, dtype=np.float32))


@dataclass(frozen=True)
class PillarConfig:
    """The square about the vehicle and its cells.

    extent: half side. cell: side of a pillar. most: pillars of a frame; what is beyond is counted as
    overflow and left out, the furthest first.
    """

    extent: float = field(default=51.2, metadata={"min": 5.0, "max": 200.0, "unit": "m"})
    cell: float = field(default=0.4, metadata={"min": 0.1, "max": 2.0, "unit": "m"})
    most: int = field(default=12000, metadata={"min": 100, "max": 200000})

    def __post_init__(self) -> None:
        if self.size % 8:
            raise ValueError("2 extent / cell must be a multiple of 8")

    @property
    def size(self) -> int:
        """Cells a side."""
        return round(2 * self.extent / self.cell)


@dataclass(frozen=True)
class Pillars:
    """The pillars of one frame, M of them.

    features: (M, CHANNELS) float32. cells: (M,) int32, row * size + column; row is y, column is x.
    centroids: (M, 3) float32, mean of the points, metres. overflow: pillars that had no room.
    """

    features: NDArray[np.float32]
    cells: NDArray[np.int32]
    centroids: NDArray[np.float32]
    overflow: int = 0


def pillarise(points: NDArray[np.float32], config: PillarConfig) -> Pillars:
    """Pillars of points (N, 4) float32, x y z intensity, in base_link; none of points off the grid."""
    size = config.size
    slots, cells = np.full(size * size, -1, np.int32), np.empty(len(points), np.int32)
    extent, per_cell = np.float32(config.extent), np.float32(1 / config.cell)
    count = _assign(points, slots, cells, extent, per_cell, size)
    sums = np.zeros((count, 12 + BINS), np.float32)
    sums[:, 8], sums[:, 9], sums[:, 10] = 1e9, -1e9, 0.0
    by_slot = np.empty(count, np.int32)
    _gather(points, cells, slots, sums, by_slot, extent, per_cell, size)
    features, centroids = np.empty((count, CHANNELS), np.float32), np.empty((count, 3), np.float32)
    _describe(sums, by_slot, features, centroids, config.extent, config.cell, size)
    if count <= config.most:
        return Pillars(features, by_slot, centroids)
    near = np.argpartition(np.hypot(centroids[:, 0], centroids[:, 1]), config.most)[: config.most]
    near.sort()
    return Pillars(features[near], by_slot[near], centroids[near], count - config.most)


def empty_pillars(
    places: NDArray[np.float32], cells: NDArray[np.int32], config: PillarConfig
) -> Pillars:
    """Pillars without points at places (M, 3): where only images can tell what there is."""
    features = np.zeros((len(cells), CHANNELS), np.float32)
    features[:, RANGE] = np.hypot(places[:, 0], places[:, 1]) / np.float32(config.extent)
    return Pillars(features, cells, places)


@numba.njit(cache=True, nogil=True)
def _cell_of(x, y, extent, per_cell, size):  # type: ignore[no-untyped-def]
    column, row = int((x + extent) * per_cell), int((y + extent) * per_cell)
    if x < -extent or y < -extent or column >= size or row >= size:
        return -1
    return row * size + column


@numba.njit(cache=True, nogil=True)
def _in_height(z):  # type: ignore[no-untyped-def]
    return LOW - 0.4 <= z < LOW + BIN * BINS


@numba.njit(cache=True, nogil=True)
def _assign(points, slots, cells, extent, per_cell, size):  # type: ignore[no-untyped-def]
    """Number the cells that hold points; cells (N,) of the points, -1 for none."""
    count = 0
    for i in range(len(points)):
        cell = -1
        if _in_height(points[i, 2]):
            cell = _cell_of(points[i, 0], points[i, 1], extent, per_cell, size)
        cells[i] = cell
        if cell >= 0 and slots[cell] < 0:
            slots[cell] = count
            count += 1
    return count


@numba.njit(cache=True, nogil=True)
def _gather(points, cells, slots, sums, by_slot, extent, per_cell, size):  # type: ignore[no-untyped-def]
    cell_m = np.float32(1.0) / per_cell
    for i in range(len(points)):
        z, cell = points[i, 2], cells[i]
        if cell < 0:
            continue
        by_slot[slots[cell]] = cell
        s = sums[slots[cell]]
        # Offsets from the cell's middle, so that squares of them keep their digits.
        x = points[i, 0] + extent - (cell % size + np.float32(0.5)) * cell_m
        y = points[i, 1] + extent - (cell // size + np.float32(0.5)) * cell_m
        s[0] += 1
        s[1] += x
        s[2] += y
        s[3] += z
        s[4] += x * x
        s[5] += y * y
        s[6] += x * y
        s[7] += z * z
        s[8] = min(s[8], z)
        s[9] = max(s[9], z)
        s[10] = max(s[10], points[i, 3])
        s[11] += points[i, 3]
        s[12 + max(0, int((z - LOW) / BIN))] += 1


@numba.njit(cache=True, nogil=True)
def _describe(sums, cells, features, centroids, extent, cell, size):  # type: ignore[no-untyped-def]
    for i in range(len(sums)):
        s, f = sums[i], features[i]
        n = s[0]
        x, y, z = s[1] / n, s[2] / n, s[3] / n
        middle_x = (cells[i] % size + 0.5) * cell - extent
        middle_y = (cells[i] // size + 0.5) * cell - extent
        f[0] = LOGS[min(int(n), len(LOGS) - 1)] / 4.0
        f[1], f[2], f[3] = x / cell, y / cell, z
        f[4] = np.sqrt(max(s[4] / n - x * x, 0.0)) / cell * 3.0
        f[5] = np.sqrt(max(s[5] / n - y * y, 0.0)) / cell * 3.0
        f[6] = (s[6] / n - x * y) / (cell * cell) * 9.0
        f[7] = np.sqrt(max(s[7] / n - z * z, 0.0))
        f[8], f[9] = s[8], s[9]
        centroids[i, 0], centroids[i, 1], centroids[i, 2] = middle_x + x, middle_y + y, z
        f[10] = np.sqrt(centroids[i, 0] ** 2 + centroids[i, 1] ** 2) / extent
        f[11], f[12] = s[10], s[11] / n
        f[13] = 1.0
        for k in range(BINS):
            f[MOMENTS + k] = LOGS[min(int(s[12 + k]), len(LOGS) - 1)] / 3.0
