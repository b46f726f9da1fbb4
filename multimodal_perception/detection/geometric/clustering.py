"""Obstacle points to clusters: connected components on a bird's-eye-view grid."""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Clusters:
    """Points grouped by object.

    points: (M, 4) float32, x y z and height over the ground, those of a cluster in one run. starts:
    (C + 1,) int64, where each cluster begins. sources: (M,) int64, index of the input point.
    """

    points: NDArray[np.float32]
    starts: NDArray[np.int64]
    sources: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts) - 1


def cluster(
    points: NDArray[np.float32],
    cell: float,
    extent: float,
    gap: float,
    gap_per_metre: float,
    min_points: int,
) -> Clusters:
    """Group points (N, 4), x y z height, whose cells lie within reach of each other.

    The reach is gap + gap_per_metre times the distance from the vehicle, as a LiDAR's points lie
    further apart the further away they are. Points beyond extent metres in x or y are left out.
    """
    size = int(2 * extent / cell)
    order, starts = _components(points, cell, size, gap, gap_per_metre, min_points)
    return Clusters(points[order], starts, order)


@numba.njit(cache=True, nogil=True)
def _find(parent, i):  # type: ignore[no-untyped-def]
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@numba.njit(cache=True, nogil=True)
def _components(points, cell, size, gap, gap_per_metre, min_points):  # type: ignore[no-untyped-def]
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
        reach = (gap + gap_per_metre * distance) / cell
        whole = int(reach)
        for dv in range(0, whole + 1):
            for du in range(-whole, whole + 1):
                if (dv == 0 and du <= 0) or du * du + dv * dv > reach * reach:
                    continue
                u, v = column[a] + du, row[a] + dv
                if 0 <= u < size and v < size:
                    b = index_of_cell[v * size + u]
                    if b >= 0:
                        ra, rb = _find(parent, a), _find(parent, b)
                        if ra != rb:
                            parent[max(ra, rb)] = min(ra, rb)
    counts = np.zeros(cells + 1, np.int64)
    for i in range(n):
        if cell_of_point[i] >= 0:
            cell_of_point[i] = _find(parent, cell_of_point[i])
            counts[cell_of_point[i]] += 1
    starts = np.zeros(cells + 1, np.int64)
    place = np.full(cells, -1, np.int64)
    clusters = 0
    for c in range(cells):
        if counts[c] >= min_points:
            place[c] = starts[clusters]
            starts[clusters + 1] = starts[clusters] + counts[c]
            clusters += 1
    order = np.empty(starts[clusters], np.int64)
    for i in range(n):
        c = cell_of_point[i]
        if c >= 0 and place[c] >= 0:
            order[place[c]] = i
            place[c] += 1
    return order, starts[: clusters + 1].copy()
