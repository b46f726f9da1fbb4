"""Where the cells of a grid lie in base_link, for the kernels that fill them."""

from __future__ import annotations

import math
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

FULL = 2 * np.pi
# float32, so that kernels of float32 stay vectors of it.
QUARTER, HALF, LEAST = np.float32(np.pi / 2), np.float32(np.pi), np.float32(1e-30)
A0, A1, A2 = np.float32(0.99997726), np.float32(-0.33262347), np.float32(0.19354346)
A3, A4, A5 = np.float32(-0.11643287), np.float32(0.05265332), np.float32(-0.01172120)


class Cells(NamedTuple):
    """A square of cells on the ground plane of base_link.

    size: cells a side. resolution: metres a cell. cos, sin: of the angle from base_link's x axis to
    the direction in which columns grow. x, y: corner of cell (0, 0) in base_link, metres.
    """

    size: int
    resolution: float
    cos: float
    sin: float
    x: float
    y: float

    @classmethod
    def around_base(cls, size: int, resolution: float) -> Cells:
        """Cells centred on base_link, along its axes."""
        corner = -0.5 * size * resolution
        return cls(size, resolution, 1.0, 0.0, corner, corner)

    def window(self, x: float, y: float, radius: float) -> tuple[int, int, int, int]:
        """First row, last row + 1, first column, last column + 1 of a circle in base_link."""
        dx, dy, cell = x - self.x, y - self.y, self.resolution
        column, row = (self.cos * dx + self.sin * dy) / cell, (self.cos * dy - self.sin * dx) / cell
        reach = radius / cell + 1.0
        ends = row - reach, row + reach, column - reach, column + reach
        top, bottom, left, right = (min(max(math.floor(v), 0), self.size) for v in ends)
        return top, min(bottom + 1, self.size), left, min(right + 1, self.size)

    def middles(
        self, rows: NDArray[np.integer], columns: NDArray[np.integer]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """x and y in base_link of the middles of cells, metres, shaped as the arguments."""
        u = (columns + 0.5) * self.resolution
        v = (rows + 0.5) * self.resolution
        return self.x + self.cos * u - self.sin * v, self.y + self.sin * u + self.cos * v


@numba.njit(cache=True, nogil=True, inline="always")
def middle_of(cells, row, column):  # type: ignore[no-untyped-def]
    """x and y in base_link of a cell's middle."""
    u = (column + 0.5) * cells.resolution
    v = (row + 0.5) * cells.resolution
    return cells.x + cells.cos * u - cells.sin * v, cells.y + cells.sin * u + cells.cos * v


@numba.njit(cache=True, nogil=True, inline="always")
def cell_at(cells, x, y):  # type: ignore[no-untyped-def]
    """Row and column of the cell that holds a point of base_link; they may lie off the grid."""
    dx, dy = x - cells.x, y - cells.y
    column = int(np.floor((cells.cos * dx + cells.sin * dy) / cells.resolution))
    row = int(np.floor((cells.cos * dy - cells.sin * dx) / cells.resolution))
    return row, column


@numba.njit(cache=True, nogil=True, fastmath=True, inline="always")
def azimuth(x, y):  # type: ignore[no-untyped-def]
    """arctan2(y, x) in [-pi, pi] within 4e-6 (Hastings 1955, sheet 11): a third of its time."""
    a, b = abs(x), abs(y)
    t = min(a, b) / max(max(a, b), LEAST)
    s = t * t
    r = A5 * s + A4
    r = (r * s + A3) * s + A2
    r = ((r * s + A1) * s + A0) * t
    r = QUARTER - r if b > a else r
    r = HALF - r if x < 0 else r
    return -r if y < 0 else r
