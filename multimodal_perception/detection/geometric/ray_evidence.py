"""Evidence from LiDAR rays on a box: returns inside it, rays through it and rays above it.

Every return proves that the space between the LiDAR and the return is empty. A solid body cannot be
where rays passed below its top, it is not higher than rays that passed above it, and the occluded
part of an object can only be where no ray passed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.kernels import njit
from multimodal_perception.pointcloud.ground_segmentation import Cloud

# Azimuth bins of a full circle: half a degree each.
AZIMUTH_BINS = 720
# Values of Rays.owner for returns at obstacle height without a cluster, lower ones and higher ones.
UNCLUSTERED, GROUND_RETURN, HIGH_RETURN = -1, -2, -3
# Heights above the ground, metres, in which the body of every vehicle stops a ray: above the ground
# clearance and below the windows.
SOLID_HEIGHTS = (0.35, 0.75)
# Length of a ray inside a body that proves that the body is not there, metres.
MIN_PATH = 0.4
# The body is reduced by this margin on every side before, metres.
SHRINK_MARGIN = 0.15
# Returns whose elevation tangents differ by less belong to one beam.
SAME_BEAM_TANGENT = 0.0025


@dataclass(frozen=True)
class Rays:
    """All returns of a frame, sorted by LiDAR and azimuth bin.

    ends: (N, 4) float32, x y z in base_link and height above the ground, metres. owner: (N,) int32, the
    cluster of each return or one of the negative values above. starts: (L * AZIMUTH_BINS + 1,) int64,
    first return of each bin of each LiDAR. origins: (L, 3) float32, positions of the LiDARs.
    """

    ends: NDArray[np.float32]
    owner: NDArray[np.int32]
    starts: NDArray[np.int64]
    origins: NDArray[np.float32]

    def spacing(self) -> tuple[float, float]:
        """Tangent between neighbouring beams, and number of returns per square radian."""
        return _spacing(self.ends, self.starts, self.origins)

    @classmethod
    def from_cloud(cls, cloud: Cloud, owner: NDArray[np.int32]) -> Rays:
        """Sort the returns of a cloud; owner: (N,) cluster of each return, see Rays."""
        ends, sorted_owner, starts = _sort(
            cloud.points, cloud.height, cloud.source, cloud.origins, owner
        )
        return cls(ends, sorted_owner, starts, cloud.origins)


@njit(nogil=True, fastmath=True)
def _sort(points, height, source, origins, owner):  # type: ignore[no-untyped-def]
    n = len(points)
    run = np.empty(n, np.int32)
    starts = np.zeros(len(origins) * AZIMUTH_BINS + 1, np.int64)
    scale = np.float32(AZIMUTH_BINS / (2 * np.pi))
    for i in range(n):
        origin = origins[source[i]]
        k = np.arctan2(points[i, 1] - origin[1], points[i, 0] - origin[0]) * scale
        run[i] = source[i] * AZIMUTH_BINS + int(k + np.float32(AZIMUTH_BINS)) % AZIMUTH_BINS
        starts[run[i] + 1] += 1
    for k in range(len(starts) - 1):
        starts[k + 1] += starts[k]
    position = starts[:-1].copy()
    ends = np.empty((n, 4), np.float32)
    sorted_owner = np.empty(n, np.int32)
    for i in range(n):
        k = position[run[i]]
        position[run[i]] += 1
        ends[k, 0], ends[k, 1], ends[k, 2] = points[i, 0], points[i, 1], points[i, 2]
        ends[k, 3] = height[i]
        sorted_owner[k] = owner[i]
    return ends, sorted_owner, starts


@njit(nogil=True)
def _spacing(ends, starts, origins):  # type: ignore[no-untyped-def]
    gaps = np.empty(4096)
    columns = np.empty(len(origins) * AZIMUTH_BINS // 8 + 1)
    gap_count = column_count = 0
    for run in range(0, len(starts) - 1, 8):
        a, b = starts[run], starts[run + 1]
        if b - a < 8:
            continue
        origin = origins[run // AZIMUTH_BINS]
        tangents = np.empty(b - a)
        for i in range(a, b):
            distance = np.hypot(ends[i, 0] - origin[0], ends[i, 1] - origin[1])
            tangents[i - a] = (ends[i, 2] - origin[2]) / max(distance, 0.5)
        tangents.sort()
        low, high = tangents[(b - a) // 10], tangents[(b - a) - 1 - (b - a) // 10]
        columns[column_count] = 0.8 * (b - a) / max(high - low, 0.01)
        column_count += 1
        for i in range(1, b - a):
            # Returns of one beam differ by less, even between neighbouring azimuths.
            if tangents[i] - tangents[i - 1] > SAME_BEAM_TANGENT and gap_count < len(gaps):
                gaps[gap_count] = tangents[i] - tangents[i - 1]
                gap_count += 1
    if gap_count < 8:
        return 0.02, 0.0
    return np.median(gaps[:gap_count]), np.median(columns[:column_count]) * AZIMUTH_BINS / (
        2 * np.pi
    )


@njit(nogil=True)
def bin_range(box, origin):  # type: ignore[no-untyped-def]
    """First and last azimuth bin of a footprint (x, y, length, width, yaw).

    The last one may exceed AZIMUTH_BINS.
    """
    x, y = box[0] - origin[0], box[1] - origin[1]
    c, s = np.cos(box[4]), np.sin(box[4])
    centre = np.arctan2(y, x)
    low, high = 0.0, 0.0
    for k in range(4):
        u = box[2] * (0.5 if k < 2 else -0.5)
        v = box[3] * (0.5 if k % 2 == 0 else -0.5)
        corner_x, corner_y = x + c * u - s * v, y + s * u + c * v
        # Angle from the centre's direction, which does not wrap around.
        offset = np.arctan2(x * corner_y - y * corner_x, x * corner_x + y * corner_y)
        low, high = min(low, offset), max(high, offset)
    scale = AZIMUTH_BINS / (2 * np.pi)
    first = int(np.floor((centre + low) * scale)) + AZIMUTH_BINS
    last = int(np.floor((centre + high) * scale)) + AZIMUTH_BINS
    if first >= AZIMUTH_BINS:
        first, last = first - AZIMUTH_BINS, last - AZIMUTH_BINS
    return first, last


@njit(nogil=True)
def _crossing(px, py, qx, qy, half_l, half_w):  # type: ignore[no-untyped-def]
    """Parameters t at which the ray p + t q enters and leaves a rectangle.

    T_in >= t_out if it misses.
    """
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


@njit(nogil=True)
def _length_between(t_a, t_b, h_a, h_b, low, high):  # type: ignore[no-untyped-def]
    """Length of the part of [t_a, t_b] where a height from h_a to h_b is between low and high."""
    rise = h_b - h_a
    if abs(rise) < 1e-6:
        return t_b - t_a if low < h_a < high else 0.0
    a, b = (low - h_a) / rise, (high - h_a) / rise
    return max(min(max(a, b), 1.0) - max(min(a, b), 0.0), 0.0) * (t_b - t_a)


@njit(nogil=True)
def evaluate_box(  # type: ignore[no-untyped-def]
    box, ground, visible_top, own, margin, max_rays, ends, owner, starts, origins
):
    """Evidence of the rays on an upright solid box.

    Returns (rays_through, hits, foreign_returns, around, top, over).

    box: (5,) x y length width yaw. ground: z of its bottom. visible_top: height above the ground of the
    highest of its own returns. own: its cluster. margin: metres around it that count as surroundings.
    max_rays: if there are more rays, only every n-th one is evaluated, and counts n times.

    rays_through: rays with a path longer than MIN_PATH inside the body at SOLID_HEIGHTS that did
    not end in its cluster. hits: returns of its cluster inside. foreign_returns: returns of other
    clusters inside. around: other returns above the ground in the margin. top: height above the
    ground of the highest return inside that does not belong to another cluster. over: height of the
    lowest ray above visible_top that passes over the box, infinite without one.
    """
    rays_through = hits = foreign_returns = around = top = 0.0
    c, s = np.cos(box[4]), np.sin(box[4])
    half_l, half_w = box[2] / 2, box[3] / 2
    in_l = max(half_l - SHRINK_MARGIN, 0.05)
    in_w = max(half_w - SHRINK_MARGIN, 0.05)
    grown = np.array([box[0], box[1], box[2] + 2 * margin, box[3] + 2 * margin, box[4]])
    over = np.inf
    for lidar in range(len(origins)):
        ox, oy, oz = origins[lidar, 0], origins[lidar, 1], origins[lidar, 2]
        px, py = c * (ox - box[0]) + s * (oy - box[1]), c * (oy - box[1]) - s * (ox - box[0])
        if abs(px) <= half_l + margin and abs(py) <= half_w + margin:
            continue
        first, last = bin_range(grown, origins[lidar])
        count = 0
        for k in range(first, last + 1):
            run = lidar * AZIMUTH_BINS + k % AZIMUTH_BINS
            count += starts[run + 1] - starts[run]
        stride = max(count // max_rays, 1) | 1
        # The stride continues across bins. Restarted in each bin, it would select the same rings in all.
        skip = 0
        nearest = max(np.hypot(px, py) - np.hypot(half_l, half_w) - margin, 0.0) ** 2
        for k in range(first, last + 1):
            run = lidar * AZIMUTH_BINS + k % AZIMUTH_BINS
            first_ray = starts[run] + skip
            skip = (
                (first_ray - starts[run + 1]) % stride
                if first_ray < starts[run + 1]
                else first_ray - starts[run + 1]
            )
            for i in range(first_ray, starts[run + 1], stride):
                dx, dy = ends[i, 0] - ox, ends[i, 1] - oy
                if dx * dx + dy * dy < nearest:
                    continue
                qx, qy = c * dx + s * dy, c * dy - s * dx
                x, y = abs(px + qx), abs(py + qy)
                if x <= half_l + margin and y <= half_w + margin and owner[i] != GROUND_RETURN:
                    if x <= half_l and y <= half_w:
                        if owner[i] >= 0 and owner[i] != own:
                            foreign_returns += stride
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
                path = _length_between(t_in, end, h_in, h_out, SOLID_HEIGHTS[0], SOLID_HEIGHTS[1])
                if path * np.sqrt(dx * dx + dy * dy) > MIN_PATH:
                    rays_through += stride
                elif t_out < 1.0 and max(h_in, h_out) > visible_top:
                    over = min(over, max(h_in, h_out))
    return rays_through, hits, foreign_returns, around, top, over
