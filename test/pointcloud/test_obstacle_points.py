"""Points for costmaps: obstacles by their height above the ground, one point per voxel."""

from __future__ import annotations

import numpy as np
import pytest

from multimodal_perception.pointcloud.ground_segmentation import Cloud, GroundModel
from multimodal_perception.pointcloud.obstacle_points import (
    ObstaclePointsConfig,
    ground_points,
    obstacle_points,
)


def cloud(rows: list[tuple[float, float, float, float]]) -> Cloud:
    """Points x y z with a height above the ground; below 0.2 m they are ground."""
    values = np.array(rows, np.float32)
    points = np.column_stack([values[:, :3], np.zeros(len(values), np.float32)])
    n = len(values)
    model = GroundModel(np.zeros((8, 4), np.float32), 1.0)
    origins, source = np.zeros((1, 3), np.float32), np.zeros(n, np.uint8)
    return Cloud(points, values[:, 3], values[:, 3] < 0.2, model, origins, source)


def test_heights_are_measured_above_the_ground_not_from_base_link() -> None:
    # On a ramp, z in base_link is not the height of an obstacle.
    rows = [
        (20, 0, 4.5, 0.5),
        (20, 1, 6.5, 2.5),
        (20, 2, 4.0, 0.0),
        (5, 0, -0.1, 0.3),
        (60, 0, 1, 1),
    ]
    config = ObstaclePointsConfig(max_height=2.0, max_range=40.0)
    obstacles = obstacle_points(cloud(rows), config)
    assert obstacles["z"].tolist() == pytest.approx([-0.1, 4.5])
    assert obstacles["height"].tolist() == pytest.approx([0.3, 0.5])
    assert ground_points(cloud(rows), config)["y"].tolist() == [2.0]
    low = ObstaclePointsConfig(min_height=0.4, max_height=2.0)
    assert len(obstacle_points(cloud(rows), low)) == 1


def test_one_point_per_voxel_remains_and_every_occupied_voxel_keeps_one() -> None:
    generator = np.random.default_rng(0)
    points = generator.uniform(-6, 6, (3000, 3))
    rows = [(x, y, z, 1.0) for x, y, z in points]
    every = obstacle_points(cloud(rows), ObstaclePointsConfig(voxel_size=0.0))
    thinned = obstacle_points(cloud(rows), ObstaclePointsConfig(voxel_size=1.0))
    assert len(every) == 3000

    def voxels(found: np.ndarray) -> list[tuple[int, ...]]:  # type: ignore[type-arg]
        stacked = np.stack([found[axis] for axis in "xyz"], axis=1)
        return [tuple(v) for v in np.floor(stacked).astype(int).tolist()]

    assert len(thinned) == len(set(voxels(thinned))) and set(voxels(thinned)) == set(voxels(every))
    empty = cloud([(1.0, 0.0, 0.0, 0.0)])
    assert len(obstacle_points(empty, ObstaclePointsConfig())) == 0


def test_limits_that_exclude_everything_are_refused() -> None:
    with pytest.raises(ValueError, match="min_height"):
        ObstaclePointsConfig(min_height=2.0, max_height=2.0)
