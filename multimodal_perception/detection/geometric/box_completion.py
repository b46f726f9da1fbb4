"""Where the unseen rest of an object lies: the whole box that the LiDAR's rays contradict least.

A LiDAR sees the faces turned to it, and of those only what nothing hides. Each rectangle is grown
to the size of a whole object at either end or both, along either axis; rays that went through the
space so claimed, and returns of other objects inside it, speak against a choice.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.detection.geometric.box_fit import (
    ANGLE,
    DEPTH,
    GROUND,
    MOST_POINTS,
    SHOULDER,
    TOP,
    profile,
    thinned,
    turn,
)
from multimodal_perception.detection.geometric.clustering import Clusters
from multimodal_perception.detection.geometric.ray_evidence import Rays, cast

# Cost, in shares of the object's returns, of a metre grown towards the LiDAR, to both sides, or not
# at all; away from it growth is free, as there the object hides itself.
TOWARDS, BOTH, LACKING = 0.04, 0.03, 0.10
# Less than this share of the whole size must grow.
LEAST = 0.65
# Cost of a metre by which the seen part is too wide; from this cost on there is no place.
OVERSIZE, WORST = 0.3, 1.0
# Cost of the less likely heading, and by how much a vehicle's back may look wider than it is,
# metres.
TURNED, BACK = 0.06, 0.35
# Cost of another object's return inside, as a share of its own: a side seen at a flat angle falls into
# pieces. Against rays that went through, more own returns than MOST_HITS do not count, or a near
# object could lie anywhere.
FOREIGN, MOST_HITS = 0.5, 200.0
# From this cost on TURNS angles are tried for an object wider than WIDE metres.
GOOD, TURNS, WIDE = 0.12, 12, 1.2
# Rays looked at to place a box, and to judge it.
FEW, MANY = 250, 4000


def place(
    rows: NDArray[np.float64],
    clusters: Clusters,
    chosen: NDArray[np.int64],
    sizes: NDArray[np.float64],
    rings: NDArray[np.float64],
    rays: Rays,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Whole footprints (K, 5), x y length width yaw, their rows (K, 12) and what the rays say (K, 6).

    A footprint is all 0 where no place was found. A row is its cluster's of rows (C, 12), see
    box_fit.describe, turned to the angle of the footprint. chosen: (K,) cluster of each hypothesis.
    sizes: (K, 2) length and width of the whole object. rings: (K,), see rays.cast, which also names
    the evidence's columns.
    """
    boxes = np.zeros((len(chosen), 5))
    used = rows[chosen]
    evidence = np.zeros((len(chosen), 6))
    sorted_rays = (rays.ends, rays.owner, rays.starts, rays.origins)
    for k, own in enumerate(chosen):
        points = clusters.points[clusters.starts[own] : clusters.starts[own + 1]]
        if _place(used[k], points, own, sizes[k], boxes[k], *sorted_rays):
            row = used[k]
            evidence[k] = cast(boxes[k], row[GROUND], row[TOP], own, rings[k], MANY, *sorted_rays)
    return boxes, used, evidence


@numba.njit(cache=True, nogil=True)
def _place(row, points, own, size, box, ends, owner, starts, origins):  # type: ignore[no-untyped-def]
    """Write the footprint of least cost into box (5,), and its angle into row; False if there is none.

    A rounded bumper fits the corner of a rectangle as well as its edge: where the rays contradict
    the angle of the outline, others are tried.
    """
    best = _search(row, own, size, WORST, 4, box, ends, owner, starts, origins)
    if best > GOOD and size[1] > WIDE:
        few = thinned(points, 150)
        other = row.copy()
        least, angle = best - TURNED, -1.0
        for step in range(1, TURNS):
            turn(other, few, (row[ANGLE] + 0.5 * np.pi * step / TURNS) % (0.5 * np.pi))
            cost = _search(other, own, size, least, 1, box, ends, owner, starts, origins)
            if cost < least:
                least, angle = cost, other[ANGLE]
        if angle >= 0.0:
            many = thinned(points, MOST_POINTS)
            turn(row, many, angle)
            row[SHOULDER], row[DEPTH] = profile(many, row)
            best = _search(row, own, size, WORST, 4, box, ends, owner, starts, origins)
    return best < WORST


@numba.njit(cache=True, nogil=True)
def _search(row, own, size, best, ways, box, ends, owner, starts, origins):  # type: ignore[no-untyped-def]
    """Write the footprint of least cost at one angle into box, if below best; the lower of the two.

    ways: of _grow, how many are tried along either axis.
    """
    for turned in range(2):
        for grow_u in range(ways):
            for grow_v in range(ways):
                tried, cost = _hypothesis(row, size, turned, grow_u, grow_v, origins[0])
                if cost >= best:
                    continue
                through, hits, foreign, _, _, _ = cast(
                    tried, row[GROUND], row[TOP], own, 0.0, FEW, ends, owner, starts, origins
                )
                cost += through / (min(hits, MOST_HITS) + 3.0) + FOREIGN * foreign / (hits + 3.0)
                if cost < best:
                    best = cost
                    box[:] = tried
    return best


@numba.njit(cache=True, nogil=True)
def _hypothesis(row, size, turned, grow_u, grow_v, origin):  # type: ignore[no-untyped-def]
    """One whole footprint (5,) and its cost before any ray; inf for one that is the same as another."""
    angle, low_u, high_u, low_v, high_v = row[0], row[1], row[2], row[3], row[4]
    size_u, size_v = high_u - low_u, high_v - low_v
    # The length lies along the longer side, unless that is no wider than a vehicle's back.
    along_u = size_u >= size_v
    if size[1] > WIDE and max(size_u, size_v) < size[1] + BACK:
        along_u = not along_u
    cost = 0.0
    if turned == 1:
        along_u = not along_u
        cost += TURNED
    cost += OVERSIZE * max((size_v if along_u else size_u) - size[1] - BACK, 0.0)
    want_u, want_v = (size[0], size[1]) if along_u else (size[1], size[0])
    c, s = np.cos(angle), np.sin(angle)
    from_u = c * origin[0] + s * origin[1]
    from_v = c * origin[1] - s * origin[0]
    low_u, high_u, cost_u = _grow(low_u, high_u, want_u, from_u, grow_u)
    low_v, high_v, cost_v = _grow(low_v, high_v, want_v, from_v, grow_v)
    u, v = (low_u + high_u) / 2, (low_v + high_v) / 2
    length, width = high_u - low_u, high_v - low_v
    yaw = angle
    if not along_u:
        length, width = width, length
        yaw = angle + np.pi / 2
    if width > length + 0.3:
        cost += 1.0
    box = np.array([c * u - s * v, s * u + c * v, length, width, yaw])
    return box, cost + cost_u + cost_v


@numba.njit(cache=True, nogil=True)
def _grow(low, high, want, origin, way):  # type: ignore[no-untyped-def]
    """An interval grown to `want`: way 0 at its far end, 1 its near end, 2 both, 3 not; and the cost."""
    missing = want - (high - low)
    if missing <= 0:
        return low, high, (0.0 if way == 0 else np.inf)
    facing = low < origin < high
    upwards = origin < (low + high) / 2
    if way == 3:
        return low, high, (LACKING * missing if high - low > LEAST * want else np.inf)
    if way == 2:
        return low - missing / 2, high + missing / 2, (0.0 if facing else BOTH * missing)
    if way == 1:
        upwards = not upwards
    cost = BOTH * missing if facing else (TOWARDS * missing if way == 1 else 0.0)
    if upwards:
        return low, high + missing, cost
    return low - missing, high, cost
