"""The ground under the vehicle's surroundings: a height for each cell of a polar grid.

In each sector the ground is followed outwards from the vehicle: a ring's lowest return continues it if
it lies near where the line so far leads. Slopes and kerbs bend the line; a car's side, or a reflection
from below the road, lies too far from it and is passed over.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numba
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.frame import OwnVehicle, SensorFrame
from multimodal_perception.occupancy.cells import FULL, azimuth
from multimodal_perception.pointcloud.intensity import exposure, full_scale

# Over how many metres without ground the line may bend: behind longer shadows lie bonnets as low as a
# hill would be.
LONGEST = 4.0
# What rises more steeply behind a doubtful piece of ground tells that it is a thing.
STEEP = 0.25
# What stands about is seen up to so high and so far, metres.
STREET_HIGH, STREET_FAR = 3.0, 40.0
# Of a sweep so many points are looked at for its exposure.
EXPOSED = 16384
# What is further away is no place.
NOWHERE_M = 1e8
NOWHERE = OwnVehicle(0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class GroundConfig:
    """How the ground is followed. Metres; slopes in metres a metre.

    sectors: of the polar grid, around the vehicle. ring_m: width of its rings. max_range: points
    further away are left out. step: how far from the line a return may lie. bend: by how much more
    for each metre gone since the last ground. max_slope: of the line itself. clearance: height up
    to which a return is ground.
    """

    sectors: int = field(default=180, metadata={"min": 8, "max": 720})
    ring_m: float = field(default=0.5, metadata={"min": 0.1, "max": 5.0, "unit": "m"})
    max_range: float = field(default=80.0, metadata={"min": 5.0, "max": 300.0, "unit": "m"})
    step: float = field(default=0.14, metadata={"min": 0.01, "max": 1.0, "unit": "m"})
    bend: float = field(default=0.08, metadata={"min": 0.0, "max": 1.0})
    max_slope: float = field(default=0.25, metadata={"min": 0.0, "max": 1.0})
    clearance: float = field(default=0.22, metadata={"min": 0.02, "max": 1.0, "unit": "m"})


@dataclass(frozen=True)
class GroundModel:
    """heights: (sectors, rings) float32, z of the ground in base_link at each cell's middle."""

    heights: NDArray[np.float32]
    ring_m: float

    def at(self, x: NDArray[np.floating], y: NDArray[np.floating]) -> NDArray[np.float32]:
        """Ground z in metres at points (N,), (N,) of base_link; no place counts as its origin."""
        xy = np.column_stack([x, y]).astype(np.float32)
        xy[~(np.abs(xy) < NOWHERE_M).all(axis=1)] = 0.0
        return _sample(*_places(xy, *self.heights.shape, np.float32(self.ring_m)), self.heights)


@dataclass(frozen=True)
class Cloud:
    """All LiDAR points of a frame over their ground, shared by the stages.

    points: (N, 4) float32, base_link. height: (N,) float32, metres above the ground.
    is_ground: (N,) bool. origins: (L, 3) float32, where each LiDAR sits. source: (N,) uint8, index into
    origins.
    """

    points: NDArray[np.float32]
    height: NDArray[np.float32]
    is_ground: NDArray[np.bool_]
    ground: GroundModel
    origins: NDArray[np.float32]
    source: NDArray[np.uint8]
    doubtful: NDArray[np.bool_] | None = None

    @property
    def levelled(self) -> NDArray[np.float32]:
        """Points (N, 4) as they would lie on level ground: z is the height above it."""
        points = self.points.copy()
        points[:, 2] = self.height
        return points

    def select(self, kept: NDArray[np.bool_]) -> Cloud:
        """The points of a mask (N,), over the same ground."""
        return replace(
            self,
            points=self.points[kept],
            height=self.height[kept],
            is_ground=self.is_ground[kept],
            source=self.source[kept],
            doubtful=None if self.doubtful is None else self.doubtful[kept],
        )

    @property
    def certain(self) -> Cloud:
        """The cloud without its doubtful returns; itself in clear air."""
        return self if self.doubtful is None else self.select(~self.doubtful)


def ground_cloud(frame: SensorFrame, config: GroundConfig | None = None) -> Cloud:
    """Bring all points of a frame into base_link and measure each one's height over the ground.

    Points beyond max_range are left out, and those of the vehicle itself. Intensities become
    reflectivity, 0 to 1, as bright for each LiDAR as streets usually are.
    """
    config = config or GroundConfig()
    own = np.array(frame.own_vehicle or NOWHERE, np.float32)
    clouds, sources, origins = [], [], []
    for index, name in enumerate(frame.lidars):
        pose = frame.reference_from_sensor(name)
        sweep = frame.lidars[name].points
        share = np.float32(1.0 / full_scale(sweep[:, 3]))
        points = _move(sweep, pose.astype(np.float32), config.max_range, own, share)
        clouds.append(points)
        sources.append(np.full(len(points), index, np.uint8))
        origins.append(pose[:3, 3])
    points, source = np.zeros((0, 4), np.float32), np.zeros(0, np.uint8)
    if clouds:
        points = clouds[0] if len(clouds) == 1 else np.concatenate(clouds)
        source = np.concatenate(sources)
    ground, height = follow_ground(points, config)
    is_ground = height < config.clearance
    _expose(points, height, config.clearance, map(len, clouds))
    return Cloud(
        points,
        height,
        is_ground,
        ground,
        np.array(origins, np.float32).reshape(-1, 3),
        source,
    )


def follow_ground(
    points: NDArray[np.float32], config: GroundConfig | None = None
) -> tuple[GroundModel, NDArray[np.float32]]:
    """The ground below points (N, 4) of base_link, and the height (N,) of each above it, metres."""
    config = config or GroundConfig()
    rings = int(np.ceil(config.max_range / config.ring_m))
    heights = np.zeros((config.sectors, rings), np.float32)
    places = _places(points, *heights.shape, np.float32(config.ring_m))
    if len(points):
        limits = config.step, config.bend, config.max_slope
        _follow(points, *places, heights, config.ring_m, *limits)
    return GroundModel(heights, config.ring_m), points[:, 2] - _sample(*places, heights)


def _expose(
    points: NDArray[np.float32],
    height: NDArray[np.float32],
    clearance: float,
    counts: Iterable[int],
) -> None:
    """Make the points (N, 4) of each LiDAR, so many of each in turn, as bright as what stands about on
    streets usually is. height: (N,) over the ground."""
    start = 0
    for count in counts:
        mine = slice(start, start + count)
        standing = _standing(points[mine], height[mine], clearance, max(1, count // EXPOSED))
        _brighten(points[mine], np.float32(exposure(standing)))
        start += count


@numba.njit(cache=True, nogil=True)
def _standing(points, height, clearance, step):  # type: ignore[no-untyped-def]
    """Intensities of what stands about, of every so manyth point."""
    shares = np.empty(len(points) // step + 1, np.float32)
    n = 0
    for i in range(0, len(points), step):
        near = abs(points[i, 0]) < STREET_FAR and abs(points[i, 1]) < STREET_FAR
        if near and clearance <= height[i] < STREET_HIGH:
            shares[n] = points[i, 3]
            n += 1
    return shares[:n]


@numba.njit(cache=True, nogil=True)
def _brighten(points, gain):  # type: ignore[no-untyped-def]
    for i in range(len(points)):
        points[i, 3] = min(points[i, 3] * gain, np.float32(1.0))


@numba.njit(cache=True, nogil=True)
def _move(points, pose, max_range, own, share):  # type: ignore[no-untyped-def]
    result = np.empty((len(points), 4), np.float32)
    n = 0
    limit = np.float32(max_range) ** 2
    for i in range(len(points)):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        u = pose[0, 0] * x + pose[0, 1] * y + pose[0, 2] * z + pose[0, 3]
        v = pose[1, 0] * x + pose[1, 1] * y + pose[1, 2] * z + pose[1, 3]
        w = pose[2, 0] * x + pose[2, 1] * y + pose[2, 2] * z + pose[2, 3]
        if own[0] < u < own[1] and own[2] < v < own[3]:
            continue
        if u * u + v * v < limit and abs(w) < max_range:
            result[n, 0], result[n, 1], result[n, 2] = u, v, w
            result[n, 3] = max(points[i, 3] * share, np.float32(0.0))
            n += 1
    return result[:n]


@numba.njit(cache=True, nogil=True, fastmath=True)
def _places(points, sectors, rings, ring_m):  # type: ignore[no-untyped-def]
    """Sector (N,) int32 of each point, and how many rings (N,) float32 it is away."""
    sector, away = np.empty(len(points), np.int32), np.empty(len(points), np.float32)
    scale, full = np.float32(sectors / FULL), np.float32(FULL)
    per_ring = np.float32(1.0) / ring_m
    for i in range(len(points)):
        x, y = points[i, 0], points[i, 1]
        at = np.int32((azimuth(x, y) + full) * scale)
        at = at - sectors if at >= sectors else at
        sector[i] = at - sectors if at >= sectors else at
        away[i] = np.sqrt(x * x + y * y) * per_ring
    return sector, away


@numba.njit(cache=True, nogil=True)
def _follow(points, sector_of, away, heights, ring_m, step, bend, max_slope):  # type: ignore[no-untyped-def]
    sectors, rings = heights.shape
    cells = np.empty(len(points), np.int32)
    starts = np.zeros(sectors * rings + 1, np.int32)
    for i in range(len(points)):
        cells[i] = sector_of[i] * rings + min(np.int32(away[i]), rings - 1)
        starts[cells[i] + 1] += 1
    for c in range(sectors * rings):
        starts[c + 1] += starts[c]
    place = starts[:-1].copy()
    z = np.empty(len(points), np.float32)
    for i in range(len(points)):
        z[place[cells[i]]] = points[i, 2]
        place[cells[i]] += 1
    found = np.full((sectors, rings), np.nan, np.float32)
    for sector in range(sectors):
        last_r, last_z, slope = 0.0, 0.0, 0.0
        for ring in range(rings):
            cell = sector * rings + ring
            r = (ring + 0.5) * ring_m
            gap = r - last_r
            expected = last_z + slope * gap
            tolerance = step + bend * min(gap, LONGEST)
            if last_r == 0.0:
                tolerance += 0.1
            lowest = np.inf
            for k in range(starts[cell], starts[cell + 1]):
                # What lies further below is a reflection, not the ground.
                if expected - tolerance <= z[k] < lowest:
                    lowest = z[k]
            if lowest > expected + step and _rises(z, starts, cell, rings - ring, lowest, ring_m):
                continue
            if lowest <= expected + tolerance:
                if last_r > 0.0:
                    # The slope follows over some metres, so that one kerb does not tilt the road.
                    weight = min(gap / 4.0, 0.6)
                    slope += weight * ((lowest - last_z) / gap - slope)
                    slope = min(max(slope, -max_slope), max_slope)
                last_r, last_z = r, lowest
                found[sector, ring] = lowest
    _fill(found, heights)


@numba.njit(cache=True, nogil=True)
def _rises(z, starts, cell, left, lowest, ring_m):  # type: ignore[no-untyped-def]
    """Whether anything in the sector's next 2 m rises steeply over a ring's lowest return.

    Behind a shadow a bumper or a bonnet may pass for ground that has risen there.
    """
    for ahead in range(1, min(int(2.0 / ring_m) + 1, left)):
        beyond = np.inf
        for k in range(starts[cell + ahead], starts[cell + ahead + 1]):
            if z[k] > lowest - 0.5:
                beyond = min(beyond, z[k])
        if np.inf > beyond > lowest + STEEP * ahead * ring_m:
            return True
    return False


@numba.njit(cache=True, nogil=True)
def _fill(found, heights):  # type: ignore[no-untyped-def]
    """Between the ground cells of a sector linearly, then the median of three sectors."""
    sectors, rings = found.shape
    filled = np.empty_like(heights)
    for sector in range(sectors):
        last, last_z = -1, np.float32(0.0)
        for ring in range(rings):
            if np.isnan(found[sector, ring]):
                continue
            for k in range(last + 1, ring):
                share = np.float32((k - last) / (ring - last))
                filled[sector, k] = last_z + share * (found[sector, ring] - last_z)
            filled[sector, ring] = last_z = found[sector, ring]
            last = ring
        for k in range(last + 1, rings):
            filled[sector, k] = last_z
    for sector in range(sectors):
        for ring in range(rings):
            a = filled[sector - 1, ring]
            b = filled[sector, ring]
            c = filled[(sector + 1) % sectors, ring]
            heights[sector, ring] = max(min(a, b), min(max(a, b), c))


@numba.njit(cache=True, nogil=True, fastmath=True)
def _sample(sector, away, heights):  # type: ignore[no-untyped-def]
    """Ground z (N,) float32 at places, linear between the middles of neighbouring rings."""
    rings = heights.shape[1]
    result = np.empty(len(sector), np.float32)
    for i in range(len(sector)):
        r = max(away[i] - np.float32(0.5), np.float32(0.0))
        low = min(np.int32(r), rings - 2)
        share = min(r - np.float32(low), np.float32(1.0))
        before = heights[sector[i], low]
        result[i] = before + share * (heights[sector[i], low + 1] - before)
    return result
