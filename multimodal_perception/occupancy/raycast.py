"""Occupancy from LiDAR rays: hit cells are occupied, cells passed low over the ground are free.

Around each LiDAR the plane is cut into azimuth bins and range bins. The lowest ray that passes a bin
is the lowest one among the returns beyond it, so one sweep from the far end inwards tells for every
bin how high over the ground it has been seen through (the virtual scan of Petrovskaya and Thrun 2009,
read for free space). No ray is traversed cell by cell.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numba
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.frame import OccupancyGrid, SensorFrame
from multimodal_perception.preprocess.ground import Cloud, GroundModel


@dataclass(frozen=True)
class RaycastConfig:
    """Parameters of the ray-cast occupancy.

    extent: half side of the square grid around base_link. resolution: side of a cell. obstacle:
    heights over the ground at which a return is an obstacle to the vehicle; above are bridges and
    branches. hit: occupied mass of one return. free: free mass of a ray that grazes the ground; it
    falls to none for a ray that passes `see_over` above it, where a lower obstacle may hide.
    see_over: that height. azimuth_bins: around each LiDAR; about as many as it has columns.
    """

    extent: float = field(default=40.0, metadata={"min": 1.0, "max": 200.0, "unit": "m"})
    resolution: float = field(default=0.2, metadata={"min": 0.05, "max": 2.0, "unit": "m"})
    obstacle: tuple[float, float] = (0.25, 2.2)
    hit: float = field(default=0.5, metadata={"min": 0.01, "max": 0.99})
    free: float = field(default=0.9, metadata={"min": 0.01, "max": 0.99})
    see_over: float = field(default=0.8, metadata={"min": 0.05, "max": 3.0, "unit": "m"})
    azimuth_bins: int = field(default=1800, metadata={"min": 90, "max": 7200})

    def __post_init__(self) -> None:
        if not 0 < self.obstacle[0] < self.obstacle[1]:
            raise ValueError("obstacle must be two rising heights above 0")
        if 2 * self.extent / self.resolution > 4000:
            raise ValueError("extent and resolution make more than 4000 x 4000 cells")


class RaycastMapper:
    """LiDAR returns of one frame to free, occupied and unknown cells around the vehicle."""

    def __init__(self, config: RaycastConfig | None = None) -> None:
        self.config = config or RaycastConfig()
        c = self.config
        self._size = round(2 * c.extent / c.resolution)
        middles = (np.arange(self._size) + 0.5) * c.resolution - c.extent
        x, y = np.meshgrid(middles, middles)
        self._middles = np.column_stack([x.ravel(), y.ravel()])
        # Where each cell lies in the bins around a LiDAR: only a moved LiDAR needs it anew.
        self._bins: dict[tuple[float, float], NDArray[np.int32]] = {}

    def update(self, frame: SensorFrame, cloud: Cloud) -> OccupancyGrid:
        """The grid of one frame, in its base_frame; all unknown without LiDAR points."""
        c = self.config
        shape = (self._size, self._size)
        free = np.zeros(self._size**2, np.float32)
        occupied = np.zeros(self._size**2, np.float32)
        if len(cloud.points):
            ground = self._ground(cloud.ground)
            for index, origin in enumerate(cloud.origins):
                slopes = _lowest_slopes(
                    cloud.points,
                    cloud.height,
                    cloud.source == index,
                    origin,
                    c.azimuth_bins,
                    self._range_bins(),
                    np.float32(c.resolution),
                    c.obstacle[1],
                )
                bins = self._cells_to_bins(float(origin[0]), float(origin[1]))
                _see(free, slopes, bins, ground, origin[2], c.resolution, c.free, c.see_over)
            low, high = c.obstacle
            _hit(
                occupied, free, cloud.points, cloud.height, low, high, c.extent, c.resolution, c.hit
            )
        return OccupancyGrid(
            frame.stamp_ns,
            frame.base_frame,
            c.resolution,
            (-c.extent, -c.extent),
            free.reshape(shape),
            occupied.reshape(shape),
        )

    def _range_bins(self) -> int:
        # The grid's corners, and a LiDAR that sits some metres from base_link.
        return int((self.config.extent * 1.4143 + 10.0) / self.config.resolution)

    def _ground(self, model: GroundModel) -> NDArray[np.float32]:
        return model.at(self._middles[:, 0], self._middles[:, 1])

    def _cells_to_bins(self, x: float, y: float) -> NDArray[np.int32]:
        key = round(x, 2), round(y, 2)
        if key not in self._bins:
            if len(self._bins) >= 16:
                self._bins.clear()
            offset = self._middles - key
            turn = np.arctan2(offset[:, 1], offset[:, 0]) / (2 * np.pi) + 1.0
            azimuth = (turn * self.config.azimuth_bins).astype(np.int32) % self.config.azimuth_bins
            distance = (np.hypot(*offset.T) / self.config.resolution).astype(np.int32)
            distance = np.minimum(distance, self._range_bins() - 1)
            self._bins[key] = azimuth * np.int32(self._range_bins()) + distance
        return self._bins[key]


@numba.njit(cache=True, fastmath=True)
def _lowest_slopes(  # type: ignore[no-untyped-def]
    points, height, chosen, origin, azimuths, ranges, resolution, ceiling
):
    """Slope (azimuths, ranges) of the lowest ray that passes each bin; +inf where none does."""
    slopes = np.full((azimuths, ranges), np.float32(1e9), np.float32)
    scale = np.float32(azimuths / (2 * np.pi))
    cell = resolution
    for i in range(len(points)):
        # Reflections from below the road never went where they seem to have been.
        if not chosen[i] or height[i] < -0.3 or height[i] > ceiling:
            continue
        x, y = points[i, 0] - origin[0], points[i, 1] - origin[1]
        distance = np.sqrt(x * x + y * y)
        if distance < cell:
            continue
        a = int((np.arctan2(y, x) + np.float32(2 * np.pi)) * scale) % azimuths
        # The return's own bin is not passed.
        r = min(int(distance / cell), ranges) - 1
        slope = (points[i, 2] - origin[2]) / distance
        if r >= 0 and slope < slopes[a, r]:
            slopes[a, r] = slope
    for a in range(azimuths):
        for r in range(ranges - 2, -1, -1):
            slopes[a, r] = min(slopes[a, r], slopes[a, r + 1])
    return slopes


@numba.njit(cache=True)
def _see(free, slopes, bins, ground, origin_z, resolution, mass, see_over):  # type: ignore[no-untyped-def]
    ranges = slopes.shape[1]
    flat = slopes.reshape(-1)
    for i in range(len(bins)):
        slope = flat[bins[i]]
        if slope < np.float32(1e8):
            distance = (bins[i] % ranges + np.float32(0.5)) * resolution
            above = origin_z + slope * distance - ground[i]
            seen = mass * min(max(1.0 - above / see_over, 0.0), 1.0)
            free[i] = max(free[i], seen)


@numba.njit(cache=True)
def _hit(occupied, free, points, height, low, high, extent, resolution, mass):  # type: ignore[no-untyped-def]
    size = int(np.sqrt(len(occupied)) + 0.5)
    for i in range(len(points)):
        if low < height[i] < high:
            column = int(np.floor((points[i, 0] + extent) / resolution))
            row = int(np.floor((points[i, 1] + extent) / resolution))
            if 0 <= column < size and 0 <= row < size:
                k = row * size + column
                occupied[k] += (np.float32(0.99) - occupied[k]) * mass
    # A pole leaves most of its cell free: what was hit outweighs what was passed beside it.
    for k in range(len(occupied)):
        free[k] *= 1.0 - occupied[k]
