"""Map with a fixed origin: keeps the cells that the grid around the vehicle has left behind."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.geometry import poses
from multimodal_perception.geometry.stamps import NANOSECONDS_PER_SECOND
from multimodal_perception.occupancy.evidence import shift_layer
from multimodal_perception.occupancy.layers import KNOWN_MASS, coarsen
from multimodal_perception.perception import OccupancyGrid

Layer = NDArray[np.float32]


@dataclass(frozen=True)
class Window:
    """Part of a map: column and row of its first cell, and its size in cells."""

    column: int
    row: int
    columns: int
    rows: int


class AccumulatedMap:
    """Square map in the odometry frame, of which the grid around the vehicle is a window.

    Cells that are known in the grid replace those of the map; all others keep their last value. The
    origin stays where it is while the grid is inside of the map. When the grid reaches the border, the
    map is moved so that the grid is in its middle again, and the cells that leave it are dropped.
    origins: number of origins so far. The map is cleared when the stamps go back or the odometry jumps.
    """

    def __init__(self, size_m: float, resolution: float) -> None:
        """size_m: side of the map, m; a map that is not larger than the grid is the grid itself.

        resolution: side of a cell, m, rounded to a multiple of the grid's resolution.
        """
        self.size_m, self.resolution = size_m, resolution
        self.origins = 0
        self._layers: list[Layer] = []
        self._cell_m = resolution
        self._corner = (0, 0)
        self._frame_id = ""
        self._stamp_ns: int | None = None
        self._pose: NDArray[np.float64] | None = None

    def clear(self) -> None:
        """Delete all cells and the origin."""
        self._layers = []

    def observe_motion(self, stamp_ns: int, odom_from_base: NDArray[np.float64] | None) -> bool:
        """Clear the map if the stamps go back or the pose (4, 4) of the vehicle in odom jumps.

        Call it for each frame, also for those whose grid is not added. Returns whether it was cleared.
        """
        if odom_from_base is None or not poses.is_rigid(odom_from_base):
            return False
        cleared = False
        if self._stamp_ns is not None and self._pose is not None:
            seconds = (stamp_ns - self._stamp_ns) / NANOSECONDS_PER_SECOND
            if seconds < 0 or poses.is_odometry_jump(self._pose, odom_from_base, seconds):
                cleared = True
                self.clear()
        self._stamp_ns, self._pose = stamp_ns, odom_from_base
        return cleared

    def add(self, grid: OccupancyGrid) -> Window:
        """Write a grid that is aligned with the odometry frame into the map; returns its window."""
        coarse, factor = align_and_coarsen(grid, self.resolution)
        rows, columns = coarse.free.shape
        cell_m = grid.resolution * factor
        corner = round(coarse.origin[0] / cell_m), round(coarse.origin[1] / cell_m)
        side = max(round(self.size_m / cell_m), rows, columns)
        if not self._layers or self._frame_id != grid.frame_id or len(self._layers[0]) != side:
            self._layers = [np.zeros((side, side), np.float32) for _ in range(3)]
            self._frame_id, self._cell_m = grid.frame_id, cell_m
            self._corner = _centred(corner, (columns, rows), side)
            self.origins += 1
        at = corner[0] - self._corner[0], corner[1] - self._corner[1]
        if min(at) < 0 or at[0] + columns > side or at[1] + rows > side:
            moved = _centred(corner, (columns, rows), side)
            shift = moved[1] - self._corner[1], moved[0] - self._corner[0]
            self._layers = [shift_layer(layer, *shift) for layer in self._layers]
            self._corner, self.origins = moved, self.origins + 1
            at = corner[0] - moved[0], corner[1] - moved[1]
        window = Window(at[0], at[1], columns, rows)
        conflict = np.zeros_like(coarse.free) if coarse.conflict is None else coarse.conflict
        sources = coarse.free, coarse.occupied, conflict
        known = coarse.free + coarse.occupied + conflict > KNOWN_MASS
        for layer, source in zip(self._layers, sources, strict=True):
            part = layer[at[1] : at[1] + rows, at[0] : at[0] + columns]
            part[known] = source[known]
        return window

    def snapshot(self, stamp_ns: int, window: Window | None = None) -> OccupancyGrid | None:
        """A copy of the map, or of a window of it; None while it is empty."""
        if not self._layers:
            return None
        side = len(self._layers[0])
        w = window or Window(0, 0, side, side)
        rows, columns = slice(w.row, w.row + w.rows), slice(w.column, w.column + w.columns)
        corner = self._corner[0] + w.column, self._corner[1] + w.row
        origin = message_origin(corner, self._cell_m)
        free, occupied, conflict = (layer[rows, columns].copy() for layer in self._layers)
        return OccupancyGrid(
            stamp_ns, self._frame_id, self._cell_m, origin, free, occupied, conflict
        )


def message_origin(corner: tuple[int, int], cell_m: float) -> tuple[float, float]:
    """x and y of a corner that is given in cells, m: multiples of the resolution of the message.

    nav_msgs/MapMetaData has a resolution in float32. Nav2 warns about origins that are not multiples of
    that value; the difference to the exact position is below a micrometre per metre.
    """
    rounded = float(np.float32(cell_m))
    return corner[0] * rounded, corner[1] * rounded


def align_and_coarsen(grid: OccupancyGrid, resolution: float) -> tuple[OccupancyGrid, int]:
    """The grid with larger cells, whose borders are at multiples of the cell size; and the factor.

    resolution: side of the new cells, m, rounded to a multiple of the grid's. Grids of successive
    frames then have the same cells, wherever their corners are.
    """
    rows, columns = grid.free.shape
    factor = min(max(round(resolution / grid.resolution), 1), rows, columns)
    first = [round(v / grid.resolution) for v in grid.origin]
    left, bottom = (
        -cell % factor if number >= 2 * factor else 0
        for cell, number in zip(first, (columns, rows), strict=True)
    )
    cut = OccupancyGrid(
        grid.stamp_ns,
        grid.frame_id,
        grid.resolution,
        (grid.origin[0] + left * grid.resolution, grid.origin[1] + bottom * grid.resolution),
        grid.free[bottom:, left:],
        grid.occupied[bottom:, left:],
        None if grid.conflict is None else grid.conflict[bottom:, left:],
    )
    return coarsen(cut, factor), factor


def _centred(corner: tuple[int, int], size: tuple[int, int], side: int) -> tuple[int, int]:
    """Corner of a map whose middle is that of a window at `corner` with `size`; all in cells."""
    return corner[0] - (side - size[0]) // 2, corner[1] - (side - size[1]) // 2
