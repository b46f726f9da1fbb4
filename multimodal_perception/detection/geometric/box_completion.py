"""Completion of partially visible objects: the full box that contradicts the LiDAR's rays least.

A LiDAR measures only the faces turned towards it, and of these only what is not occluded. Each fitted
rectangle is extended to the size of a complete object, at either end or at both, along either axis. The
cost of a hypothesis grows with the rays that passed through the added space and with returns of other
objects inside it. The hypothesis of least cost is chosen.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.detection.geometric.box_fit import (
    ANGLE,
    GROUND,
    MAX_POINTS,
    MEAN_EDGE_DISTANCE,
    MIN_END_HEIGHT,
    TOP,
    end_height_and_edge_distance,
    set_angle,
    subsample,
)
from multimodal_perception.detection.geometric.clustering import Clusters
from multimodal_perception.detection.geometric.ray_evidence import Rays, evaluate_box
from multimodal_perception.kernels import njit

# Costs are relative to the number of the object's own returns.
# Cost per metre of extension towards the LiDAR, to both sides, and of missing length without extension.
# Extension away from the LiDAR is free, because the object occludes itself there.
EXTEND_TOWARDS_COST, EXTEND_BOTH_COST, NOT_EXTENDED_COST = 0.04, 0.03, 0.10
# Sides that already have more than this fraction of the full size may stay as they are.
MIN_VISIBLE_FRACTION = 0.65
# Cost per metre by which the visible part is too wide, and the cost from which a hypothesis is rejected.
OVERSIZE_COST, MAX_COST = 0.3, 1.0
# Cost of the less likely heading, and by how much a vehicle's rear may appear wider than it is, metres.
ROTATED_COST, REAR_MARGIN = 0.06, 0.35
# Cost of another cluster's return inside, as a fraction of that of an own one: a side at a flat angle of
# incidence can split into several clusters.
FOREIGN_COST = 0.5
# At most this number of own returns counts against rays that passed through, because for close objects
# with many returns such rays would otherwise not matter.
MAX_HITS = 200.0
# If the cost is higher than RETRY_COST, ANGLE_STEPS angles are tried for objects wider than
# RETRY_MIN_WIDTH metres.
RETRY_COST, ANGLE_STEPS, RETRY_MIN_WIDTH = 0.12, 12, 1.2
# Modes of _extend: at which end the visible interval is extended. A search tries the first ones.
FAR_END, NEAR_END, BOTH_ENDS, NOT_EXTENDED = range(4)
ALL_MODES, FAR_END_ONLY = 4, 1
# Maximum numbers of rays evaluated for each hypothesis, and for the chosen one.
SEARCH_RAYS, FINAL_RAYS = 250, 4000


def complete_boxes(
    rows: NDArray[np.float64],
    clusters: Clusters,
    chosen: NDArray[np.int64],
    sizes: NDArray[np.float64],
    margins: NDArray[np.float64],
    rays: Rays,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Full footprints (K, 5), x y length width yaw, their rows (K, 12), and ray evidence (K, 6).

    A footprint is all 0 if every hypothesis was rejected. A row is that of the cluster in rows (C, 12),
    see box_fit.fit_rectangles, at the angle of the footprint. The columns of the evidence are those of
    ray_evidence.evaluate_box.

    chosen: (K,) cluster of each hypothesis. sizes: (K, 2) length and width of a complete object.
    margins: (K,), see ray_evidence.evaluate_box.
    """
    boxes = np.zeros((len(chosen), 5))
    used = rows[chosen]
    evidence = np.zeros((len(chosen), 6))
    sorted_rays = (rays.ends, rays.owner, rays.starts, rays.origins)
    for k, own in enumerate(chosen):
        points = clusters.points[clusters.starts[own] : clusters.starts[own + 1]]
        if _complete(used[k], points, own, sizes[k], boxes[k], *sorted_rays):
            row = used[k]
            evidence[k] = evaluate_box(
                boxes[k], row[GROUND], row[TOP], own, margins[k], FINAL_RAYS, *sorted_rays
            )
    return boxes, used, evidence


@njit(nogil=True)
def _complete(row, points, own, size, box, ends, owner, starts, origins):  # type: ignore[no-untyped-def]
    """Write the footprint of least cost into box (5,), and its angle into row; False if there is none.

    A rounded bumper can be fitted with the corner of a rectangle instead of its edge. If the rays
    contradict the fitted angle, other angles are tried.
    """
    best = _search(row, own, size, MAX_COST, ALL_MODES, box, ends, owner, starts, origins)
    if best > RETRY_COST and size[1] > RETRY_MIN_WIDTH:
        few = subsample(points, 150)
        other = row.copy()
        lowest, angle = best - ROTATED_COST, -1.0
        for step in range(1, ANGLE_STEPS):
            set_angle(other, few, (row[ANGLE] + 0.5 * np.pi * step / ANGLE_STEPS) % (0.5 * np.pi))
            cost = _search(
                other, own, size, lowest, FAR_END_ONLY, box, ends, owner, starts, origins
            )
            if cost < lowest:
                lowest, angle = cost, other[ANGLE]
        if angle >= 0.0:
            many = subsample(points, MAX_POINTS)
            set_angle(row, many, angle)
            row[MIN_END_HEIGHT], row[MEAN_EDGE_DISTANCE] = end_height_and_edge_distance(many, row)
            best = _search(row, own, size, MAX_COST, ALL_MODES, box, ends, owner, starts, origins)
    return best < MAX_COST


@njit(nogil=True)
def _search(row, own, size, best, modes, box, ends, owner, starts, origins):  # type: ignore[no-untyped-def]
    """Write the footprint of least cost at one angle into box if its cost is below best.

    Returns the lower one of best and that cost. modes: number of modes of _extend, starting with
    FAR_END, that are tried along each axis.
    """
    for rotated in range(2):
        for mode_u in range(modes):
            for mode_v in range(modes):
                tried, cost = _hypothesis(row, size, rotated, mode_u, mode_v, origins[0])
                if cost >= best:
                    continue
                rays_through, hits, foreign_returns, _, _, _ = evaluate_box(
                    tried,
                    row[GROUND],
                    row[TOP],
                    own,
                    0.0,
                    SEARCH_RAYS,
                    ends,
                    owner,
                    starts,
                    origins,
                )
                crossing = rays_through / (min(hits, MAX_HITS) + 3.0)
                cost += crossing + FOREIGN_COST * foreign_returns / (hits + 3.0)
                if cost < best:
                    best = cost
                    box[:] = tried
    return best


@njit(nogil=True)
def _hypothesis(row, size, rotated, mode_u, mode_v, origin):  # type: ignore[no-untyped-def]
    """One full footprint (5,) and its cost without rays; infinite if it equals another hypothesis.

    rotated: 1 to swap length and width.
    """
    angle, low_u, high_u, low_v, high_v = row[0], row[1], row[2], row[3], row[4]
    size_u, size_v = high_u - low_u, high_v - low_v
    # The length is along the longer side, unless that could be a vehicle's rear.
    along_u = size_u >= size_v
    if size[1] > RETRY_MIN_WIDTH and max(size_u, size_v) < size[1] + REAR_MARGIN:
        along_u = not along_u
    cost = 0.0
    if rotated == 1:
        along_u = not along_u
        cost += ROTATED_COST
    cost += OVERSIZE_COST * max((size_v if along_u else size_u) - size[1] - REAR_MARGIN, 0.0)
    full_u, full_v = (size[0], size[1]) if along_u else (size[1], size[0])
    c, s = np.cos(angle), np.sin(angle)
    origin_u = c * origin[0] + s * origin[1]
    origin_v = c * origin[1] - s * origin[0]
    low_u, high_u, cost_u = _extend(low_u, high_u, full_u, origin_u, mode_u)
    low_v, high_v, cost_v = _extend(low_v, high_v, full_v, origin_v, mode_v)
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


@njit(nogil=True)
def _extend(low, high, full, origin, mode):  # type: ignore[no-untyped-def]
    """An interval extended to the length `full`, and the cost.

    mode: FAR_END, NEAR_END, BOTH_ENDS or NOT_EXTENDED. origin: position of the LiDAR.
    """
    missing = full - (high - low)
    if missing <= 0:
        return low, high, (0.0 if mode == FAR_END else np.inf)
    facing = low < origin < high
    towards_high = origin < (low + high) / 2
    if mode == NOT_EXTENDED:
        return (
            low,
            high,
            (NOT_EXTENDED_COST * missing if high - low > MIN_VISIBLE_FRACTION * full else np.inf),
        )
    if mode == BOTH_ENDS:
        return (
            low - missing / 2,
            high + missing / 2,
            (0.0 if facing else EXTEND_BOTH_COST * missing),
        )
    if mode == NEAR_END:
        towards_high = not towards_high
    cost = EXTEND_BOTH_COST * missing if facing else 0.0
    if mode == NEAR_END and not facing:
        cost = EXTEND_TOWARDS_COST * missing
    if towards_high:
        return low, high + missing, cost
    return low - missing, high, cost
