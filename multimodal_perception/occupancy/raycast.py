"""Occupancy from LiDAR rays: cells with returns are occupied, cells under low rays are free.

The plane around each LiDAR is divided into azimuth and range bins. The lowest ray that passes a bin is
the lowest one of all returns behind it. One pass over the range bins from the outside inwards therefore
gives, for every bin, the lowest height above the ground at which a ray passed it (the virtual scan of
Petrovskaya and Thrun 2009, applied to free space). A second pass from the inside outwards gives the
highest ray that an obstacle in front has stopped: rays that pass below the floor of a car or beside its
mirror do not show that the space above the ground is free. No ray is traversed cell by cell.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.frame import Modality, SensorFrame
from multimodal_perception.geometry.angles import FULL_CIRCLE, azimuth
from multimodal_perception.kernels import njit
from multimodal_perception.occupancy.cells import GridGeometry, cell_at, cell_centre
from multimodal_perception.perception import OccupancyGrid
from multimodal_perception.pointcloud.ground_segmentation import Cloud
from multimodal_perception.rig import Rig
from multimodal_perception.sensor_use import SensorUse, of_modalities

Layer = NDArray[np.float32]
# Maximum number of cells per side. Such a layer takes 16 MB; about 13 layers are in memory at once, and
# two more for each mask.
MAX_CELLS = 2000
# Slope of bins that no ray passes.
NO_RAY = np.float32(1e9)


@dataclass(frozen=True)
class RaycastConfig:
    """Size of the occupancy grid and inverse sensor model of LiDARs, for both mappers.

    The evidential mapper uses these parameters as well.

    Attributes:
        half_extent: Half the side length of the square grid around base_link. Increase it for
            higher speeds; memory and time grow with its square.
        resolution: Side of a cell. Decrease it to represent narrow passages; memory and time grow
            with its inverse square.
        obstacle_heights: Lowest and highest height above the ground, in metres, at which a return
            is an obstacle. Set the upper value to the height of your vehicle plus a margin, so that
            bridges and branches are ignored; lower the first one to detect kerbs.
        hit_mass: Occupied mass of a single return. Decrease it if single false returns create
            obstacles.
        free_mass: Free mass of a ray directly above the ground; it decreases with the square of the
            ray's height above the ground. Decrease it if rays pass over obstacles that the LiDAR
            does not detect.
        free_clearance: Height above the ground at which a ray carries no free-space evidence any
            more, as a lower obstacle may be below it. Decrease it to require that rays pass closer
            to the ground before a cell is free.
        azimuth_bins: Number of azimuth bins around each LiDAR. Set it to about the number of
            columns (points per revolution and ring) of your LiDAR.
    """

    half_extent: float = field(default=40.0, metadata={"min": 1.0, "max": 200.0, "unit": "m"})
    resolution: float = field(default=0.2, metadata={"min": 0.05, "max": 2.0, "unit": "m"})
    obstacle_heights: tuple[float, float] = field(default=(0.25, 2.5), metadata={"unit": "m"})
    hit_mass: float = field(default=0.8, metadata={"min": 0.01, "max": 0.99})
    free_mass: float = field(default=0.95, metadata={"min": 0.01, "max": 0.99})
    free_clearance: float = field(default=0.5, metadata={"min": 0.05, "max": 3.0, "unit": "m"})
    azimuth_bins: int = field(default=1800, metadata={"min": 90, "max": 7200})

    def __post_init__(self) -> None:
        if not 0 < self.obstacle_heights[0] < self.obstacle_heights[1]:
            raise ValueError("obstacle_heights must be two increasing heights above 0")
        if self.size > MAX_CELLS:
            raise ValueError(
                f"half_extent and resolution give {self.size} x {self.size} cells; allowed: "
                f"{MAX_CELLS} x {MAX_CELLS}; use larger cells or a smaller half_extent"
            )

    @property
    def size(self) -> int:
        """Number of cells per side."""
        return round(2 * self.half_extent / self.resolution)


class RaycastMapper:
    """Occupancy mapper that uses the LiDAR points of the present frame only."""

    uses_masks = False

    def __init__(self, config: RaycastConfig | None = None) -> None:
        self.config = config or RaycastConfig()
        self._cells = GridGeometry.around_base(self.config.size, self.config.resolution)
        self._caster = RayCaster(self.config)
        self.counts: Counter[str] = Counter()

    def sensor_use(self, rig: Rig) -> SensorUse:
        """The LiDARs of a rig."""
        return SensorUse(of_modalities(rig, Modality.LIDAR))

    def update(self, frame: SensorFrame, cloud: Cloud, **others: object) -> OccupancyGrid:
        """The grid of one frame, in its base_frame; all cells are unknown without LiDAR points.

        others: boxes, masks and other inputs of an occupancy mapper, which are not used.
        """
        c = self.config
        free, occupied = (layer.copy() for layer in self._caster.cast(cloud, self._cells))
        return OccupancyGrid(
            frame.stamp_ns,
            frame.base_frame,
            c.resolution,
            (-c.half_extent, -c.half_extent),
            free,
            occupied,
        )

    def odom_grid(self, stamp_ns: int) -> OccupancyGrid | None:
        """Always None, as this mapper does not accumulate evidence in the odometry frame."""
        return None


class RayCaster:
    """Computes masses of cells from the rays of a point cloud. Its arrays are reused between calls."""

    def __init__(self, config: RaycastConfig) -> None:
        self.config = config
        size = config.size
        self._free, self._occupied = (np.zeros((size, size), np.float32) for _ in range(2))
        # Up to the corners of the grid, also for a LiDAR that is some metres away from base_link.
        ranges = int((size * config.resolution * 0.7072 + 10.0) / config.resolution)
        self._slopes, self._stopped_slopes = (
            np.empty((config.azimuth_bins, ranges), np.float32) for _ in range(2)
        )

    def cast(
        self, cloud: Cloud, cells: GridGeometry, reliability: NDArray[np.floating] | None = None
    ) -> tuple[Layer, Layer]:
        """Free and occupied masses (size, size) float32; the next call overwrites them.

        cells: must have the configured size. reliability: (L,) factor in [0, 1] on the masses of each
        LiDAR of the cloud; 1 by default.
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
                self._add_free_mass(
                    cloud, cells, index, origin, c.free_mass * float(weights[index])
                )
        masses = np.float32(c.hit_mass) * weights
        # Points that may be rain or fog stop rays, but are not obstacles.
        hits = cloud.reliable
        heights = c.obstacle_heights
        _add_hits(self._occupied, hits.points, hits.height, hits.source, *heights, cells, masses)
        _reduce_free_by_occupied(self._free, self._occupied)
        return self._free, self._occupied

    def _add_free_mass(
        self,
        cloud: Cloud,
        cells: GridGeometry,
        index: int,
        origin: NDArray[np.float32],
        mass: float,
    ) -> None:
        c, slopes = self.config, self._slopes
        slopes.fill(NO_RAY)
        self._stopped_slopes.fill(-NO_RAY)
        filled = _lowest_passing_slopes(
            slopes,
            self._stopped_slopes,
            cloud.points,
            cloud.height,
            cloud.source,
            index,
            origin,
            np.float32(cells.resolution),
            *(np.float32(height) for height in c.obstacle_heights),
        )
        ground = cloud.ground
        _fill_free(
            self._free,
            slopes,
            filled,
            cells,
            ground.heights,
            ground.bin_length,
            origin,
            mass,
            c.free_clearance,
        )


@njit(nogil=True, fastmath=True)
def _lowest_passing_slopes(  # type: ignore[no-untyped-def]
    slopes, stopped, points, height, source, index, origin, resolution, low, ceiling
):
    """Fill in the slope of the lowest ray that passed each bin (azimuths, ranges).

    The slope is at least that of the highest ray that an obstacle in front has stopped. stopped: scratch
    array of the same shape. Returns the number of range bins with a ray, by azimuth (azimuths,).
    """
    azimuths, ranges = slopes.shape
    filled, ends = np.zeros(azimuths, np.int32), np.empty(azimuths, np.float32)
    per_cell = np.float32(1.0) / resolution
    bins, distances = _bearings(points, origin, azimuths)
    for i in range(len(points)):
        # Mirror reflections below the road did not pass along the apparent ray.
        if source[i] != index or height[i] < np.float32(-0.3) or height[i] > ceiling:
            continue
        a, distance = bins[i], distances[i]
        if distance < resolution:
            continue
        # The ray does not pass the bin of its return.
        r = min(int(distance * per_cell), ranges) - 1
        slope = (points[i, 2] - origin[2]) / distance
        if r >= 0 and slope < slopes[a, r]:
            slopes[a, r] = slope
            filled[a] = max(filled[a], r + 1)
        # A cell with its centre one bin before the return may contain the return in a corner.
        if height[i] > low and r >= 0 and slope > stopped[a, r]:
            stopped[a, r] = slope
    for a in range(azimuths):
        lowest = NO_RAY
        for r in range(filled[a] - 1, -1, -1):
            lowest = min(lowest, slopes[a, r])
            slopes[a, r] = lowest
        # The obstacle of a return is at least as wide as a LiDAR column, so it covers adjacent bins.
        left, right = stopped[a - 1], stopped[(a + 1) % azimuths]
        highest = -NO_RAY
        for r in range(filled[a]):
            highest = max(highest, max(stopped[a, r], max(left[r], right[r])))
            slopes[a, r] = max(slopes[a, r], highest)
        ends[a] = highest
    return _fill_azimuth_gaps(slopes, filled, ends)


@njit(nogil=True, fastmath=True)
def _bearings(points, origin, azimuths):  # type: ignore[no-untyped-def]
    """Azimuth bin (N,) int32 and horizontal distance (N,) float32 from a LiDAR."""
    bins, distances = np.empty(len(points), np.int32), np.empty(len(points), np.float32)
    scale, full = np.float32(azimuths / FULL_CIRCLE), np.float32(FULL_CIRCLE)
    # A loop of its own, so that the compiler vectorises it.
    for i in range(len(points)):
        x, y = points[i, 0] - origin[0], points[i, 1] - origin[1]
        at = np.int32((azimuth(x, y) + full) * scale)
        at = at - azimuths if at >= azimuths else at
        bins[i] = at - azimuths if at >= azimuths else at
        distances[i] = np.sqrt(x * x + y * y)
    return bins, distances


@njit(nogil=True)
def _fill_azimuth_gaps(slopes, filled, ends):  # type: ignore[no-untyped-def]
    """Fill an azimuth bin between two columns of the LiDAR with the higher slope of both.

    ends: (azimuths,) slope of the highest ray stopped in each. Returns the new `filled`.
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


@njit(nogil=True, fastmath=True)
def _fill_free(  # type: ignore[no-untyped-def]
    free, slopes, filled, cells, heights, bin_length, origin, mass, clearance
):
    """Raise the free mass of each cell by the height of the lowest ray above its ground.

    heights: (sectors, rings) of a GroundModel, m; bin_length: length of a ring, m.
    """
    size, azimuths = cells.cells_per_side, slopes.shape[0]
    mass, over, height = np.float32(mass), np.float32(1.0 / clearance), np.float32(origin[2])
    # One row at a time. The polar coordinates are computed in loops that the compiler vectorises.
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
            ground = _ground_at(heights[sectors[j]], rings[j] / np.float32(bin_length))
            above = height + slopes[a, r] * distance[j] - ground
            relative = max(above, np.float32(0.0)) * over
            new = mass * max(np.float32(1.0) - relative * relative, np.float32(0.0))
            free[i, j] = max(free[i, j], new)


@njit(nogil=True, fastmath=True)
def _polar(bins, distance, row, cells, x, y, count):  # type: ignore[no-untyped-def]
    """Angular bin (of `count` bins) and distance of the cell centres of a row, around x, y."""
    start_x, start_y = cell_centre(cells, row, 0)
    dx, dy = np.float32(start_x - x), np.float32(start_y - y)
    step_x = np.float32(cells.cos * cells.resolution)
    step_y = np.float32(cells.sin * cells.resolution)
    scale, full = np.float32(count / FULL_CIRCLE), np.float32(FULL_CIRCLE)
    for j in range(len(bins)):
        u, v = dx + np.float32(j) * step_x, dy + np.float32(j) * step_y
        distance[j] = np.sqrt(u * u + v * v)
        at = np.int32((azimuth(u, v) + full) * scale)
        at = at - count if at >= count else at
        bins[j] = at - count if at >= count else at


@njit(nogil=True, fastmath=True, inline="always")
def _ground_at(heights, ring):  # type: ignore[no-untyped-def]
    """z of a GroundModel's sector (rings,) at a position in rings, linear between ring centres."""
    ring = ring - np.float32(0.5)
    low = min(max(int(np.floor(ring)), 0), len(heights) - 2)
    fraction = min(max(ring - np.float32(low), np.float32(0.0)), np.float32(1.0))
    return heights[low] + fraction * (heights[low + 1] - heights[low])


@njit(nogil=True)
def _add_hits(  # type: ignore[no-untyped-def]
    occupied, points, height, source, low, high, cells, masses
):
    """Add the occupied mass of returns between the heights low and high to their cells."""
    for i in range(len(points)):
        if low < height[i] < high:
            row, column = cell_at(cells, points[i, 0], points[i, 1])
            if 0 <= row < cells.cells_per_side and 0 <= column < cells.cells_per_side:
                # Returns of one sweep are combined as independent evidence, limited to 0.99.
                before = occupied[row, column]
                gain = (np.float32(0.99) - before) * masses[source[i]]
                occupied[row, column] = before + max(gain, np.float32(0.0))


@njit(nogil=True)
def _reduce_free_by_occupied(free, occupied):  # type: ignore[no-untyped-def]
    """Give returns priority over rays: a thin pole occupies a cell that most rays pass."""
    f, o = free.reshape(-1), occupied.reshape(-1)
    for i in range(len(f)):
        f[i] *= np.float32(1.0) - o[i]
