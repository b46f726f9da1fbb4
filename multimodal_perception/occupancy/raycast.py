"""Occupancy from LiDAR rays: hit cells are occupied, cells passed low over the ground are free.

Around each LiDAR the plane is cut into azimuth bins and range bins. The lowest ray that passes a bin
is the lowest one among the returns beyond it, so one sweep from the far end inwards tells for every
bin how low over the ground it has been seen through (the virtual scan of Petrovskaya and Thrun 2009,
read for free space). A second sweep, outwards, tells how high the rays go that obstacles before it have
stopped: what is seen below a car's floor or beside its mirror is not the whole column over the ground.
No ray is traversed cell by cell.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numba
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.frame import SensorFrame
from multimodal_perception.occupancy.cells import FULL, Cells, azimuth, cell_at, middle_of
from multimodal_perception.perception import OccupancyGrid
from multimodal_perception.pointcloud.ground_segmentation import Cloud

Layer = NDArray[np.float32]
# A layer of so many cells a side takes 16 MB; about 13 live at once, and two more for each mask.
MOST_CELLS = 2000
# Bins that no ray passes.
NO_RAY = np.float32(1e9)


@dataclass(frozen=True)
class RaycastConfig:
    """Parameters of the ray-cast occupancy.

    extent: half side of the square grid around base_link. resolution: side of a cell. obstacle:
    heights over the ground at which a return is an obstacle to the vehicle; above are bridges and
    branches. hit: occupied mass of one return. free: free mass of a ray that grazes the ground;
    it falls with the square of its height to none for a ray that passes `see_over` above it,
    where a lower obstacle may hide. see_over: that height. azimuth_bins: around each LiDAR; about
    as many as it has columns.
    """

    extent: float = field(default=40.0, metadata={"min": 1.0, "max": 200.0, "unit": "m"})
    resolution: float = field(default=0.2, metadata={"min": 0.05, "max": 2.0, "unit": "m"})
    obstacle: tuple[float, float] = (0.25, 2.5)
    hit: float = field(default=0.8, metadata={"min": 0.01, "max": 0.99})
    free: float = field(default=0.95, metadata={"min": 0.01, "max": 0.99})
    see_over: float = field(default=0.5, metadata={"min": 0.05, "max": 3.0, "unit": "m"})
    azimuth_bins: int = field(default=1800, metadata={"min": 90, "max": 7200})

    def __post_init__(self) -> None:
        if not 0 < self.obstacle[0] < self.obstacle[1]:
            raise ValueError("obstacle must be two rising heights above 0")
        if self.size > MOST_CELLS:
            raise ValueError(
                f"extent and resolution make {self.size} x {self.size} cells; allowed {MOST_CELLS} x"
                f" {MOST_CELLS}: coarser cells or a smaller extent"
            )

    @property
    def size(self) -> int:
        """Cells a side."""
        return round(2 * self.extent / self.resolution)


class RaycastMapper:
    """LiDAR returns of one frame to free, occupied and unknown cells around the vehicle."""

    def __init__(self, config: RaycastConfig | None = None) -> None:
        self.config = config or RaycastConfig()
        self._cells = Cells.around_base(self.config.size, self.config.resolution)
        self._caster = RayCaster(self.config)

    def update(self, frame: SensorFrame, cloud: Cloud, **others: object) -> OccupancyGrid:
        """The grid of one frame, in its base_frame; all unknown without LiDAR points.

        others: what else is known of the frame; this mapper has no use for it.
        """
        c = self.config
        free, occupied = (layer.copy() for layer in self._caster.cast(cloud, self._cells))
        return OccupancyGrid(
            frame.stamp_ns, frame.base_frame, c.resolution, (-c.extent, -c.extent), free, occupied
        )


class RayCaster:
    """Casts the rays of a cloud into cells, wherever these lie; its arrays are kept between calls."""

    def __init__(self, config: RaycastConfig) -> None:
        self.config = config
        size = config.size
        self._free, self._occupied = (np.zeros((size, size), np.float32) for _ in range(2))
        # To the grid's corners, for a LiDAR that sits some metres from base_link too.
        ranges = int((size * config.resolution * 0.7072 + 10.0) / config.resolution)
        self._slopes, self._stopped = (
            np.empty((config.azimuth_bins, ranges), np.float32) for _ in range(2)
        )

    def cast(
        self, cloud: Cloud, cells: Cells, reliability: NDArray[np.floating] | None = None
    ) -> tuple[Layer, Layer]:
        """Free and occupied masses (size, size) float32; the next call overwrites them.

        cells: of the configured size. reliability: (L,) factor in [0, 1] on the masses of each of
        the cloud's LiDARs; all 1 by default.
        """
        c = self.config
        weights = np.ones(len(cloud.origins)) if reliability is None else reliability
        weights = np.asarray(weights, np.float32)
        self._free.fill(0)
        self._occupied.fill(0)
        if not len(cloud.points):
            return self._free, self._occupied
        for index, origin in enumerate(cloud.origins):
            if weights[index] > 0:
                self._see_through(cloud, cells, index, origin, c.free * float(weights[index]))
        masses = np.float32(c.hit) * weights
        # What may be haze hides what lies behind it, and marks nothing.
        sure = cloud.certain
        _hit(self._occupied, sure.points, sure.height, sure.source, *c.obstacle, cells, masses)
        _outweigh(self._free, self._occupied)
        return self._free, self._occupied

    def _see_through(
        self, cloud: Cloud, cells: Cells, index: int, origin: NDArray[np.float32], mass: float
    ) -> None:
        c, slopes = self.config, self._slopes
        slopes.fill(NO_RAY)
        self._stopped.fill(-NO_RAY)
        filled = _unseen_slopes(
            slopes,
            self._stopped,
            cloud.points,
            cloud.height,
            cloud.source,
            index,
            origin,
            np.float32(cells.resolution),
            *(np.float32(height) for height in c.obstacle),
        )
        ground = cloud.ground
        _see(
            self._free,
            slopes,
            filled,
            cells,
            ground.heights,
            ground.ring_m,
            origin,
            mass,
            c.see_over,
        )


@numba.njit(cache=True, nogil=True, fastmath=True)
def _unseen_slopes(  # type: ignore[no-untyped-def]
    slopes, stopped, points, height, source, index, origin, resolution, low, ceiling
):
    """Fill in the slope up to which rays have not looked through each bin (azimuths, ranges).

    It is the lowest passing ray's, or that of the highest stopped before. stopped: of the same
    shape, scratch. Returns how many range bins each azimuth needs looking at.
    """
    azimuths, ranges = slopes.shape
    filled, ends = np.zeros(azimuths, np.int32), np.empty(azimuths, np.float32)
    per_cell = np.float32(1.0) / resolution
    bins, away = _bearings(points, origin, azimuths)
    for i in range(len(points)):
        # Reflections from below the road never went where they seem to have been.
        if source[i] != index or height[i] < np.float32(-0.3) or height[i] > ceiling:
            continue
        a, distance = bins[i], away[i]
        if distance < resolution:
            continue
        # The return's own bin is not passed.
        r = min(int(distance * per_cell), ranges) - 1
        slope = (points[i, 2] - origin[2]) / distance
        if r >= 0 and slope < slopes[a, r]:
            slopes[a, r] = slope
            filled[a] = max(filled[a], r + 1)
        # Cells whose middle lies a bin before the return may still hold it in a corner.
        if height[i] > low and r >= 0 and slope > stopped[a, r]:
            stopped[a, r] = slope
    for a in range(azimuths):
        lowest = NO_RAY
        for r in range(filled[a] - 1, -1, -1):
            lowest = min(lowest, slopes[a, r])
            slopes[a, r] = lowest
        # Beside a return stands what it belongs to, as wide as a column of the LiDAR at least.
        left, right = stopped[a - 1], stopped[(a + 1) % azimuths]
        highest = -NO_RAY
        for r in range(filled[a]):
            highest = max(highest, max(stopped[a, r], max(left[r], right[r])))
            slopes[a, r] = max(slopes[a, r], highest)
        ends[a] = highest
    return _bridge(slopes, filled, ends)


@numba.njit(cache=True, nogil=True, fastmath=True)
def _bearings(points, origin, azimuths):  # type: ignore[no-untyped-def]
    """Azimuth bin (N,) int32 and distance (N,) float32 on the plane, seen from a LiDAR."""
    bins, away = np.empty(len(points), np.int32), np.empty(len(points), np.float32)
    scale, full = np.float32(azimuths / FULL), np.float32(FULL)
    # By itself, so that it runs in vector registers.
    for i in range(len(points)):
        x, y = points[i, 0] - origin[0], points[i, 1] - origin[1]
        at = np.int32((azimuth(x, y) + full) * scale)
        at = at - azimuths if at >= azimuths else at
        bins[i] = at - azimuths if at >= azimuths else at
        away[i] = np.sqrt(x * x + y * y)
    return bins, away


@numba.njit(cache=True, nogil=True)
def _bridge(slopes, filled, ends):  # type: ignore[no-untyped-def]
    """Give an azimuth that lies between two columns of the LiDAR the higher ray of both.

    ends: (azimuths,) the slope of the highest ray stopped in each. Returns the new `filled`.
    """
    azimuths = len(filled)
    result = filled.copy()
    for a in range(azimuths):
        before, after = a - 1, (a + 1) % azimuths
        if filled[before] == 0:
            before = a - 2
        if filled[after] == 0:
            after = (a + 2) % azimuths
        end = min(filled[before], filled[after])
        if end > filled[a]:
            for r in range(filled[a], end):
                higher = max(slopes[before, r], slopes[after, r])
                slopes[a, r] = max(higher, ends[a])
            result[a] = end
    return result


@numba.njit(cache=True, nogil=True, fastmath=True)
def _see(  # type: ignore[no-untyped-def]
    free, slopes, filled, cells, heights, ring_m, origin, mass, see_over
):
    size, azimuths = cells.size, slopes.shape[0]
    mass, over, height = np.float32(mass), np.float32(1.0 / see_over), np.float32(origin[2])
    # A row at a time, the angles apart from the look-ups: that part runs in vector registers.
    bins, distance = np.empty(size, np.int32), np.empty(size, np.float32)
    sectors, rings = np.empty(size, np.int32), np.empty(size, np.float32)
    for i in range(size):
        _polar(bins, distance, i, cells, origin[0], origin[1], azimuths)
        _polar(sectors, rings, i, cells, 0.0, 0.0, heights.shape[0])
        for j in range(size):
            a = bins[j]
            r = int(distance[j] / np.float32(cells.resolution))
            if r >= filled[a]:
                continue
            ground = _ground_at(heights[sectors[j]], rings[j] / np.float32(ring_m))
            above = height + slopes[a, r] * distance[j] - ground
            share = max(above, np.float32(0.0)) * over
            seen = mass * max(np.float32(1.0) - share * share, np.float32(0.0))
            free[i, j] = max(free[i, j], seen)


@numba.njit(cache=True, nogil=True, fastmath=True)
def _polar(bins, distance, row, cells, x, y, count):  # type: ignore[no-untyped-def]
    """Angular bin of `count` and distance, of the middles of a row's cells, around x and y."""
    start_x, start_y = middle_of(cells, row, 0)
    dx, dy = np.float32(start_x - x), np.float32(start_y - y)
    step_x = np.float32(cells.cos * cells.resolution)
    step_y = np.float32(cells.sin * cells.resolution)
    scale, full = np.float32(count / FULL), np.float32(FULL)
    for j in range(len(bins)):
        u, v = dx + np.float32(j) * step_x, dy + np.float32(j) * step_y
        distance[j] = np.sqrt(u * u + v * v)
        at = np.int32((azimuth(u, v) + full) * scale)
        at = at - count if at >= count else at
        bins[j] = at - count if at >= count else at


@numba.njit(cache=True, nogil=True, fastmath=True, inline="always")
def _ground_at(heights, ring):  # type: ignore[no-untyped-def]
    """z of a GroundModel's sector (rings,) so many rings out: linear between their middles."""
    ring = ring - np.float32(0.5)
    low = min(max(int(np.floor(ring)), 0), len(heights) - 2)
    share = min(max(ring - np.float32(low), np.float32(0.0)), np.float32(1.0))
    return heights[low] + share * (heights[low + 1] - heights[low])


@numba.njit(cache=True, nogil=True)
def _hit(occupied, points, height, source, low, high, cells, masses):  # type: ignore[no-untyped-def]
    for i in range(len(points)):
        if low < height[i] < high:
            row, column = cell_at(cells, points[i, 0], points[i, 1])
            if 0 <= row < cells.size and 0 <= column < cells.size:
                # Returns of one sweep add up as independent ones, short of certainty.
                before = occupied[row, column]
                gain = (np.float32(0.99) - before) * masses[source[i]]
                occupied[row, column] = before + max(gain, np.float32(0.0))


@numba.njit(cache=True, nogil=True)
def _outweigh(free, occupied):  # type: ignore[no-untyped-def]
    # A pole leaves most of its cell free: what was hit outweighs what was passed beside it.
    f, o = free.reshape(-1), occupied.reshape(-1)
    for i in range(len(f)):
        f[i] *= np.float32(1.0) - o[i]
