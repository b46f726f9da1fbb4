"""Deskewing of LiDAR sweeps: compensation of the vehicle's motion during a sweep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.frame import LidarSweep
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.stamps import NANOSECONDS_PER_SECOND
from multimodal_perception.kernels import njit
from multimodal_perception.pointcloud.returns import find_returns

Pose = NDArray[np.float64]
# Time between the poses that the motion is interpolated between linearly. At 1 rad/s the error is 4
# mm at a distance of 80 m.
KNOT_INTERVAL_S = 0.02
# Points whose time differs by more from the stamp have invalid times.
MAX_OFFSET_S = 2.0
# Sweeps with a shorter duration are not changed.
MIN_DURATION_S = 1e-4


def deskew(
    sweep: LidarSweep, odom_from_base: Callable[[int], Pose | None], base_from_sensor: Pose
) -> LidarSweep:
    """The sweep with every point transformed to the sensor's pose at the sweep's stamp.

    odom_from_base: pose (4, 4) at a time in nanoseconds, or None if unknown. For times after the newest
    odometry it may repeat the last pose; the motion is then extrapolated. base_from_sensor: (4, 4).
    Points whose time differs by more than MAX_OFFSET_S from the stamp are not moved.

    Returns the same object if the sweep has no times or the motion is unknown. Otherwise the result's
    time_offsets is None, because all points refer to the stamp.
    """
    times = sweep.time_offsets
    if times is None or not len(times):
        return sweep
    if not has_duration(sweep):
        return sweep
    first, last = _time_range(times, np.float32(MAX_OFFSET_S))
    count = max(2, int(np.ceil((last - first) / KNOT_INTERVAL_S)) + 1)
    knots = np.linspace(first, last, count)
    at_stamp = odom_from_base(sweep.stamp_ns)
    if at_stamp is None:
        return sweep
    known = [odom_from_base(sweep.stamp_ns + round(t * NANOSECONDS_PER_SECOND)) for t in knots]
    trajectory = _extrapolate_repeated([pose for pose in known if pose is not None])
    if len(trajectory) < count:
        return sweep
    sensor_from_odom = poses.inverse(at_stamp @ base_from_sensor)
    motions = np.stack([sensor_from_odom @ pose @ base_from_sensor for pose in trajectory])
    points = np.empty_like(sweep.points)
    knots_per_s = np.float32((count - 1) / (last - first))
    rows = np.ascontiguousarray(motions[:, :3], np.float32)
    _transform_points(
        sweep.points, times, np.float32(first), knots_per_s, np.float32(MAX_OFFSET_S), rows, points
    )
    return replace(sweep, points=points, time_offsets=None)


def has_duration(sweep: LidarSweep) -> bool:
    """Return whether the points of a sweep have different times."""
    if sweep.time_offsets is None or not len(sweep.time_offsets):
        return False
    first, last = _time_range(sweep.time_offsets, np.float32(MAX_OFFSET_S))
    return bool(last - first >= MIN_DURATION_S)


def compile_kernels() -> None:
    """Compile the numba kernels, or load them from the cache, so that the first sweep is not late.

    Sweeps are views of messages: contiguous or not, read-only or not. Each is a type of its own.
    """
    times, pose = np.array([0.0, 0.1], np.float32), np.eye(4)
    for view in (np.zeros((2, 4), np.float32), np.zeros((2, 5), np.float32)[:, :4]):
        for writeable in (True, False):
            points = view.view()
            points.flags.writeable = writeable
            deskew(LidarSweep("", 0, "", points, times), lambda _: pose, pose)
            find_returns(points, 0.0, 1.0)


def _extrapolate_repeated(known: list[Pose]) -> list[Pose]:
    """Poses at even intervals, where repetitions at the end are replaced by constant motion."""
    end = len(known)
    while end > 2 and np.array_equal(known[end - 1], known[end - 2]):
        end -= 1
    if end == len(known) or end < 2:
        return known
    # The first repeated pose may be less than an interval after the one before, so the interval before
    # that is used.
    last = end - 2 if end > 2 else end - 1
    step = poses.inverse(known[last - 1]) @ known[last]
    result = known[: last + 1]
    while len(result) < len(known):
        result.append(result[-1] @ step)
    return result


@njit()
def _time_range(times, limit):  # type: ignore[no-untyped-def]
    """Minimum and maximum of the times within +-limit; 0 and 0 if there are none."""
    first, last = np.inf, -np.inf
    for t in times:
        if abs(t) <= limit:
            first, last = min(first, t), max(last, t)
    return (first, last) if first <= last else (0.0, 0.0)


@njit()
def _transform_points(points, times, first, knots_per_s, limit, motions, result):  # type: ignore[no-untyped-def]
    """motions: (K, 3, 4) float32, from the sensor at a knot's time to the sensor at the stamp."""
    last_knot = len(motions) - 2
    for i in range(len(points)):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        result[i, 3] = points[i, 3]
        # This condition is also true for NaN.
        if not abs(times[i]) <= limit:
            result[i, 0], result[i, 1], result[i, 2] = x, y, z
            continue
        position = (times[i] - first) * knots_per_s
        knot = min(max(int(position), 0), last_knot)
        fraction = position - np.float32(knot)
        for row in range(3):
            a, b = motions[knot, row], motions[knot + 1, row]
            early = a[0] * x + a[1] * y + a[2] * z + a[3]
            late = b[0] * x + b[1] * y + b[2] * z + b[3]
            result[i, row] = early + fraction * (late - early)
