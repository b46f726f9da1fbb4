"""Fog in a sweep is found and left out; clear sweeps stay as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from multimodal_perception.datasets.kitti import Kitti
from multimodal_perception.datasets.nuscenes import NuScenesSample
from multimodal_perception.frame import LidarSweep, SensorFrame
from multimodal_perception.geometry import poses
from multimodal_perception.occupancy.raycast import RaycastMapper
from multimodal_perception.pointcloud.ground_segmentation import Cloud, ground_cloud
from multimodal_perception.pointcloud.haze_filter import CONFIRMED, confirmed, without_haze


def cloud_of(fog: float, seed: int = 0) -> tuple[Cloud, np.ndarray]:
    """A LiDAR 1.8 m up, a wall 8 m around it, and a share of the rays that end in fog; which did."""
    rng = np.random.default_rng(seed)
    turn, rise = np.meshgrid(np.radians(np.arange(0, 360, 0.4)), np.radians(np.arange(-24, 3, 0.4)))
    turn, rise = turn.T.ravel(), rise.T.ravel()
    wall = 8.0 / np.cos(rise)
    ground = np.where(rise < 0, 1.8 / np.maximum(np.sin(-rise), 1e-6), np.inf)
    away = np.minimum(wall, ground)
    lost = rng.random(len(away)) < fog
    away = np.where(lost, away * rng.random(len(away)), away)
    away = np.clip(away, 1.0, 12.0)
    ray = np.stack([np.cos(rise) * np.cos(turn), np.cos(rise) * np.sin(turn), np.sin(rise)], axis=1)
    points = np.column_stack([ray * away[:, None], np.zeros(len(away))]).astype(np.float32)
    frame = SensorFrame(
        0,
        lidars={"lidar": LidarSweep("lidar", 0, "lidar", points)},
        base_from_sensor={"lidar": poses.from_xyz_rpy((0, 0, 1.8))},
    )
    return ground_cloud(frame), lost


def test_clear_air_is_told_from_fog_and_left_as_it_is(shared_data: Path) -> None:
    clear, _ = cloud_of(0.0)
    assert confirmed(clear) is None and without_haze(clear) is clear
    for frame in Kitti(shared_data / "kitti" / "training"):
        assert confirmed(ground_cloud(frame)) is None


def test_a_clear_sweep_told_column_by_column_is_no_fog(shared_data: Path) -> None:
    cloud = ground_cloud(NuScenesSample(shared_data / "nuscenes_frame")[0])
    assert confirmed(cloud) is None and without_haze(cloud) is cloud


def test_most_of_the_fog_goes_and_the_wall_stays() -> None:
    cloud, lost = cloud_of(0.45)
    shares = confirmed(cloud)
    assert shares is not None
    high = cloud.height > 0.3
    assert (shares[lost & high] < CONFIRMED).mean() > 0.9
    assert (shares[~lost & high] < CONFIRMED).mean() < 0.1
    kept = without_haze(cloud)
    assert kept.doubtful is not None and not (kept.doubtful & kept.is_ground).any()
    assert kept.is_ground.sum() == cloud.is_ground.sum() and kept.ground is cloud.ground
    assert len(kept.certain.points) < len(kept.points) < len(cloud.points)
    assert clear_of(kept) == 0


def clear_of(cloud: Cloud) -> int:
    """Doubtful returns that a grid of the cloud would mark as occupied, where nothing else stands."""
    grid = RaycastMapper().update(SensorFrame(0), cloud)
    doubtful = cloud.points[cloud.doubtful & (cloud.height > 0.3)]
    at = np.floor((doubtful[:, :2] + 40.0) / 0.2).astype(int)
    sure = np.floor((cloud.certain.points[cloud.certain.height > 0.25, :2] + 40.0) / 0.2).astype(
        int
    )
    alone = ~(at[:, None] == sure[None]).all(axis=2).any(axis=1)
    return int((grid.occupied[at[alone, 1], at[alone, 0]] > 0).sum())


def test_few_points_and_none_are_no_fog() -> None:
    empty = ground_cloud(SensorFrame(0))
    assert confirmed(empty) is None and without_haze(empty) is empty
