"""Clusters of a point cloud, and their completion to boxes of a class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.detection.geometric.box_completion import complete_boxes
from multimodal_perception.detection.geometric.box_fit import BOTTOM, fit_rectangles
from multimodal_perception.detection.geometric.clustering import Clusters, cluster
from multimodal_perception.detection.geometric.geometric_config import GeometricConfig
from multimodal_perception.detection.geometric.ray_evidence import (
    GROUND_RETURN,
    HIGH_RETURN,
    UNCLUSTERED,
    Rays,
)
from multimodal_perception.detection.geometric.shape_scores import (
    MARGINS,
    TYPICAL_SIZES,
    Array,
    Evidence,
    Shapes,
    score_hypotheses,
)
from multimodal_perception.kernels import njit
from multimodal_perception.pointcloud.ground_segmentation import Cloud

# Returns higher than this above the ground do not belong to objects below them (bridges, trees), metres.
MAX_COLUMN_HEIGHT = 6.0
# Clusters whose lowest possible point is higher than this above the ground are parts of other objects,
# such as a roof that is visible above a bumper, metres.
FLOATING_HEIGHT = 0.6
# Tangent of the highest elevation if there are too few returns to estimate it: practically vertical.
UNLIMITED_ELEVATION = 1e3


@dataclass(frozen=True)
class CompletedBoxes:
    """K hypotheses: a cluster completed to the size of a class.

    boxes: (K, 7), x y z length width height yaw. scores: (K,) in [0, 1], 0 where no completion agrees
    with the LiDAR's rays. hits: (K,) number of the cluster's returns inside the box.
    """

    boxes: Array
    scores: Array
    hits: Array


@dataclass(frozen=True)
class ClusteredCloud:
    """The C clusters of a cloud, with what is needed to complete them.

    rows: (C, 12), see box_fit.fit_rectangles. shapes: of the visible parts. beam_step, density: see
    ray_evidence.Rays.spacing. elevation: tangent of the LiDAR's highest beam.
    """

    clusters: Clusters
    rows: Array
    rays: Rays
    shapes: Shapes
    beam_step: float
    density: float
    elevation: float

    def __len__(self) -> int:
        return len(self.clusters)

    @classmethod
    def from_cloud(cls, cloud: Cloud, config: GeometricConfig) -> ClusteredCloud | None:
        """Cluster the points in config.height_range; None if there are no clusters."""
        clusters, owner = _cluster(cloud, config)
        if not len(clusters):
            return None
        tops = _column_tops(
            clusters.points,
            clusters.starts,
            cloud.points,
            cloud.height,
            config.cluster_resolution,
            config.height_range[1],
        )
        rows = fit_rectangles(clusters.points, clusters.starts, tops, cloud.origins[0])
        rays = Rays.from_cloud(cloud, owner)
        elevation = _max_elevation(cloud)
        beam_step, density = rays.spacing()
        shapes = Shapes.from_rows(rows, cloud.origins[0], elevation, beam_step)
        # A floating cluster is a part of another object, so it must not exclude that object's box.
        floating = rows[:, BOTTOM] - beam_step * shapes.distance > FLOATING_HEIGHT
        rays.owner[np.isin(rays.owner, np.flatnonzero(floating))] = UNCLUSTERED
        return cls(clusters, rows, rays, shapes, beam_step, density, elevation)

    def complete(self, chosen: NDArray[np.int64], labels: NDArray[np.int64]) -> CompletedBoxes:
        """Complete the clusters `chosen` (K,) to the classes `labels` (K,) of TYPICAL_SIZES."""
        sizes = np.array([TYPICAL_SIZES[k][:2] for k in labels], np.float64).reshape(-1, 2)
        margins = np.array([MARGINS[k] for k in labels], np.float64)
        footprints, rows, values = complete_boxes(
            self.rows, self.clusters, chosen, sizes, margins, self.rays
        )
        shapes = Shapes.from_rows(rows, self.rays.origins[0], self.elevation, self.beam_step)
        evidence = Evidence(*values.T)
        scores = score_hypotheses(shapes, evidence, labels, self.beam_step, self.density)
        scores[footprints[:, 2] == 0] = 0.0  # completion failed
        boxes = add_heights(shapes, evidence, footprints, labels)
        return CompletedBoxes(boxes, scores, evidence.hits)


def add_heights(
    shapes: Shapes, evidence: Evidence, footprints: Array, labels: NDArray[np.int64]
) -> Array:
    """Boxes (K, 7) from footprints (K, 5): as high as visible, or typical if the top is not visible."""
    typical = np.array([TYPICAL_SIZES[k][2] for k in labels], np.float64)
    top = np.maximum(np.maximum(shapes.top, shapes.height_above_cluster), evidence.top)
    top_hidden = top > shapes.ceiling - 0.2
    top = np.where(top_hidden, np.maximum(top, typical), top)
    yaw = np.arctan2(np.sin(footprints[:, 4]), np.cos(footprints[:, 4]))
    return np.column_stack(
        [footprints[:, :2], shapes.ground + top / 2, footprints[:, 2:4], top, yaw]
    )


def _cluster(cloud: Cloud, c: GeometricConfig) -> tuple[Clusters, NDArray[np.int32]]:
    """Clusters of the points in height_range, and the owner of each return (N,), see Rays."""
    low, high = c.height_range
    in_range = np.flatnonzero((cloud.height > low) & (cloud.height < high))
    points = np.empty((len(in_range), 4), np.float32)
    points[:, :3] = cloud.points[in_range, :3]
    points[:, 3] = cloud.height[in_range]
    clusters = cluster(
        points, c.cluster_resolution, c.half_extent, c.max_gap, c.max_gap_growth, c.min_points
    )
    owner = np.where(cloud.height < low, GROUND_RETURN, HIGH_RETURN).astype(np.int32)
    owner[in_range] = UNCLUSTERED
    sizes = np.diff(clusters.starts)
    owner[in_range[clusters.sources]] = np.repeat(np.arange(len(clusters)), sizes)
    return clusters, owner


def _max_elevation(cloud: Cloud) -> float:
    """Tangent of the LiDAR's highest elevation angle; the tops of objects above it are not visible."""
    # Every tenth return is enough for the quantile.
    offset = cloud.points[::10, :3] - cloud.origins[0]
    distance = np.hypot(offset[:, 0], offset[:, 1])
    far = distance > 3.0
    if not far.any():
        return UNLIMITED_ELEVATION
    return float(np.quantile(offset[far, 2] / distance[far], 0.998))


@njit(nogil=True)
def _column_tops(points, starts, all_points, all_heights, cell, max_height):  # type: ignore[no-untyped-def]
    """Height (C,) above the ground of the highest return above each cluster's cells.

    max_height: up to which points are in clusters.
    """
    clusters = len(starts) - 1
    tops = np.zeros(clusters)
    low_x, low_y = points[:, 0].min(), points[:, 1].min()
    columns = int((points[:, 0].max() - low_x) / cell) + 1
    rows = int((points[:, 1].max() - low_y) / cell) + 1
    owner = np.full(columns * rows, -1, np.int32)
    for c in range(clusters):
        for i in range(starts[c], starts[c + 1]):
            u, v = int((points[i, 0] - low_x) / cell), int((points[i, 1] - low_y) / cell)
            owner[v * columns + u] = c
            tops[c] = max(tops[c], points[i, 3])
    for i in range(len(all_points)):
        height = all_heights[i]
        if max_height <= height <= MAX_COLUMN_HEIGHT:
            x, y = all_points[i, 0] - low_x, all_points[i, 1] - low_y
            if x >= 0 and y >= 0:
                u, v = int(x / cell), int(y / cell)
                if u < columns and v < rows and owner[v * columns + u] >= 0:
                    c = owner[v * columns + u]
                    tops[c] = max(tops[c], height)
    return tops
