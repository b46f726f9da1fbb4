"""Deskewing of simulated sweeps against points at the stamp."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from multimodal_perception.frame import LidarSweep
from multimodal_perception.geometry import poses
from multimodal_perception.pointcloud.deskew import deskew

STAMP = 5_000_000_000
SENSOR = poses.from_xyz_rpy((1.2, 0.1, 1.8), (0.0, 0.02, 0.3))


def drive(speed: float, yaw_rate: float, until_s: float = 100.0):  # type: ignore[no-untyped-def]
    """odom_from_base on a circle; past until_s the last pose is repeated."""

    def pose(at_ns: int) -> np.ndarray:
        t = min(at_ns / 1e9, until_s)
        yaw = yaw_rate * t
        radius = speed / yaw_rate if yaw_rate else 0.0
        xy = (radius * np.sin(yaw), radius * (1 - np.cos(yaw))) if yaw_rate else (speed * t, 0.0)
        return poses.from_xyz_rpy((*xy, 0.0), (0.0, 0.0, yaw))

    return pose


def measure(pose, world: np.ndarray, times: np.ndarray) -> LidarSweep:  # type: ignore[no-untyped-def]
    """Sweep of world points (N, 3), each measured at its time relative to the stamp."""
    points = np.zeros((len(world), 4), np.float32)
    for i, t in enumerate(times):
        sensor_from_world = poses.inverse(pose(STAMP + round(t * 1e9)) @ SENSOR)
        points[i, :3] = poses.transform_points(sensor_from_world, world[i : i + 1])[0]
    points[:, 3] = np.arange(len(world))
    return LidarSweep("lidar", STAMP, "lidar", points, times.astype(np.float32))


def world_points(n: int = 300) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.column_stack(
        [rng.uniform(-60, 200, n), rng.uniform(-60, 60, n), rng.uniform(-1, 4, n)]
    )


@pytest.mark.parametrize("first", [0.0, -0.05, -0.1])
@pytest.mark.parametrize(("speed", "yaw_rate"), [(30.0, 0.0), (8.0, 1.0), (0.0, -2.0)])
def test_points_are_moved_to_the_sensor_pose_at_the_stamp(
    speed: float, yaw_rate: float, first: float
) -> None:
    pose, world = drive(speed, yaw_rate), world_points()
    times = np.random.default_rng(1).uniform(first, first + 0.1, len(world))
    sweep = measure(pose, world, times)
    still = measure(pose, world, np.zeros(len(world)))
    result = deskew(sweep, pose, SENSOR)
    before = np.linalg.norm(sweep.points[:, :3] - still.points[:, :3], axis=1)
    after = np.linalg.norm(result.points[:, :3] - still.points[:, :3], axis=1)
    assert before.max() > 0.5
    distance = np.linalg.norm(still.points[:, :3], axis=1)
    assert (after < 0.005 + 2.5e-4 * distance).all()
    assert_array_equal(result.points[:, 3], sweep.points[:, 3])
    assert result.time_offsets is None


def test_motion_is_extrapolated_where_odometry_ends_within_the_sweep() -> None:
    pose, world = drive(20.0, 0.3), world_points()
    times = np.linspace(0.0, 0.1, len(world))
    sweep, still = measure(pose, world, times), measure(pose, world, np.zeros(len(world)))
    result = deskew(sweep, drive(20.0, 0.3, until_s=5.055), SENSOR)
    error = np.linalg.norm(result.points[:, :3] - still.points[:, :3], axis=1)
    assert error.max() < 0.1


def test_sweep_without_times_or_motion_is_not_changed() -> None:
    pose, world = drive(20.0, 0.0), world_points(10)
    sweep = measure(pose, world, np.linspace(0, 0.1, 10))
    assert deskew(sweep, lambda _: None, SENSOR) is sweep
    plain = LidarSweep("lidar", STAMP, "lidar", sweep.points)
    assert deskew(plain, pose, SENSOR) is plain
    simultaneous = measure(pose, world, np.zeros(10))
    assert deskew(simultaneous, pose, SENSOR) is simultaneous


def test_points_with_invalid_times_are_not_moved() -> None:
    pose, world = drive(20.0, 0.0), world_points(10)
    sweep = measure(pose, world, np.linspace(0, 0.1, 10))
    times = sweep.time_offsets
    assert times is not None
    times[3], times[4] = 40.0, np.nan
    result = deskew(sweep, pose, SENSOR)
    assert_array_equal(result.points[3:5], sweep.points[3:5])
    assert_allclose(result.points[9, 0], sweep.points[9, 0], atol=3)
    assert not np.array_equal(result.points[9], sweep.points[9])
