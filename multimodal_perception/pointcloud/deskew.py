"""A sweep as if all its points were taken at one moment, by their times and the vehicle's motion."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numba
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.frame import LidarSweep
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.stamps import NANOSECONDS

Pose = NDArray[np.float64]
# Between poses so far apart the motion is taken as straight: at 1 rad/s, 80 m away, 4 mm wrong.
KNOT_S = 0.02
# A point further from the stamp than this has a time that means something else.
LONGEST_S = 0.5


def deskew(
    sweep: LidarSweep, odom_from_base: Callable[[int], Pose | None], base_from_sensor: Pose
) -> LidarSweep:
    """The sweep with every point moved to where the sensor would have seen it at the stamp.

    odom_from_base: pose (4, 4) at a time in nanoseconds, or None where it is not known; past the
    newest odometry it may repeat the last pose, and the motion is then carried on. base_from_sensor:
    (4, 4). Points more than 0.5 s from the stamp, whose time cannot be, stay where they are.

    Returns the sweep itself where it has no times or the motion is not known; else time_offsets is
    None, since all points now belong to the stamp.
    """
    times = sweep.time_offsets
    if times is None or not len(times):
        return sweep
    first, last = _span(times, np.float32(LONGEST_S))
    if last - first < 1e-4:
        return sweep
    count = max(2, int(np.ceil((last - first) / KNOT_S)) + 1)
    knots = np.linspace(first, last, count)
    at_stamp = odom_from_base(sweep.stamp_ns)
    if at_stamp is None:
        return sweep
    known = [odom_from_base(sweep.stamp_ns + round(t * NANOSECONDS)) for t in knots]
    moved = _carried_on([pose for pose in known if pose is not None])
    if len(moved) < count:
        return sweep
    sensor_from_odom = poses.inverse(at_stamp @ base_from_sensor)
    motions = np.stack([sensor_from_odom @ pose @ base_from_sensor for pose in moved])
    points = np.empty_like(sweep.points)
    scale = np.float32((count - 1) / (last - first))
    rows = np.ascontiguousarray(motions[:, :3], np.float32)
    _move(sweep.points, times, np.float32(first), scale, np.float32(LONGEST_S), rows, points)
    return replace(sweep, points=points, time_offsets=None)


def compile_kernels() -> None:
    """Compile what deskewing needs (or load it from the cache), so that no sweep waits for it."""
    points, times = np.zeros((2, 4), np.float32), np.array([0.0, 0.1], np.float32)
    pose = np.eye(4)
    deskew(LidarSweep("", 0, "", points, times), lambda _: pose, pose)


def _carried_on(known: list[Pose]) -> list[Pose]:
    """Poses at even steps; where the last ones only repeat, the motion before goes on."""
    end = len(known)
    while end > 2 and np.array_equal(known[end - 1], known[end - 2]):
        end -= 1
    if end == len(known) or end < 2:
        return known
    # The first repeated pose may lie less than a step after the one before: the step before is whole.
    at = end - 2 if end > 2 else end - 1
    step = poses.inverse(known[at - 1]) @ known[at]
    result = known[: at + 1]
    while len(result) < len(known):
        result.append(result[-1] @ step)
    return result


@numba.njit(cache=True)
def _span(times, longest):  # type: ignore[no-untyped-def]
    """Least and greatest time within bounds; 0 and 0 where there is none."""
    first, last = np.inf, -np.inf
    for t in times:
        if abs(t) <= longest:
            first, last = min(first, t), max(last, t)
    return (first, last) if first <= last else (0.0, 0.0)


@numba.njit(cache=True)
def _move(points, times, first, scale, longest, motions, result):  # type: ignore[no-untyped-def]
    """motions: (K, 3, 4) float32, from a point at a knot's time to the sensor at the stamp."""
    most = len(motions) - 2
    for i in range(len(points)):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        result[i, 3] = points[i, 3]
        # Written so that NaN stays put too.
        if not abs(times[i]) <= longest:
            result[i, 0], result[i, 1], result[i, 2] = x, y, z
            continue
        at = (times[i] - first) * scale
        knot = min(max(int(at), 0), most)
        share = at - np.float32(knot)
        for row in range(3):
            a, b = motions[knot, row], motions[knot + 1, row]
            early = a[0] * x + a[1] * y + a[2] * z + a[3]
            late = b[0] * x + b[1] * y + b[2] * z + b[3]
            result[i, row] = early + share * (late - early)
