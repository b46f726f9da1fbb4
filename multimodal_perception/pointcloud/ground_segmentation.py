"""Ground segmentation on a polar grid, by following the ground outwards in each azimuth sector.

The idea is that of line-based ground segmentation (Himmelsbach et al., "Fast segmentation of 3D point
clouds for ground vehicles", IV 2010). The steps:

1. Transform all sweeps to base_link, and drop returns from the ego vehicle and beyond max_range.
2. Sort the points into cells of a polar grid (azimuth sectors x range bins).
3. In each sector, go outwards from the vehicle and keep a line (height and slope). The lowest return
   of a bin is ground if it is close to the line. The tolerance grows with the gap since the last
   ground bin. Slopes and kerbs bend the line. The side of a car is too high, a reflection from below
   the road too low.
4. Interpolate the bins without ground, and take the median over three neighbouring sectors.
5. Measure the height of each point above this surface; low points are ground.
6. Scale the intensities of each LiDAR (see pointcloud.intensity).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.frame import SensorFrame, VehicleFootprint
from multimodal_perception.geometry.angles import FULL_CIRCLE, azimuth
from multimodal_perception.kernels import njit
from multimodal_perception.pointcloud.intensity import estimate_gain, full_scale

# The tolerance does not grow any further for gaps longer than this: behind long shadows, the bonnets of
# parked cars are as low as rising ground would be. Metres.
MAX_GAP = 4.0
# Slope of the returns behind a ground candidate above which the candidate is an object.
STEEP_SLOPE = 0.25
# Returns behind a candidate are checked over this distance, metres.
LOOKAHEAD = 2.0
# The intensity scale is estimated from objects up to this height and distance, metres, and from about
# this number of points.
SCALE_MAX_HEIGHT, SCALE_MAX_RANGE, SCALE_POINTS = 3.0, 40.0, 16384
# GroundModel.at treats larger coordinates, infinity and NaN as invalid, metres.
MAX_COORDINATE = 1e8
NO_FOOTPRINT = VehicleFootprint(0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class GroundConfig:
    """Ground segmentation of the point cloud.

    Attributes:
        sectors: Number of azimuth sectors of the polar grid around the vehicle. Increase it for dense
            LiDARs to follow lateral slopes more closely; decrease it for sparse ones, so that each
            sector contains enough ground returns.
        bin_length: Length of the range bins of the polar grid. Increase it for LiDARs with few rings, so
            that the bins are not empty.
        max_range: Distance from the vehicle beyond which points are ignored by all stages. Increase it
            for highway driving with long-range LiDARs; larger values cost time.
        height_tolerance: Maximum vertical distance of a ground return from the expected ground height.
            Increase it for uneven terrain or noisy LiDARs; with larger values kerbs and low objects are
            classified as ground.
        tolerance_growth: Increase of height_tolerance per metre since the last ground return.
            Increase it for hilly terrain; with larger values bonnets of parked cars are classified as
            ground.
        max_slope: Maximum slope of the ground, as rise over run. Increase it for steep ramps; with
            larger values sloped surfaces of objects are more often classified as ground.
        max_ground_height: Points up to this height above the estimated ground are ground. Increase it
            for tall grass or noisy LiDARs; decrease it to detect lower obstacles.
    """

    sectors: int = field(default=180, metadata={"min": 8, "max": 720})
    bin_length: float = field(default=0.5, metadata={"min": 0.1, "max": 5.0, "unit": "m"})
    max_range: float = field(default=80.0, metadata={"min": 5.0, "max": 300.0, "unit": "m"})
    height_tolerance: float = field(default=0.14, metadata={"min": 0.01, "max": 1.0, "unit": "m"})
    tolerance_growth: float = field(default=0.08, metadata={"min": 0.0, "max": 1.0, "unit": "m/m"})
    max_slope: float = field(default=0.25, metadata={"min": 0.0, "max": 1.0, "unit": "m/m"})
    max_ground_height: float = field(default=0.22, metadata={"min": 0.02, "max": 1.0, "unit": "m"})


@dataclass(frozen=True)
class GroundModel:
    """Height of the ground on a polar grid around base_link.

    heights: (sectors, bins) float32, z in base_link at the centre of each cell, metres. bin_length:
    length of the range bins, metres.
    """

    heights: NDArray[np.float32]
    bin_length: float

    def at(self, x: NDArray[np.floating], y: NDArray[np.floating]) -> NDArray[np.float32]:
        """Ground z in metres (N,) at x (N,), y (N,) in base_link.

        Invalid positions get that of (0, 0).
        """
        xy = np.column_stack([x, y]).astype(np.float32)
        xy[~(np.abs(xy) < MAX_COORDINATE).all(axis=1)] = 0.0
        polar = _polar_positions(xy, *self.heights.shape, np.float32(self.bin_length))
        return _interpolate(*polar, self.heights)


@dataclass(frozen=True)
class Cloud:
    """All LiDAR points of a frame with their heights above the ground; used by several stages.

    points: (N, 4) float32, x y z in base_link in metres, intensity 0 to 1. height: (N,) float32, metres
    above the ground. is_ground: (N,) bool. origins: (L, 3) float32, position of each LiDAR in base_link.
    source: (N,) uint8, index into origins. possible_noise: (N,) bool, returns that may come from rain,
    fog or snow; None in clear air (see weather_noise_filter).
    """

    points: NDArray[np.float32]
    height: NDArray[np.float32]
    is_ground: NDArray[np.bool_]
    ground: GroundModel
    origins: NDArray[np.float32]
    source: NDArray[np.uint8]
    possible_noise: NDArray[np.bool_] | None = None

    @property
    def ground_relative_points(self) -> NDArray[np.float32]:
        """Points (N, 4) whose z is the height above the ground instead of z in base_link."""
        points = self.points.copy()
        points[:, 2] = self.height
        return points

    def select(self, mask: NDArray[np.bool_]) -> Cloud:
        """The points where mask (N,) is true, with the same ground model."""
        return replace(
            self,
            points=self.points[mask],
            height=self.height[mask],
            is_ground=self.is_ground[mask],
            source=self.source[mask],
            possible_noise=None if self.possible_noise is None else self.possible_noise[mask],
        )

    @property
    def reliable(self) -> Cloud:
        """The cloud without possible noise; the same object in clear air."""
        return self if self.possible_noise is None else self.select(~self.possible_noise)


def segment_ground(frame: SensorFrame, config: GroundConfig | None = None) -> Cloud:
    """Merge all sweeps of a frame in base_link and segment the ground.

    Points beyond max_range and within the ego vehicle's footprint are dropped. Intensities are scaled to
    0 to 1 so that typical streets are equally bright for every LiDAR.
    """
    config = config or GroundConfig()
    footprint = np.array(frame.vehicle_footprint or NO_FOOTPRINT, np.float32)
    clouds, sources, origins = [], [], []
    for index, name in enumerate(frame.lidars):
        pose = frame.reference_from_sensor(name)
        sweep = frame.lidars[name].points
        scale = np.float32(1.0 / full_scale(sweep[:, 3]))
        points = _transform(sweep, pose.astype(np.float32), config.max_range, footprint, scale)
        clouds.append(points)
        sources.append(np.full(len(points), index, np.uint8))
        origins.append(pose[:3, 3])
    points, source = np.zeros((0, 4), np.float32), np.zeros(0, np.uint8)
    if clouds:
        points = clouds[0] if len(clouds) == 1 else np.concatenate(clouds)
        source = np.concatenate(sources)
    ground, height = estimate_ground(points, config)
    is_ground = height < config.max_ground_height
    _normalise_intensities(points, height, config.max_ground_height, map(len, clouds))
    return Cloud(
        points,
        height,
        is_ground,
        ground,
        np.array(origins, np.float32).reshape(-1, 3),
        source,
    )


def estimate_ground(
    points: NDArray[np.float32], config: GroundConfig | None = None
) -> tuple[GroundModel, NDArray[np.float32]]:
    """Ground below points (N, 4) in base_link, and the height (N,) of each above it in metres."""
    config = config or GroundConfig()
    bins = int(np.ceil(config.max_range / config.bin_length))
    heights = np.zeros((config.sectors, bins), np.float32)
    polar = _polar_positions(points, *heights.shape, np.float32(config.bin_length))
    if len(points):
        limits = config.height_tolerance, config.tolerance_growth, config.max_slope
        _follow_ground(points, *polar, heights, config.bin_length, *limits)
    return GroundModel(heights, config.bin_length), points[:, 2] - _interpolate(*polar, heights)


def _normalise_intensities(
    points: NDArray[np.float32],
    height: NDArray[np.float32],
    min_height: float,
    counts: Iterable[int],
) -> None:
    """Scale the intensities of points (N, 4) in place, separately for each LiDAR.

    height: (N,) above the ground. min_height: of the objects that the scale is estimated from. counts:
    number of consecutive points of each LiDAR.
    """
    start = 0
    for count in counts:
        rows = slice(start, start + count)
        step = max(1, count // SCALE_POINTS)
        samples = _object_intensities(points[rows], height[rows], min_height, step)
        _scale_intensities(points[rows], np.float32(estimate_gain(samples)))
        start += count


@njit(nogil=True)
def _object_intensities(points, height, min_height, step):  # type: ignore[no-untyped-def]
    """Intensities of the returns from nearby objects, of every step-th point."""
    samples = np.empty(len(points) // step + 1, np.float32)
    n = 0
    for i in range(0, len(points), step):
        near = abs(points[i, 0]) < SCALE_MAX_RANGE and abs(points[i, 1]) < SCALE_MAX_RANGE
        if near and min_height <= height[i] < SCALE_MAX_HEIGHT:
            samples[n] = points[i, 3]
            n += 1
    return samples[:n]


@njit(nogil=True)
def _scale_intensities(points, gain):  # type: ignore[no-untyped-def]
    for i in range(len(points)):
        points[i, 3] = min(points[i, 3] * gain, np.float32(1.0))


@njit(nogil=True)
def _transform(points, pose, max_range, footprint, scale):  # type: ignore[no-untyped-def]
    """Points (M, 4) in base_link within max_range and outside the footprint, intensities scaled."""
    result = np.empty((len(points), 4), np.float32)
    n = 0
    limit = np.float32(max_range) ** 2
    for i in range(len(points)):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        u = pose[0, 0] * x + pose[0, 1] * y + pose[0, 2] * z + pose[0, 3]
        v = pose[1, 0] * x + pose[1, 1] * y + pose[1, 2] * z + pose[1, 3]
        w = pose[2, 0] * x + pose[2, 1] * y + pose[2, 2] * z + pose[2, 3]
        if footprint[0] < u < footprint[1] and footprint[2] < v < footprint[3]:
            continue
        if u * u + v * v < limit and abs(w) < max_range:
            result[n, 0], result[n, 1], result[n, 2] = u, v, w
            result[n, 3] = max(points[i, 3] * scale, np.float32(0.0))
            n += 1
    return result[:n]


@njit(nogil=True, fastmath=True)
def _polar_positions(points, sectors, bins, bin_length):  # type: ignore[no-untyped-def]
    """Sector (N,) int32 of each point, and its distance from the vehicle (N,) float32 in bins."""
    sector, distance = np.empty(len(points), np.int32), np.empty(len(points), np.float32)
    scale, full = np.float32(sectors / FULL_CIRCLE), np.float32(FULL_CIRCLE)
    bins_per_m = np.float32(1.0) / bin_length
    for i in range(len(points)):
        x, y = points[i, 0], points[i, 1]
        k = np.int32((azimuth(x, y) + full) * scale)
        k = k - sectors if k >= sectors else k
        sector[i] = k - sectors if k >= sectors else k
        distance[i] = np.sqrt(x * x + y * y) * bins_per_m
    return sector, distance


@njit(nogil=True)
def _sort_heights(points, sector, distance, sectors, bins):  # type: ignore[no-untyped-def]
    """Heights z (N,) sorted by cell (sector, then bin), and the first index of each cell."""
    cells = np.empty(len(points), np.int32)
    starts = np.zeros(sectors * bins + 1, np.int32)
    for i in range(len(points)):
        cells[i] = sector[i] * bins + min(np.int32(distance[i]), bins - 1)
        starts[cells[i] + 1] += 1
    for c in range(sectors * bins):
        starts[c + 1] += starts[c]
    position = starts[:-1].copy()
    z = np.empty(len(points), np.float32)
    for i in range(len(points)):
        z[position[cells[i]]] = points[i, 2]
        position[cells[i]] += 1
    return z, starts


@njit(nogil=True)
def _follow_ground(  # type: ignore[no-untyped-def]
    points, sector_of, distance, heights, bin_length, height_tolerance, tolerance_growth, max_slope
):
    """Fill heights (sectors, bins); see steps 2 to 4 of the module's description."""
    sectors, bins = heights.shape
    z, starts = _sort_heights(points, sector_of, distance, sectors, bins)
    ground = np.full((sectors, bins), np.nan, np.float32)
    for sector in range(sectors):
        last_r, last_z, slope = 0.0, 0.0, 0.0
        for k in range(bins):
            cell = sector * bins + k
            r = (k + 0.5) * bin_length
            gap = r - last_r
            expected = last_z + slope * gap
            tolerance = height_tolerance + tolerance_growth * min(gap, MAX_GAP)
            if last_r == 0.0:
                tolerance += 0.1
            lowest = np.inf
            for i in range(starts[cell], starts[cell + 1]):
                # Lower returns are reflections (e.g. from puddles).
                if expected - tolerance <= z[i] < lowest:
                    lowest = z[i]
            is_high = lowest > expected + height_tolerance
            if is_high and _rises_steeply(z, starts, cell, bins - k, lowest, bin_length):
                continue
            if lowest <= expected + tolerance:
                if last_r > 0.0:
                    # The slope is smoothed over some metres, so that a kerb does not tilt the line.
                    weight = min(gap / 4.0, 0.6)
                    slope += weight * ((lowest - last_z) / gap - slope)
                    slope = min(max(slope, -max_slope), max_slope)
                last_r, last_z = r, lowest
                ground[sector, k] = lowest
    _fill_gaps(ground, heights)


@njit(nogil=True)
def _rises_steeply(z, starts, cell, remaining, lowest, bin_length):  # type: ignore[no-untyped-def]
    """Whether the sector's returns within LOOKAHEAD behind a bin rise steeply above its lowest return.

    Behind a shadow, a bumper or a bonnet could otherwise be taken for rising ground. remaining: number
    of bins of the sector from this one on.
    """
    for ahead in range(1, min(int(LOOKAHEAD / bin_length) + 1, remaining)):
        next_lowest = np.inf
        for i in range(starts[cell + ahead], starts[cell + ahead + 1]):
            if z[i] > lowest - 0.5:
                next_lowest = min(next_lowest, z[i])
        if np.inf > next_lowest > lowest + STEEP_SLOPE * ahead * bin_length:
            return True
    return False


@njit(nogil=True)
def _fill_gaps(ground, heights):  # type: ignore[no-untyped-def]
    """Fill heights (sectors, bins) from ground heights with gaps (NaN).

    Linear interpolation along each sector, constant beyond the last value, then the median over three
    neighbouring sectors.
    """
    sectors, bins = ground.shape
    filled = np.empty_like(heights)
    for sector in range(sectors):
        last, last_z = -1, np.float32(0.0)
        for current in range(bins):
            if np.isnan(ground[sector, current]):
                continue
            for k in range(last + 1, current):
                fraction = np.float32((k - last) / (current - last))
                filled[sector, k] = last_z + fraction * (ground[sector, current] - last_z)
            filled[sector, current] = last_z = ground[sector, current]
            last = current
        for k in range(last + 1, bins):
            filled[sector, k] = last_z
    for sector in range(sectors):
        for k in range(bins):
            a = filled[sector - 1, k]
            b = filled[sector, k]
            c = filled[(sector + 1) % sectors, k]
            heights[sector, k] = max(min(a, b), min(max(a, b), c))


@njit(nogil=True, fastmath=True)
def _interpolate(sector, distance, heights):  # type: ignore[no-untyped-def]
    """Ground z (N,) float32 at polar positions, linear between the centres of neighbouring bins."""
    bins = heights.shape[1]
    result = np.empty(len(sector), np.float32)
    for i in range(len(sector)):
        r = max(distance[i] - np.float32(0.5), np.float32(0.0))
        low = min(np.int32(r), bins - 2)
        fraction = min(r - np.float32(low), np.float32(1.0))
        before = heights[sector[i], low]
        result[i] = before + fraction * (heights[sector[i], low + 1] - before)
    return result
