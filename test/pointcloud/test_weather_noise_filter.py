"""Fog returns are removed; sweeps in clear air are not changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from multimodal_perception.datasets.kitti import KittiDataset
from multimodal_perception.datasets.nuscenes import NuScenesSampleDataset
from multimodal_perception.frame import LidarSweep, SensorFrame
from multimodal_perception.geometry import poses
from multimodal_perception.occupancy.raycast import RaycastMapper
from multimodal_perception.pointcloud.ground_segmentation import Cloud, segment_ground
from multimodal_perception.pointcloud.weather_noise_filter import (
    RELIABLE_SUPPORT,
    filter_weather_noise,
    neighbour_support,
)


def cloud_of(fog: float, seed: int = 0) -> tuple[Cloud, np.ndarray]:
    """A LiDAR at 1.8 m, a wall at 8 m around it, and a mask of the rays that fog reflects.

    fog: fraction of these rays.
    """
    rng = np.random.default_rng(seed)
    azimuth, elevation = np.meshgrid(
        np.radians(np.arange(0, 360, 0.4)), np.radians(np.arange(-24, 3, 0.4))
    )
    azimuth, elevation = azimuth.T.ravel(), elevation.T.ravel()
    wall = 8.0 / np.cos(elevation)
    ground = np.where(elevation < 0, 1.8 / np.maximum(np.sin(-elevation), 1e-6), np.inf)
    distance = np.minimum(wall, ground)
    is_fog = rng.random(len(distance)) < fog
    distance = np.where(is_fog, distance * rng.random(len(distance)), distance)
    distance = np.clip(distance, 1.0, 12.0)
    ray = np.stack(
        [
            np.cos(elevation) * np.cos(azimuth),
            np.cos(elevation) * np.sin(azimuth),
            np.sin(elevation),
        ],
        axis=1,
    )
    points = np.column_stack([ray * distance[:, None], np.zeros(len(distance))]).astype(np.float32)
    frame = SensorFrame(
        0,
        lidars={"lidar": LidarSweep("lidar", 0, "lidar", points)},
        base_from_sensor={"lidar": poses.from_xyz_rpy((0, 0, 1.8))},
    )
    return segment_ground(frame), is_fog


def test_sweeps_in_clear_air_are_not_changed(shared_data: Path) -> None:
    clear, _ = cloud_of(0.0)
    assert neighbour_support(clear) is None and filter_weather_noise(clear) is clear
    for frame in KittiDataset(shared_data / "kitti" / "training"):
        assert neighbour_support(segment_ground(frame)) is None


def test_clear_sweep_ordered_by_column_is_not_changed(shared_data: Path) -> None:
    cloud = segment_ground(NuScenesSampleDataset(shared_data / "nuscenes_frame")[0])
    assert neighbour_support(cloud) is None and filter_weather_noise(cloud) is cloud


def test_fog_is_removed_and_the_wall_is_kept() -> None:
    cloud, is_fog = cloud_of(0.45)
    support = neighbour_support(cloud)
    assert support is not None
    high = cloud.height > 0.3
    assert (support[is_fog & high] < RELIABLE_SUPPORT).mean() > 0.9
    assert (support[~is_fog & high] < RELIABLE_SUPPORT).mean() < 0.1
    kept = filter_weather_noise(cloud)
    assert kept.possible_noise is not None and not (kept.possible_noise & kept.is_ground).any()
    assert kept.is_ground.sum() == cloud.is_ground.sum() and kept.ground is cloud.ground
    assert len(kept.reliable.points) < len(kept.points) < len(cloud.points)
    assert occupied_by_possible_noise(kept) == 0


def occupied_by_possible_noise(cloud: Cloud) -> int:
    """Number of possible-noise returns in grid cells that are occupied without a reliable return."""
    grid = RaycastMapper().update(SensorFrame(0), cloud)
    possible_noise = cloud.points[cloud.possible_noise & (cloud.height > 0.3)]
    cells = np.floor((possible_noise[:, :2] + 40.0) / 0.2).astype(int)
    reliable = np.floor(
        (cloud.reliable.points[cloud.reliable.height > 0.25, :2] + 40.0) / 0.2
    ).astype(int)
    isolated = ~(cells[:, None] == reliable[None]).all(axis=2).any(axis=1)
    return int((grid.occupied[cells[isolated, 1], cells[isolated, 0]] > 0).sum())


def test_empty_cloud_is_not_changed() -> None:
    empty = segment_ground(SensorFrame(0))
    assert neighbour_support(empty) is None and filter_weather_noise(empty) is empty
