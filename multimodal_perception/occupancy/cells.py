"""Geometry of a grid's cells in base_link, for numpy code and numba kernels."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.kernels import njit


class GridGeometry(NamedTuple):
    """A square grid of cells on the ground plane of base_link.

    cells_per_side: number of cells. resolution: side of a cell, m. cos, sin: of the angle from
    base_link's x axis to the direction of increasing columns. origin_x,
    origin_y: corner of cell (0, 0) in base_link, m.
    """

    cells_per_side: int
    resolution: float
    cos: float
    sin: float
    origin_x: float
    origin_y: float

    @classmethod
    def around_base(cls, cells_per_side: int, resolution: float) -> GridGeometry:
        """Grid centred on base_link and aligned with its axes."""
        corner = -0.5 * cells_per_side * resolution
        return cls(cells_per_side, resolution, 1.0, 0.0, corner, corner)

    def window(self, x: float, y: float, radius: float) -> tuple[int, int, int, int]:
        """Range of cells that contains a circle in base_link, clipped to the grid.

        x, y, radius: m. Returns first row, last row + 1, first column, last column + 1.
        """
        dx, dy, cell = x - self.origin_x, y - self.origin_y, self.resolution
        column, row = (self.cos * dx + self.sin * dy) / cell, (self.cos * dy - self.sin * dx) / cell
        margin = radius / cell + 1.0
        ends = row - margin, row + margin, column - margin, column + margin
        top, bottom, left, right = (min(max(math.floor(v), 0), self.cells_per_side) for v in ends)
        return top, min(bottom + 1, self.cells_per_side), left, min(right + 1, self.cells_per_side)

    def centres(
        self, rows: NDArray[np.integer], columns: NDArray[np.integer]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """x and y in base_link of cell centres, m, in the shape of the arguments."""
        u = (columns + 0.5) * self.resolution
        v = (rows + 0.5) * self.resolution
        return (
            self.origin_x + self.cos * u - self.sin * v,
            self.origin_y + self.sin * u + self.cos * v,
        )


@njit(nogil=True, inline="always")
def cell_centre(cells, row, column):  # type: ignore[no-untyped-def]
    """x and y in base_link of a cell's centre, m."""
    u = (column + 0.5) * cells.resolution
    v = (row + 0.5) * cells.resolution
    return (
        cells.origin_x + cells.cos * u - cells.sin * v,
        cells.origin_y + cells.sin * u + cells.cos * v,
    )


@njit(nogil=True, inline="always")
def cell_at(cells, x, y):  # type: ignore[no-untyped-def]
    """Row and column of the cell that contains a point in base_link; they may be outside the grid."""
    dx, dy = x - cells.origin_x, y - cells.origin_y
    column = int(np.floor((cells.cos * dx + cells.sin * dy) / cells.resolution))
    row = int(np.floor((cells.cos * dy - cells.sin * dx) / cells.resolution))
    return row, column
