"""What the LiDAR's rays say about a place: solid, seen through, seen over, or hidden.

A return proves the space before it empty. A body that rays cross below its top is none, one that they
pass over is no higher, and an unseen rest of an object can only lie where none went.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.preprocess.ground import Cloud

# Azimuth bins a turn: half a degree.
BINS = 720


@dataclass(frozen=True)
class Rays:
    """All returns of a frame in runs of equal azimuth bin, one set of BINS runs for each LiDAR.

    ends: (N, 4) float32, x y z in base_link and height over the ground, metres. owner: (N,) int32, the
    cluster of each return, -1 none, -2 ground. starts: (L * BINS + 1,) int64. origins: (L, 3) float32.
    """

    ends: NDArray[np.float32]
    owner: NDArray[np.int32]
    starts: NDArray[np.int64]
    origins: NDArray[np.float32]

    @classmethod
    def of(cls, cloud: Cloud, owner: NDArray[np.int32]) -> Rays:
        """Sort the returns of a cloud, each of which belongs to cluster `owner` (N,)."""
        ends, sorted_owner, starts = _sort(
            cloud.points, cloud.height, cloud.source, cloud.origins, owner
        )
        return cls(ends, sorted_owner, starts, cloud.origins)


@numba.njit(cache=True, fastmath=True)
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


@numba.njit(cache=True)
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


@numba.njit(cache=True)
def cast(box, ground, band, rule, own, ends, owner, starts, origins):  # type: ignore[no-untyped-def]
    """What the rays say of an upright body: (through, hits, foreign, hidden, over).

    box: (5,) x y length width yaw. ground: z below it. band: (low, high) heights over it at which the
    body is solid. rule: (shrink, path): a ray counts as through when it goes further than `path` metres
    inside the band of the footprint made smaller by `shrink` at each side. own: the body's cluster.
    through, hits, foreign (returns of other clusters inside), hidden (rays that end before it): counts,
    float. over: height over the ground of the lowest ray that passes over it, inf without one.
    """
    through = hits = foreign = hidden = 0.0
    over = np.inf
    c, s = np.cos(box[4]), np.sin(box[4])
    half_l, half_w = box[2] / 2, box[3] / 2
    in_l, in_w = max(half_l - rule[0], 0.05), max(half_w - rule[0], 0.05)
    for lidar in range(len(origins)):
        ox, oy, oz = origins[lidar, 0], origins[lidar, 1], origins[lidar, 2]
        px, py = c * (ox - box[0]) + s * (oy - box[1]), c * (oy - box[1]) - s * (ox - box[0])
        if abs(px) <= half_l and abs(py) <= half_w:
            continue
        first, last = bin_range(box, origins[lidar])
        for k in range(first, last + 1):
            run = lidar * BINS + k % BINS
            for i in range(starts[run], starts[run + 1]):
                dx, dy = ends[i, 0] - ox, ends[i, 1] - oy
                qx, qy = c * dx + s * dy, c * dy - s * dx
                if abs(px + qx) <= half_l and abs(py + qy) <= half_w:
                    if owner[i] == own:
                        hits += 1
                    elif owner[i] >= -1:
                        foreign += 1
                t_in, t_out = 0.0, 1e9
                for axis in range(2):
                    p, q, half = (px, qx, in_l) if axis == 0 else (py, qy, in_w)
                    if abs(q) < 1e-6:
                        if abs(p) > half:
                            t_in = 2e9
                        continue
                    near, far = (-half - p) / q, (half - p) / q
                    t_in = max(t_in, min(near, far))
                    t_out = min(t_out, max(near, far))
                if t_in >= t_out:
                    continue
                if t_in > 1.0:
                    hidden += 1
                    continue
                dz = ends[i, 2] - oz
                end = min(t_out, 1.0)
                h_in, h_out = oz + t_in * dz - ground, oz + end * dz - ground
                rise = h_out - h_in
                inside = (end - t_in) * np.hypot(dx, dy)
                if abs(rise) < 1e-6:
                    share = 1.0 if band[0] < h_in < band[1] else 0.0
                else:
                    a, b = (band[0] - h_in) / rise, (band[1] - h_in) / rise
                    share = min(max(a, b), 1.0) - max(min(a, b), 0.0)
                if share * inside > rule[1]:
                    through += 1
                elif t_out < 1.0 and max(h_in, h_out) < over and min(h_in, h_out) > band[1]:
                    over = max(h_in, h_out)
    return through, hits, foreign, hidden, over
