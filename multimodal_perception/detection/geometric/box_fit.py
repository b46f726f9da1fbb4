"""Rectangle fitting of L-shaped clusters (Zhang et al. 2017, "Efficient L-Shape Fitting")."""

from __future__ import annotations

import numpy as np

from multimodal_perception.kernels import njit

# Distances of points to an edge are at least this, metres: d0 in eq. 5.
MIN_EDGE_DISTANCE = 0.03
# The closest return in each of these azimuth slices is part of the contour.
CONTOUR_SLICES = 128
# Heights above the ground of the contour: bodies are vertical there; windows above are inclined.
CONTOUR_HEIGHTS = (0.25, 1.2)
# Clusters longer than this are not single vehicles; their rectangle is axis-aligned. Metres.
MAX_LENGTH = 18.0
# Numbers of angles of the coarse search over a right angle, and of the fine one on each side of its
# best.
COARSE_STEPS, FINE_STEPS = 18, 10
# Nearby objects have thousands of points. Some hundreds are enough to measure them.
MAX_POINTS = 800


@njit(nogil=True)
def find_contour(points, origin):  # type: ignore[no-untyped-def]
    """Contour (K, 2) float64 that faces the LiDAR, of points (N, 4), x y z height.

    The return closest to origin (3,) in each azimuth slice, at CONTOUR_HEIGHTS. If these are fewer than
    five, a subset of all points.
    """
    n = len(points)
    mean_x, mean_y = points[:, 0].mean() - origin[0], points[:, 1].mean() - origin[1]
    angle = np.empty(n)
    low, high = np.inf, -np.inf
    for i in range(n):
        x, y = points[i, 0] - origin[0], points[i, 1] - origin[1]
        angle[i] = np.arctan2(mean_x * y - mean_y * x, mean_x * x + mean_y * y)
        low, high = min(low, angle[i]), max(high, angle[i])
    # Slices are not finer than the azimuth resolution of a LiDAR.
    width = max((high - low) / (CONTOUR_SLICES - 1), 0.003)
    closest = np.full(CONTOUR_SLICES, -1, np.int64)
    squared = np.full(CONTOUR_SLICES, np.inf)
    for i in range(n):
        if CONTOUR_HEIGHTS[0] <= points[i, 3] <= CONTOUR_HEIGHTS[1]:
            k = int((angle[i] - low) / width)
            r = (points[i, 0] - origin[0]) ** 2 + (points[i, 1] - origin[1]) ** 2
            if r < squared[k]:
                squared[k], closest[k] = r, i
    chosen = closest[closest >= 0]
    if len(chosen) < 5:
        chosen = np.arange(0, n, max(n // CONTOUR_SLICES, 1))
    result = np.empty((len(chosen), 2))
    for k in range(len(chosen)):
        result[k, 0], result[k, 1] = points[chosen[k], 0], points[chosen[k], 1]
    return result


@njit(nogil=True)
def _closeness(points, angle):  # type: ignore[no-untyped-def]
    """Closeness score of points (N, 2) to two edges of their rectangle at an angle (algorithm 3)."""
    n = len(points)
    c, s = np.cos(angle), np.sin(angle)
    u, v = np.empty(n), np.empty(n)
    low_u = low_v = np.inf
    high_u = high_v = -np.inf
    total_u = total_v = 0.0
    for i in range(n):
        u[i] = c * points[i, 0] + s * points[i, 1]
        v[i] = c * points[i, 1] - s * points[i, 0]
        low_u, high_u = min(low_u, u[i]), max(high_u, u[i])
        low_v, high_v = min(low_v, v[i]), max(high_v, v[i])
        total_u += u[i]
        total_v += v[i]
    to_low_u = 2 * total_u < n * (low_u + high_u)
    to_low_v = 2 * total_v < n * (low_v + high_v)
    score = 0.0
    for i in range(n):
        du = u[i] - low_u if to_low_u else high_u - u[i]
        dv = v[i] - low_v if to_low_v else high_v - v[i]
        score += 1.0 / max(min(du, dv), MIN_EDGE_DISTANCE)
    return score


@njit(nogil=True)
def best_angle(points):  # type: ignore[no-untyped-def]
    """Angle in [0, pi/2) with the highest closeness score of points (N, 2), to half a degree."""
    coarse = 0.5 * np.pi / COARSE_STEPS
    best_score, best = -1.0, 0.0
    for step in range(COARSE_STEPS):
        score = _closeness(points, step * coarse)
        if score > best_score:
            best_score, best = score, step * coarse
    centre = best
    for step in range(-FINE_STEPS + 1, FINE_STEPS):
        angle = centre + step * coarse / FINE_STEPS
        score = _closeness(points, angle)
        if score > best_score:
            best_score, best = score, angle
    return best % (0.5 * np.pi)


@njit(nogil=True)
def rectangle(points, angle):  # type: ignore[no-untyped-def]
    """Extents (low_u, high_u, low_v, high_v) of points (N, >=2) along an angle and perpendicular to it.

    Of 100 points and more, one percent at each side is treated as outliers.
    """
    c, s = np.cos(angle), np.sin(angle)
    u = np.sort(c * points[:, 0] + s * points[:, 1])
    v = np.sort(c * points[:, 1] - s * points[:, 0])
    skip = len(points) // 100
    return u[skip], u[-1 - skip], v[skip], v[-1 - skip]


# Columns of the rows of fit_rectangles.
(
    ANGLE,
    LOW_U,
    HIGH_U,
    LOW_V,
    HIGH_V,
    GROUND,
    BOTTOM,
    TOP,
    NUM_POINTS,
    HEIGHT_ABOVE_CLUSTER,
    MIN_END_HEIGHT,
    MEAN_EDGE_DISTANCE,
) = range(12)


@njit(nogil=True)
def fit_rectangles(points, starts, column_top, origin):  # type: ignore[no-untyped-def]
    """Rectangle and shape of each of C clusters: rows (C, 12) float64 with the columns above.

    ANGLE, LOW_U .. HIGH_V: the rectangle. GROUND: z of the ground. BOTTOM, TOP: heights above the
    ground of the lowest and the highest return of the cluster. NUM_POINTS: number of points.
    HEIGHT_ABOVE_CLUSTER: height of the highest return above the cluster. MIN_END_HEIGHT: the lower
    of the heights at the two ends of the longer side. MEAN_EDGE_DISTANCE: mean distance of the
    returns below 1 m from the closer of the two visible edges. Clusters longer than MAX_LENGTH have
    an axis-aligned rectangle and heights 0.

    points: (M, 4) float32, x y z and height above the ground, sorted by cluster. starts: (C + 1,), first
    point of each cluster. column_top: (C,) metres. origin: (3,), position of the LiDAR.
    """
    rows = np.zeros((len(starts) - 1, 12))
    for k in range(len(starts) - 1):
        row = rows[k]
        run = points[starts[k] : starts[k + 1]]
        row[NUM_POINTS] = len(run)
        low_x, high_x = run[:, 0].min(), run[:, 0].max()
        low_y, high_y = run[:, 1].min(), run[:, 1].max()
        if np.hypot(high_x - low_x, high_y - low_y) > MAX_LENGTH:
            row[1:5] = low_x, high_x, low_y, high_y
            continue
        angle = best_angle(find_contour(run, origin))
        run = subsample(run, MAX_POINTS)
        row[GROUND] = np.median(run[:, 2] - run[:, 3])
        heights = np.sort(run[:, 3])
        row[BOTTOM], row[TOP] = heights[0], heights[-1 - len(run) // 100]
        row[HEIGHT_ABOVE_CLUSTER] = column_top[k]
        set_angle(row, run, angle)
        row[MIN_END_HEIGHT], row[MEAN_EDGE_DISTANCE] = end_height_and_edge_distance(run, row)
    return rows


@njit(nogil=True)
def subsample(points, count):  # type: ignore[no-untyped-def]
    """About `count` of the points (N, 4) as float64."""
    return points[:: max(len(points) // count, 1)].astype(np.float64)


@njit(nogil=True)
def set_angle(row, points, angle):  # type: ignore[no-untyped-def]
    """Write an angle and the rectangle of points (N, 4) at this angle into a row (12,)."""
    row[ANGLE] = angle
    row[1:5] = rectangle(points, angle)


@njit(nogil=True)
def end_height_and_edge_distance(points, row):  # type: ignore[no-untyped-def]
    """MIN_END_HEIGHT and MEAN_EDGE_DISTANCE of points (N, 4); see fit_rectangles.

    row: (12,) with the rectangle of the points.
    """
    c, s = np.cos(row[ANGLE]), np.sin(row[ANGLE])
    long_u = row[HIGH_U] - row[LOW_U] >= row[HIGH_V] - row[LOW_V]
    ends = np.zeros(2)
    edge_sums = np.zeros(4)  # of the distances to the four edges
    below = 0
    low, high = (row[LOW_U], row[HIGH_U]) if long_u else (row[LOW_V], row[HIGH_V])
    for i in range(len(points)):
        u = c * points[i, 0] + s * points[i, 1]
        v = c * points[i, 1] - s * points[i, 0]
        position = ((u if long_u else v) - low) / max(high - low, 0.01)
        if position < 0.2:
            ends[0] = max(ends[0], points[i, 3])
        elif position > 0.8:
            ends[1] = max(ends[1], points[i, 3])
        if points[i, 3] < 1.0:
            below += 1
            edge_sums[0] += abs(u - row[LOW_U])
            edge_sums[1] += abs(row[HIGH_U] - u)
            edge_sums[2] += abs(v - row[LOW_V])
            edge_sums[3] += abs(row[HIGH_V] - v)
    if below == 0:
        return ends.min(), 0.0
    distance = 0.0
    for i in range(len(points)):
        if points[i, 3] < 1.0:
            u = c * points[i, 0] + s * points[i, 1]
            v = c * points[i, 1] - s * points[i, 0]
            du = u - row[LOW_U] if edge_sums[0] < edge_sums[1] else row[HIGH_U] - u
            dv = v - row[LOW_V] if edge_sums[2] < edge_sums[3] else row[HIGH_V] - v
            distance += max(min(du, dv), 0.0)
    return ends.min(), distance / below
