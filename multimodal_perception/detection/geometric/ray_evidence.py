"""What the LiDAR's rays say about a place: solid, seen through, seen over, or hidden.

A return proves the space before it empty. A body that rays cross below its top is none, one that
they pass over is no higher, and an unseen rest of an object can only lie where none went.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.pointcloud.ground_segmentation import Cloud

# Azimuth bins a turn: half a degree.
BINS = 720
# Owners of returns that stand in the searched heights but in no cluster, and of all others.
UNCLUSTERED, GROUND_RETURN, HIGH_RETURN = -1, -2, -3
# Metres. Heights over the ground in which every vehicle's body stops a ray: above the ground
# clearance, below the windows. What a ray must go inside it to prove it absent, a rim of SHRINK
# left out.
SOLID = (0.35, 0.75)
PATH = 0.4
SHRINK = 0.15
# Tangents closer than this belong to one beam.
SAME_BEAM = 0.0025


@dataclass(frozen=True)
class Rays:
    """All returns of a frame in runs of equal azimuth bin, one set of BINS runs for each LiDAR.

    ends: (N, 4) float32, x y z in base_link and height over the ground, metres. owner: (N,) int32,
    the cluster of each return or one of the negative values above. starts: (L * BINS + 1,) int64.
    origins: (L, 3) float32.
    """

    ends: NDArray[np.float32]
    owner: NDArray[np.int32]
    starts: NDArray[np.int64]
    origins: NDArray[np.float32]

    def spacing(self) -> tuple[float, float]:
        """(step, density): tangent between neighbouring beams, and returns a square radian."""
        return _spacing(self.ends, self.starts, self.origins)

    @classmethod
    def of(cls, cloud: Cloud, owner: NDArray[np.int32]) -> Rays:
        """Sort the returns of a cloud, each of which belongs to cluster `owner` (N,)."""
        ends, sorted_owner, starts = _sort(
            cloud.points, cloud.height, cloud.source, cloud.origins, owner
        )
        return cls(ends, sorted_owner, starts, cloud.origins)


@numba.njit(cache=True, nogil=True, fastmath=True)
def _sort(points, height, source, origins, owner):  # type: ignore[no-untyped-def]
    n = len(points)
    run = np.empty(n, np.int32)
    starts = np.zeros(len(origins) * BINS + 1, np.int64)
    scale = np.float32(BINS / (2 * np.pi))
    for i in range(n):
        origin = origins[source[i]]
        turn = np.arctan2(points[i, 1] - origin[1], points[i, 0] - origin[0]) * scale
        run[i] = source[i] * BINS + int(turn + np.float32(BINS)) % BINS
        starts[run[i] + 1] += 1
    for k in range(len(starts) - 1):
        starts[k + 1] += starts[k]
    place = starts[:-1].copy()
    ends = np.empty((n, 4), np.float32)
    sorted_owner = np.empty(n, np.int32)
    for i in range(n):
        k = place[run[i]]
        place[run[i]] += 1
        ends[k, 0], ends[k, 1], ends[k, 2] = points[i, 0], points[i, 1], points[i, 2]
        ends[k, 3] = height[i]
        sorted_owner[k] = owner[i]
    return ends, sorted_owner, starts


@numba.njit(cache=True, nogil=True)
def _spacing(ends, starts, origins):  # type: ignore[no-untyped-def]
    gaps = np.empty(4096)
    columns = np.empty(len(origins) * BINS // 8 + 1)
    found = used = 0
    for run in range(0, len(starts) - 1, 8):
        a, b = starts[run], starts[run + 1]
        if b - a < 8:
            continue
        origin = origins[run // BINS]
        tangents = np.empty(b - a)
        for i in range(a, b):
            across = np.hypot(ends[i, 0] - origin[0], ends[i, 1] - origin[1])
            tangents[i - a] = (ends[i, 2] - origin[2]) / max(across, 0.5)
        tangents.sort()
        low, high = tangents[(b - a) // 10], tangents[(b - a) - 1 - (b - a) // 10]
        columns[used] = 0.8 * (b - a) / max(high - low, 0.01)
        used += 1
        for i in range(1, b - a):
            # Returns of one beam differ by less than this, even from one azimuth to the next.
            if tangents[i] - tangents[i - 1] > SAME_BEAM and found < len(gaps):
                gaps[found] = tangents[i] - tangents[i - 1]
                found += 1
    if found < 8:
        return 0.02, 0.0
    return np.median(gaps[:found]), np.median(columns[:used]) * BINS / (2 * np.pi)


@numba.njit(cache=True, nogil=True)
def bin_range(box, origin):  # type: ignore[no-untyped-def]
    """First and last azimuth bin of a footprint (x, y, length, width, yaw); last may exceed BINS."""
    x, y = box[0] - origin[0], box[1] - origin[1]
    c, s = np.cos(box[4]), np.sin(box[4])
    middle = np.arctan2(y, x)
    low, high = 0.0, 0.0
    for k in range(4):
        u = box[2] * (0.5 if k < 2 else -0.5)
        v = box[3] * (0.5 if k % 2 == 0 else -0.5)
        corner_x, corner_y = x + c * u - s * v, y + s * u + c * v
        # Angle from the middle's direction, free of any wrap.
        turn = np.arctan2(x * corner_y - y * corner_x, x * corner_x + y * corner_y)
        low, high = min(low, turn), max(high, turn)
    scale = BINS / (2 * np.pi)
    first = int(np.floor((middle + low) * scale)) + BINS
    last = int(np.floor((middle + high) * scale)) + BINS
    if first >= BINS:
        first, last = first - BINS, last - BINS
    return first, last


@numba.njit(cache=True, nogil=True)
def _crossing(px, py, qx, qy, half_l, half_w):  # type: ignore[no-untyped-def]
    """Shares of the way p + t q at which it enters and leaves a rectangle; t_in >= t_out: it misses."""
    t_in, t_out = 0.0, 1e9
    for axis in range(2):
        p, q, half = (px, qx, half_l) if axis == 0 else (py, qy, half_w)
        if abs(q) < 1e-6:
            if abs(p) > half:
                return 1.0, 0.0
            continue
        near, far = (-half - p) / q, (half - p) / q
        t_in = max(t_in, min(near, far))
        t_out = min(t_out, max(near, far))
    return t_in, t_out


@numba.njit(cache=True, nogil=True)
def _within(t_a, t_b, h_a, h_b, low, high):  # type: ignore[no-untyped-def]
    """The part of [t_a, t_b] in which a height that goes from h_a to h_b lies between low and high."""
    rise = h_b - h_a
    if abs(rise) < 1e-6:
        return t_b - t_a if low < h_a < high else 0.0
    a, b = (low - h_a) / rise, (high - h_a) / rise
    return max(min(max(a, b), 1.0) - max(min(a, b), 0.0), 0.0) * (t_b - t_a)


@numba.njit(cache=True, nogil=True)
def cast(box, ground, seen_top, own, ring, most, ends, owner, starts, origins):  # type: ignore[no-untyped-def]
    """What the rays say of an upright body: (through, hits, foreign, around, top, over).

    box: (5,) x y length width yaw. ground: z below it. seen_top: height over the ground of the
    highest of its own returns. own: its cluster. ring: metres around it that count as its
    surroundings. most: of more rays than this only every n-th is looked at.

    through: rays that go further than PATH inside the body at heights that must stop them, and end
    elsewhere than on it. hits: its cluster's returns inside. foreign: those of other clusters
    inside. around: other standing returns in the ring. top: height over the ground of the highest
    return inside that is in no other cluster. over: that of the lowest ray above seen_top that
    passes over it, inf without one.
    """
    through = hits = foreign = around = top = 0.0
    c, s = np.cos(box[4]), np.sin(box[4])
    half_l, half_w = box[2] / 2, box[3] / 2
    in_l, in_w = max(half_l - SHRINK, 0.05), max(half_w - SHRINK, 0.05)
    grown = np.array([box[0], box[1], box[2] + 2 * ring, box[3] + 2 * ring, box[4]])
    over = np.inf
    for lidar in range(len(origins)):
        ox, oy, oz = origins[lidar, 0], origins[lidar, 1], origins[lidar, 2]
        px, py = c * (ox - box[0]) + s * (oy - box[1]), c * (oy - box[1]) - s * (ox - box[0])
        if abs(px) <= half_l + ring and abs(py) <= half_w + ring:
            continue
        first, last = bin_range(grown, origins[lidar])
        count = 0
        for k in range(first, last + 1):
            run = lidar * BINS + k % BINS
            count += starts[run + 1] - starts[run]
        stride = max(count // most, 1) | 1
        # Counted on from bin to bin: started anew in each, it would meet the same rings in all.
        skip = 0
        nearest = max(np.hypot(px, py) - np.hypot(half_l, half_w) - ring, 0.0) ** 2
        for k in range(first, last + 1):
            run = lidar * BINS + k % BINS
            begin = starts[run] + skip
            skip = (
                (begin - starts[run + 1]) % stride
                if begin < starts[run + 1]
                else begin - starts[run + 1]
            )
            for i in range(begin, starts[run + 1], stride):
                dx, dy = ends[i, 0] - ox, ends[i, 1] - oy
                if dx * dx + dy * dy < nearest:
                    continue
                qx, qy = c * dx + s * dy, c * dy - s * dx
                x, y = abs(px + qx), abs(py + qy)
                if x <= half_l + ring and y <= half_w + ring and owner[i] != GROUND_RETURN:
                    if x <= half_l and y <= half_w:
                        if owner[i] >= 0 and owner[i] != own:
                            foreign += stride
                        elif owner[i] != HIGH_RETURN:
                            top = max(top, ends[i, 3])
                        if owner[i] == own:
                            hits += stride
                            continue
                    elif owner[i] >= -1 and owner[i] != own:
                        around += stride
                t_in, t_out = _crossing(px, py, qx, qy, in_l, in_w)
                if t_in >= t_out or t_in > 1.0:
                    continue
                end = min(t_out, 1.0)
                dz = ends[i, 2] - oz
                h_in, h_out = oz + t_in * dz - ground, oz + end * dz - ground
                path = _within(t_in, end, h_in, h_out, SOLID[0], SOLID[1])
                if path * np.sqrt(dx * dx + dy * dy) > PATH:
                    through += stride
                elif t_out < 1.0 and max(h_in, h_out) > seen_top:
                    over = min(over, max(h_in, h_out))
    return through, hits, foreign, around, top, over
