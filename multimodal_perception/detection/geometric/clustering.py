"""Clustering of obstacle points: connected components on a bird's-eye-view grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.kernels import njit


@dataclass(frozen=True)
class Clusters:
    """Points grouped into C clusters.

    points: (M, 4) float32, x y z and height above the ground, sorted by cluster. starts: (C + 1,) int64,
    first point of each cluster. sources: (M,) int64, index of each point in the input.
    """

    points: NDArray[np.float32]
    starts: NDArray[np.int64]
    sources: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts) - 1


def cluster(
    points: NDArray[np.float32],
    cell: float,
    half_extent: float,
    max_gap: float,
    max_gap_growth: float,
    min_points: int,
) -> Clusters:
    """Group points (N, 4), x y z height, whose grid cells are close to each other.

    The maximum distance between cells is max_gap + max_gap_growth times the distance from the
    vehicle, because the spacing of a LiDAR's points grows with the distance. Points beyond
    half_extent metres in x or y, and clusters with fewer than min_points, are dropped. cell: size
    of the grid cells, metres.
    """
    size = int(2 * half_extent / cell)
    order, starts = _components(points, cell, size, max_gap, max_gap_growth, min_points)
    return Clusters(points[order], starts, order)


@njit(nogil=True)
def _find_root(parent, i):  # type: ignore[no-untyped-def]
    """Root of i in a union-find forest, with path halving."""
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@njit(nogil=True)
def _components(points, cell, size, max_gap, max_gap_growth, min_points):  # type: ignore[no-untyped-def]
    """Indices of the points sorted by cluster, and the first index of each cluster."""
    n = len(points)
    index_of_cell = np.full(size * size, -1, np.int32)
    cell_of_point = np.full(n, -1, np.int32)
    column = np.empty(n, np.int32)
    row = np.empty(n, np.int32)
    cells = 0
    half = size // 2
    for i in range(n):
        u = int(np.floor(points[i, 0] / cell)) + half
        v = int(np.floor(points[i, 1] / cell)) + half
        if 0 <= u < size and 0 <= v < size:
            if index_of_cell[v * size + u] < 0:
                index_of_cell[v * size + u] = cells
                column[cells], row[cells] = u, v
                cells += 1
            cell_of_point[i] = index_of_cell[v * size + u]
    parent = np.arange(cells)
    for a in range(cells):
        distance = np.hypot(column[a] - half, row[a] - half) * cell
        limit = (max_gap + max_gap_growth * distance) / cell
        radius = int(limit)
        for dv in range(0, radius + 1):
            for du in range(-radius, radius + 1):
                if (dv == 0 and du <= 0) or du * du + dv * dv > limit * limit:
                    continue
                u, v = column[a] + du, row[a] + dv
                if 0 <= u < size and v < size:
                    b = index_of_cell[v * size + u]
                    if b >= 0:
                        ra, rb = _find_root(parent, a), _find_root(parent, b)
                        if ra != rb:
                            parent[max(ra, rb)] = min(ra, rb)
    counts = np.zeros(cells + 1, np.int64)
    for i in range(n):
        if cell_of_point[i] >= 0:
            cell_of_point[i] = _find_root(parent, cell_of_point[i])
            counts[cell_of_point[i]] += 1
    starts = np.zeros(cells + 1, np.int64)
    position = np.full(cells, -1, np.int64)
    clusters = 0
    for c in range(cells):
        if counts[c] >= min_points:
            position[c] = starts[clusters]
            starts[clusters + 1] = starts[clusters] + counts[c]
            clusters += 1
    order = np.empty(starts[clusters], np.int64)
    for i in range(n):
        c = cell_of_point[i]
        if c >= 0 and position[c] >= 0:
            order[position[c]] = i
            position[c] += 1
    return order, starts[: clusters + 1].copy()
