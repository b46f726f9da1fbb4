"""The rectangle around an L-shaped cluster (Zhang et al. 2017, "Efficient L-Shape Fitting")."""

from __future__ import annotations

import numba
import numpy as np

# Points nearer than this to an edge count as equally near: eq. 5's d0, metres.
NEAREST = 0.03
# The nearest return of each azimuth slice draws the outline that the LiDAR sees.
SLICES = 128
# Outline between these heights over the ground: bodies are upright there, above lie sloping
# windows.
OUTLINE = (0.25, 1.2)
# Clusters longer than this are no single vehicle; their rectangle stays unturned.
LONGEST = 18.0
COARSE, FINE = 18, 10
# A LiDAR gives a near object thousands of points; some hundreds measure it as well.
MOST_POINTS = 800


@numba.njit(cache=True, nogil=True)
def outline(points, origin):  # type: ignore[no-untyped-def]
    """The contour (K, 2) float64 that faces the LiDAR, of points (N, 4), x y z height.

    In each of SLICES azimuth slices the return nearest to origin (3,) in the OUTLINE band of
    heights. All points, thinned, where that leaves fewer than five.
    """
    n = len(points)
    middle_x, middle_y = points[:, 0].mean() - origin[0], points[:, 1].mean() - origin[1]
    turn = np.empty(n)
    low, high = np.inf, -np.inf
    for i in range(n):
        x, y = points[i, 0] - origin[0], points[i, 1] - origin[1]
        turn[i] = np.arctan2(middle_x * y - middle_y * x, middle_x * x + middle_y * y)
        low, high = min(low, turn[i]), max(high, turn[i])
    # No slice is finer than a LiDAR's own steps of azimuth.
    width = max((high - low) / (SLICES - 1), 0.003)
    nearest = np.full(SLICES, -1, np.int64)
    reach = np.full(SLICES, np.inf)
    for i in range(n):
        if OUTLINE[0] <= points[i, 3] <= OUTLINE[1]:
            k = int((turn[i] - low) / width)
            r = (points[i, 0] - origin[0]) ** 2 + (points[i, 1] - origin[1]) ** 2
            if r < reach[k]:
                reach[k], nearest[k] = r, i
    chosen = nearest[nearest >= 0]
    if len(chosen) < 5:
        chosen = np.arange(0, n, max(n // SLICES, 1))
    result = np.empty((len(chosen), 2))
    for k in range(len(chosen)):
        result[k, 0], result[k, 1] = points[chosen[k], 0], points[chosen[k], 1]
    return result


@numba.njit(cache=True, nogil=True)
def _closeness(points, angle):  # type: ignore[no-untyped-def]
    """How closely points (N, 2) lie to two edges of their rectangle at this angle (algorithm 3)."""
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
        score += 1.0 / max(min(du, dv), NEAREST)
    return score


@numba.njit(cache=True, nogil=True)
def best_angle(points):  # type: ignore[no-untyped-def]
    """The angle in [0, pi/2) at which points (N, 2) lie closest to two edges, to half a degree."""
    coarse = 0.5 * np.pi / COARSE
    best_score, best = -1.0, 0.0
    for step in range(COARSE):
        score = _closeness(points, step * coarse)
        if score > best_score:
            best_score, best = score, step * coarse
    centre = best
    for step in range(-FINE + 1, FINE):
        angle = centre + step * coarse / FINE
        score = _closeness(points, angle)
        if score > best_score:
            best_score, best = score, angle
    return best % (0.5 * np.pi)


@numba.njit(cache=True, nogil=True)
def rectangle(points, angle):  # type: ignore[no-untyped-def]
    """Extents of points (N, >=2) along angle and across: (low_u, high_u, low_v, high_v).

    The extreme percent at each side is left out where points are many.
    """
    c, s = np.cos(angle), np.sin(angle)
    u = np.sort(c * points[:, 0] + s * points[:, 1])
    v = np.sort(c * points[:, 1] - s * points[:, 0])
    skip = len(points) // 100
    return u[skip], u[-1 - skip], v[skip], v[-1 - skip]


# Columns of describe's rows.
ANGLE, LOW_U, HIGH_U, LOW_V, HIGH_V, GROUND, BOTTOM, TOP, POINTS, COLUMN, SHOULDER, DEPTH = range(
    12
)


@numba.njit(cache=True, nogil=True)
def describe(points, starts, column_top, origin):  # type: ignore[no-untyped-def]
    """One row (C, 12) float64 a cluster, in the order of the columns above.

    ANGLE, LOW_U .. HIGH_V: its rectangle. GROUND: z below. BOTTOM, TOP: heights over the ground of
    its lowest and highest return in the band. POINTS: how many. COLUMN: height of the highest
    return above it. SHOULDER: how high its lower end reaches, of the two ends of its longer side.
    DEPTH: mean distance of its returns below 1 m from the nearer of the two edges that they lie
    along. Clusters longer than LONGEST have an unturned rectangle and heights 0.

    points: (M, 4) float32, x y z height over the ground, clusters in runs by starts (C + 1,).
    column_top: (C,) metres. origin: (3,), the LiDAR's place.
    """
    rows = np.zeros((len(starts) - 1, 12))
    for k in range(len(starts) - 1):
        row = rows[k]
        run = points[starts[k] : starts[k + 1]]
        row[POINTS] = len(run)
        low_x, high_x = run[:, 0].min(), run[:, 0].max()
        low_y, high_y = run[:, 1].min(), run[:, 1].max()
        if np.hypot(high_x - low_x, high_y - low_y) > LONGEST:
            row[1:5] = low_x, high_x, low_y, high_y
            continue
        angle = best_angle(outline(run, origin))
        run = thinned(run, MOST_POINTS)
        row[GROUND] = np.median(run[:, 2] - run[:, 3])
        heights = np.sort(run[:, 3])
        row[BOTTOM], row[TOP] = heights[0], heights[-1 - len(run) // 100]
        row[COLUMN] = column_top[k]
        turn(row, run, angle)
        row[SHOULDER], row[DEPTH] = profile(run, row)
    return rows


@numba.njit(cache=True, nogil=True)
def thinned(points, most):  # type: ignore[no-untyped-def]
    """About `most` of the points (N, 4) as float64."""
    return points[:: max(len(points) // most, 1)].astype(np.float64)


@numba.njit(cache=True, nogil=True)
def turn(row, points, angle):  # type: ignore[no-untyped-def]
    """Write the rectangle of points (N, 4) at this angle into a row (12,)."""
    row[ANGLE] = angle
    row[1:5] = rectangle(points, angle)


@numba.njit(cache=True, nogil=True)
def profile(points, row):  # type: ignore[no-untyped-def]
    """(shoulder, depth) of points (N, 4) with their rectangle in row; see describe."""
    c, s = np.cos(row[ANGLE]), np.sin(row[ANGLE])
    long_u = row[HIGH_U] - row[LOW_U] >= row[HIGH_V] - row[LOW_V]
    ends = np.zeros(2)
    to = np.zeros(4)
    below = 0
    low, high = (row[LOW_U], row[HIGH_U]) if long_u else (row[LOW_V], row[HIGH_V])
    for i in range(len(points)):
        u = c * points[i, 0] + s * points[i, 1]
        v = c * points[i, 1] - s * points[i, 0]
        share = ((u if long_u else v) - low) / max(high - low, 0.01)
        if share < 0.2:
            ends[0] = max(ends[0], points[i, 3])
        elif share > 0.8:
            ends[1] = max(ends[1], points[i, 3])
        if points[i, 3] < 1.0:
            below += 1
            to[0] += abs(u - row[LOW_U])
            to[1] += abs(row[HIGH_U] - u)
            to[2] += abs(v - row[LOW_V])
            to[3] += abs(row[HIGH_V] - v)
    if below == 0:
        return ends.min(), 0.0
    depth = 0.0
    for i in range(len(points)):
        if points[i, 3] < 1.0:
            u = c * points[i, 0] + s * points[i, 1]
            v = c * points[i, 1] - s * points[i, 0]
            du = u - row[LOW_U] if to[0] < to[1] else row[HIGH_U] - u
            dv = v - row[LOW_V] if to[2] < to[3] else row[HIGH_V] - v
            depth += max(min(du, dv), 0.0)
    return ends.min(), depth / below
