"""Pillar features of a LiDAR point cloud (after PointPillars, Lang et al. 2019).

PointPillars limits the number of points per pillar and computes a learned feature of each point. Here a
compiled kernel accumulates moments and a height histogram over all points of each pillar, which are the
inputs of the network. No point of a kept pillar is dropped.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.kernels import njit

# Height histogram: lower limit above the ground and bin size in metres, number of bins.
MIN_HEIGHT, HEIGHT_BIN, HEIGHT_BINS = -0.8, 0.4, 12
MOMENT_CHANNELS = 14
PILLAR_CHANNELS = MOMENT_CHANNELS + HEIGHT_BINS
# Index of the channel with the distance from the vehicle, the only one that pillars without points have.
RANGE_CHANNEL = 10
# Table of log1p(count), which is faster than computing it. Larger counts are clipped.
LOG_COUNTS = np.log1p(np.arange(4096, dtype=np.float32))


@dataclass(frozen=True)
class PillarConfig:
    """Bird's-eye-view grid of the pillars, a square centred on the vehicle.

    Attributes:
        half_extent: Half the side length of the grid. Increase it to detect more distant objects;
            memory and time grow with its square, and the network must be trained with it.
        cell: Side length of a pillar. Decrease it to separate small objects better; memory and time
            grow, and the network must be trained with it.
        max_pillars: Maximum number of pillars per frame. Increase it for LiDARs with very many
            points; pillars beyond the limit are dropped, the most distant first, and counted in
            diagnostics.
    """

    half_extent: float = field(default=51.2, metadata={"min": 5.0, "max": 200.0, "unit": "m"})
    cell: float = field(default=0.4, metadata={"min": 0.1, "max": 2.0, "unit": "m"})
    max_pillars: int = field(default=12000, metadata={"min": 100, "max": 200000})

    def __post_init__(self) -> None:
        if self.size % 8:
            raise ValueError("2 half_extent / cell must be a multiple of 8")

    @property
    def size(self) -> int:
        """Number of cells along each side of the grid."""
        return round(2 * self.half_extent / self.cell)


@dataclass(frozen=True)
class Pillars:
    """The M non-empty pillars of a frame.

    features: (M, PILLAR_CHANNELS) float32; 14 moment channels and the height histogram:
        log count, mean offset from the cell's centre (x, y, in cells), mean z, standard deviations
        of x and y (in cells), covariance of x and y, standard deviation of z, minimum z, maximum z,
        distance from the vehicle (as a fraction of half_extent), maximum and mean intensity, 1
        (there are points).
    cells: (M,) int32, row * size + column; rows run along y, columns along x.
    centroids: (M, 3) float32, mean of the points in metres.
    overflow: number of pillars dropped because of max_pillars.
    """

    features: NDArray[np.float32]
    cells: NDArray[np.int32]
    centroids: NDArray[np.float32]
    overflow: int = 0


def build_pillars(points: NDArray[np.float32], config: PillarConfig) -> Pillars:
    """Pillars of points (N, 4) float32, x y z intensity; z is measured from the ground.

    Points outside the grid are ignored.
    """
    size = config.size
    slot_of_cell = np.full(size * size, -1, np.int32)
    cell_of_point = np.empty(len(points), np.int32)
    half_extent, cells_per_m = np.float32(config.half_extent), np.float32(1 / config.cell)
    count = _assign(points, slot_of_cell, cell_of_point, half_extent, cells_per_m, size)
    sums = np.zeros((count, 12 + HEIGHT_BINS), np.float32)
    sums[:, 8], sums[:, 9], sums[:, 10] = 1e9, -1e9, 0.0
    cells = np.empty(count, np.int32)
    _accumulate(points, cell_of_point, slot_of_cell, sums, cells, half_extent, cells_per_m, size)
    features = np.empty((count, PILLAR_CHANNELS), np.float32)
    centroids = np.empty((count, 3), np.float32)
    _compute_features(sums, cells, features, centroids, config.half_extent, config.cell, size)
    limit = config.max_pillars
    if count <= limit:
        return Pillars(features, cells, centroids)
    nearest = np.argpartition(np.hypot(centroids[:, 0], centroids[:, 1]), limit)[:limit]
    nearest.sort()
    return Pillars(features[nearest], cells[nearest], centroids[nearest], count - limit)


@njit(nogil=True)
def cell_of(x, y, half_extent, cells_per_m, size):  # type: ignore[no-untyped-def]
    column, row = int((x + half_extent) * cells_per_m), int((y + half_extent) * cells_per_m)
    if x < -half_extent or y < -half_extent or column >= size or row >= size:
        return -1
    return row * size + column


@njit(nogil=True)
def _in_height(z):  # type: ignore[no-untyped-def]
    return MIN_HEIGHT - 0.4 <= z < MIN_HEIGHT + HEIGHT_BIN * HEIGHT_BINS


@njit(nogil=True)
def _assign(points, slot_of_cell, cell_of_point, half_extent, cells_per_m, size):  # type: ignore[no-untyped-def]
    """Number the cells that contain points; fill the cell of each point (N,), -1 outside the grid."""
    count = 0
    for i in range(len(points)):
        cell = -1
        if _in_height(points[i, 2]):
            cell = cell_of(points[i, 0], points[i, 1], half_extent, cells_per_m, size)
        cell_of_point[i] = cell
        if cell >= 0 and slot_of_cell[cell] < 0:
            slot_of_cell[cell] = count
            count += 1
    return count


@njit(nogil=True)
def _accumulate(  # type: ignore[no-untyped-def]
    points, cell_of_point, slot_of_cell, sums, cells, half_extent, cells_per_m, size
):
    """Sum moments and histograms over the points of each pillar; fill the cell of each pillar."""
    cell_m = np.float32(1.0) / cells_per_m
    for i in range(len(points)):
        z, cell = points[i, 2], cell_of_point[i]
        if cell < 0:
            continue
        cells[slot_of_cell[cell]] = cell
        s = sums[slot_of_cell[cell]]
        # Offsets from the cell's centre: squares of large coordinates would lose precision in float32.
        x = points[i, 0] + half_extent - (cell % size + np.float32(0.5)) * cell_m
        y = points[i, 1] + half_extent - (cell // size + np.float32(0.5)) * cell_m
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
        s[12 + max(0, int((z - MIN_HEIGHT) / HEIGHT_BIN))] += 1


@njit(nogil=True)
def _compute_features(sums, cells, features, centroids, half_extent, cell, size):  # type: ignore[no-untyped-def]
    """Fill the features and centroids of each pillar from its sums; see Pillars."""
    for i in range(len(sums)):
        s, f = sums[i], features[i]
        n = s[0]
        x, y, z = s[1] / n, s[2] / n, s[3] / n
        centre_x = (cells[i] % size + 0.5) * cell - half_extent
        centre_y = (cells[i] // size + 0.5) * cell - half_extent
        f[0] = LOG_COUNTS[min(int(n), len(LOG_COUNTS) - 1)] / 4.0
        f[1], f[2], f[3] = x / cell, y / cell, z
        f[4] = np.sqrt(max(s[4] / n - x * x, 0.0)) / cell * 3.0
        f[5] = np.sqrt(max(s[5] / n - y * y, 0.0)) / cell * 3.0
        f[6] = (s[6] / n - x * y) / (cell * cell) * 9.0
        f[7] = np.sqrt(max(s[7] / n - z * z, 0.0))
        f[8], f[9] = s[8], s[9]
        centroids[i, 0], centroids[i, 1], centroids[i, 2] = centre_x + x, centre_y + y, z
        f[10] = np.sqrt(centroids[i, 0] ** 2 + centroids[i, 1] ** 2) / half_extent
        f[11], f[12] = s[10], s[11] / n
        f[13] = 1.0
        for k in range(HEIGHT_BINS):
            f[MOMENT_CHANNELS + k] = LOG_COUNTS[min(int(s[12 + k]), len(LOG_COUNTS) - 1)] / 3.0
