"""Points of obstacles and of the ground for costmaps, thinned out on a voxel grid."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.pointcloud.ground_segmentation import Cloud

POINT_FIELDS = np.dtype([(name, "<f4") for name in ("x", "y", "z", "height")])
# Voxels are numbered from the lower corner of a cube with this many voxels per side around base_link.
VOXELS_PER_SIDE = 1 << 20


@dataclass(frozen=True)
class ObstaclePointsConfig:
    """Points of obstacles and of the ground for costmaps and collision monitors.

    Attributes:
        min_height: Height above the ground from which a point is an obstacle; points that belong to the
            ground are never obstacles. Increase it if the vehicle drives over kerbs or low objects.
        max_height: Height above the ground up to which a point is an obstacle. Set it to the height of
            the vehicle plus a margin, so that branches and ceilings above it do not block the path.
        max_range: Distance from base_link up to which points are published. Decrease it to the size of
            the local costmap to save computing time in the planner.
        voxel_size: Side of the voxels of which one point each is published; 0 publishes all points.
            Increase it to reduce network traffic; keep it below the cell size of the costmap.
    """

    min_height: float = field(
        default=0.0, metadata={"min": -1.0, "max": 10.0, "unit": "m", "dynamic": True}
    )
    max_height: float = field(
        default=2.0, metadata={"min": 0.0, "max": 50.0, "unit": "m", "dynamic": True}
    )
    max_range: float = field(
        default=40.0, metadata={"min": 1.0, "max": 300.0, "unit": "m", "dynamic": True}
    )
    voxel_size: float = field(
        default=0.1, metadata={"min": 0.0, "max": 2.0, "unit": "m", "dynamic": True}
    )

    def __post_init__(self) -> None:
        if not self.min_height < self.max_height:
            raise ValueError("min_height must be below max_height")


def obstacle_points(cloud: Cloud, config: ObstaclePointsConfig) -> NDArray[np.void]:
    """Points of obstacles (N,) with POINT_FIELDS: x y z in base_link and height above the ground, m."""
    h = cloud.height
    wanted = ~cloud.is_ground & (h >= config.min_height) & (h <= config.max_height)
    return _selected(cloud, wanted, config)


def ground_points(cloud: Cloud, config: ObstaclePointsConfig) -> NDArray[np.void]:
    """Points of the ground (N,) with POINT_FIELDS; the space along the rays to them is free."""
    return _selected(cloud, cloud.is_ground, config)


def _selected(
    cloud: Cloud, wanted: NDArray[np.bool_], config: ObstaclePointsConfig
) -> NDArray[np.void]:
    points = cloud.points
    near = points[:, 0] ** 2 + points[:, 1] ** 2 <= config.max_range**2
    chosen = np.flatnonzero(wanted & near)
    if config.voxel_size > 0:
        voxels = np.floor(points[chosen, :3] / config.voxel_size).astype(np.int64)
        voxels += VOXELS_PER_SIDE // 2
        numbers = (voxels[:, 2] * VOXELS_PER_SIDE + voxels[:, 1]) * VOXELS_PER_SIDE + voxels[:, 0]
        chosen = chosen[np.unique(numbers, return_index=True)[1]]
    rows = np.empty(len(chosen), POINT_FIELDS)
    for i, name in enumerate(("x", "y", "z")):
        rows[name] = points[chosen, i]
    rows["height"] = cloud.height[chosen]
    return rows
