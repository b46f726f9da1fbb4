"""The rectangle around an L-shaped cluster (Zhang et al. 2017, "Efficient L-Shape Fitting")."""

from __future__ import annotations

import numba
import numpy as np

# Points nearer than this to an edge count as equally near: eq. 5's d0.
NEAREST = 0.03
# A LiDAR gives a near car thousands of points; some hundreds fix its rectangle as well.
MOST_POINTS = 400


@numba.njit(cache=True)
def _quantile(values, q):  # type: ignore[no-untyped-def]
    ordered = np.sort(values)
    return ordered[min(int(q * len(ordered)), len(ordered) - 1)]


@numba.njit(cache=True)
def fit_rectangle(points, steps):  # type: ignore[no-untyped-def]
    """Rectangle of points (N, >=2): (angle, low_u, high_u, low_v, high_v).

    u and v are coordinates along angle and across it; the angle, in [0, pi/2), is the one of `steps`
    at which the points lie closest to two edges (closeness criterion, algorithm 3). The two extreme
    percent at each side are left out where points are many.
    """
    n = len(points)
    stride = max(n // MOST_POINTS, 1)
    m = (n + stride - 1) // stride
    u, v = np.empty(m), np.empty(m)
    best_score, best_angle = -1.0, 0.0
    for step in range(steps):
        angle = 0.5 * np.pi * step / steps
        c, s = np.cos(angle), np.sin(angle)
        for i in range(m):
            x, y = points[i * stride, 0], points[i * stride, 1]
            u[i], v[i] = c * x + s * y, c * y - s * x
        low_u, high_u, low_v, high_v = u.min(), u.max(), v.min(), v.max()
        to_low_u = to_high_u = to_low_v = to_high_v = 0.0
        for i in range(m):
            to_low_u += u[i] - low_u
            to_high_u += high_u - u[i]
            to_low_v += v[i] - low_v
            to_high_v += high_v - v[i]
        score = 0.0
        for i in range(m):
            du = u[i] - low_u if to_low_u < to_high_u else high_u - u[i]
            dv = v[i] - low_v if to_low_v < to_high_v else high_v - v[i]
            score += 1.0 / max(min(du, dv), NEAREST)
        if score > best_score:
            best_score, best_angle = score, angle
    c, s = np.cos(best_angle), np.sin(best_angle)
    all_u = c * points[:, 0] + s * points[:, 1]
    all_v = c * points[:, 1] - s * points[:, 0]
    trim = 0.01 if n >= 100 else 0.0
    return (
        best_angle,
        _quantile(all_u, trim),
        _quantile(all_u, 1 - trim),
        _quantile(all_v, trim),
        _quantile(all_v, 1 - trim),
    )


@numba.njit(cache=True)
def describe(points, starts, column_top, steps):  # type: ignore[no-untyped-def]
    """One row a cluster: angle, low_u, high_u, low_v, high_v, z_low, height_low, height_top, points.

    points: (M, 4) float32, x y z height over the ground, clusters in runs by `starts` (C + 1,).
    column_top: (C,) height over the ground of the highest return above each cluster.
    """
    rows = np.zeros((len(starts) - 1, 10))
    for c in range(len(starts) - 1):
        run = points[starts[c] : starts[c + 1]]
        angle, low_u, high_u, low_v, high_v = fit_rectangle(run[:, :2].astype(np.float64), steps)
        rows[c, 0], rows[c, 1], rows[c, 2], rows[c, 3], rows[c, 4] = (
            angle,
            low_u,
            high_u,
            low_v,
            high_v,
        )
        heights = run[:, 3].astype(np.float64)
        rows[c, 5] = np.median(run[:, 2] - run[:, 3])  # z of the ground below
        rows[c, 6] = heights.min()
        rows[c, 7] = _quantile(heights, 0.99)
        rows[c, 8] = len(run)
        rows[c, 9] = column_top[c]
    return rows
