"""Geometric detector: 3D boxes from the point cloud without a neural network.

The steps: cluster the points above the ground, fit a rectangle to each cluster, complete it to the
size of each class that is possible (box_completion), score the hypotheses by shape and by the LiDAR's
rays (shape_scores, ray_evidence), and apply non-maximum suppression. The classes are coarse, and the
scores only rank the boxes. It needs little time, and is the fallback of the fusion detector.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numba
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.detection.geometric.box_completion import complete_boxes
from multimodal_perception.detection.geometric.box_fit import BOTTOM, fit_rectangles
from multimodal_perception.detection.geometric.clustering import Clusters, cluster
from multimodal_perception.detection.geometric.ray_evidence import (
    GROUND_RETURN,
    HIGH_RETURN,
    UNCLUSTERED,
    Rays,
)
from multimodal_perception.detection.geometric.shape_scores import (
    MARGINS,
    SCORED_CLASSES,
    TYPICAL_SIZES,
    Array,
    Evidence,
    Shapes,
    score_hypotheses,
    size_fit,
)
from multimodal_perception.frame import Boxes3D, Modality, SensorFrame
from multimodal_perception.geometry.boxes import iou_bev
from multimodal_perception.pointcloud.ground_segmentation import Cloud
from multimodal_perception.rig import Rig
from multimodal_perception.sensor_use import SensorUse, of_modalities

# Returns higher than this above the ground do not belong to objects below them (bridges, trees), metres.
MAX_COLUMN_HEIGHT = 6.0
# Clusters whose lowest possible point is higher than this above the ground are parts of other objects,
# such as a roof that is visible above a bumper, metres.
FLOATING_HEIGHT = 0.6
# Tangent of the highest elevation if there are too few returns to estimate it: practically vertical.
UNLIMITED_ELEVATION = 1e3


@dataclass(frozen=True)
class GeometricConfig:
    """Parameters of the geometric detector.

    Attributes:
        half_extent: Half the side length of the square around the vehicle in which objects are
            detected. Increase it for long-range LiDARs; larger values cost time.
        cluster_resolution: Cell size of the clustering grid. Decrease it to separate objects that
            are close to each other; smaller values cost time.
        height_range: Minimum and maximum height above the ground of the points that are clustered.
            Raise the minimum if grass or kerbs become objects; lower the maximum if trees join
            objects.
        max_gap: Maximum gap between points of one object, at distance 0. Increase it if objects are
            split into several clusters; decrease it if neighbouring objects are joined.
        max_gap_growth: Increase of max_gap per metre of distance, because the spacing of a LiDAR's
            points grows with the distance. Increase it for LiDARs with a low resolution.
        min_points: Minimum number of points of a cluster. Decrease it to detect distant objects;
            smaller values give more false detections.
        min_score: Boxes with a lower score are not reported. Increase it to get fewer false
            detections, decrease it to miss fewer objects.
        nms_overlap_of_smaller: Maximum overlap of two boxes, as a fraction of the smaller
            footprint; of boxes that overlap more, the one with the lower score is dropped. Increase
            it if objects that touch each other are missed.
    """

    half_extent: float = field(default=64.0, metadata={"min": 5.0, "max": 200.0, "unit": "m"})
    cluster_resolution: float = field(default=0.15, metadata={"min": 0.05, "max": 1.0, "unit": "m"})
    height_range: tuple[float, float] = field(default=(0.25, 2.3), metadata={"unit": "m"})
    max_gap: float = field(default=0.3, metadata={"min": 0.1, "max": 2.0, "unit": "m"})
    max_gap_growth: float = field(default=0.012, metadata={"min": 0.0, "max": 0.1, "unit": "m/m"})
    min_points: int = field(default=5, metadata={"min": 1, "max": 1000})
    min_score: float = field(default=0.3, metadata={"min": 0.0, "max": 1.0})
    nms_overlap_of_smaller: float = field(default=0.3, metadata={"min": 0.0, "max": 1.0})

    def __post_init__(self) -> None:
        if not 0 < self.height_range[0] < self.height_range[1]:
            raise ValueError("height_range must be two increasing heights above 0")


class GeometricDetector:
    """A Detector (see stages) for point clouds, without a neural network. counts: always empty."""

    name = "geometric"
    uses_proposals = False

    def __init__(self, config: GeometricConfig | None = None) -> None:
        self.config = config or GeometricConfig()
        self.counts: Counter[str] = Counter()

    def sensor_use(self, rig: Rig) -> SensorUse:
        """The LiDARs of a rig."""
        return SensorUse(of_modalities(rig, Modality.LIDAR))

    def prepare(self, frame: SensorFrame) -> None:
        """Does nothing: this detector uses the point cloud only."""

    def detect(self, frame: SensorFrame, cloud: Cloud, proposals: Boxes3D | None = None) -> Boxes3D:
        """Boxes in base_link at the frame's stamp, highest score first; none without LiDAR points.

        proposals: ignored.
        """
        clusters, owner = self._cluster(cloud)
        if not len(clusters):
            return Boxes3D.empty(frame.stamp_ns, frame.base_frame)
        tops = _column_tops(
            clusters.points,
            clusters.starts,
            cloud.points,
            cloud.height,
            self.config.cluster_resolution,
            self.config.height_range[1],
        )
        rows = fit_rectangles(clusters.points, clusters.starts, tops, cloud.origins[0])
        rays = Rays.from_cloud(cloud, owner)
        elevation = _max_elevation(cloud)
        beam_step, density = rays.spacing()
        view = (cloud.origins[0], elevation, beam_step)
        visible = Shapes.from_rows(rows, *view)
        # A floating cluster is a part of another object, so it must not exclude that object's box.
        floating = rows[:, BOTTOM] - beam_step * visible.distance > FLOATING_HEIGHT
        rays.owner[np.isin(rays.owner, np.flatnonzero(floating))] = UNCLUSTERED
        chosen, labels = self._hypotheses(visible)
        sizes = np.array([TYPICAL_SIZES[k][:2] for k in labels], np.float64).reshape(-1, 2)
        margins = np.array([MARGINS[k] for k in labels], np.float64)
        footprints, rows, values = complete_boxes(rows, clusters, chosen, sizes, margins, rays)
        shapes, evidence = Shapes.from_rows(rows, *view), Evidence(*values.T)
        scores = score_hypotheses(shapes, evidence, labels, beam_step, density)
        scores[footprints[:, 2] == 0] = 0.0  # completion failed
        boxes = add_heights(shapes, evidence, footprints, labels)
        likely = np.flatnonzero(scores >= self.config.min_score)
        kept = likely[
            suppress_overlaps(boxes[likely], scores[likely], self.config.nms_overlap_of_smaller)
        ]
        return Boxes3D(
            frame.stamp_ns,
            frame.base_frame,
            boxes[kept].astype(np.float32),
            scores[kept].astype(np.float32),
            labels[kept],
            num_points=evidence.hits[kept].astype(np.int64),
        )

    def _hypotheses(self, shapes: Shapes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Clusters (K,) and classes (K,) that are compatible by size."""
        fits = np.stack([size_fit(shapes, label) for label in SCORED_CLASSES])
        classes, chosen = np.nonzero(fits >= 0.5 * self.config.min_score)
        return chosen, np.array(SCORED_CLASSES, np.int64)[classes]

    def _cluster(self, cloud: Cloud) -> tuple[Clusters, NDArray[np.int32]]:
        """Clusters of the points in height_range, and the owner of each return (N,), see Rays."""
        c = self.config
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


def suppress_overlaps(boxes: Array, scores: Array, max_overlap: float) -> NDArray[np.int64]:
    """Indices of the boxes (N, 7) kept, highest score first.

    Boxes whose overlap with a kept box is a larger fraction of either footprint are suppressed.
    """
    area = boxes[:, 3] * boxes[:, 4]
    iou = iou_bev(boxes, boxes)
    intersection = iou * (area[:, None] + area) / (1 + iou)
    overlap = intersection / np.maximum(np.minimum(area[:, None], area), 1e-6)
    kept: list[int] = []
    for i in np.argsort(-scores, kind="stable"):
        if not any(overlap[i, j] > max_overlap for j in kept):
            kept.append(int(i))
    return np.array(kept, np.int64)


def _max_elevation(cloud: Cloud) -> float:
    """Tangent of the LiDAR's highest elevation angle; the tops of objects above it are not visible."""
    # Every tenth return is enough for the quantile.
    offset = cloud.points[::10, :3] - cloud.origins[0]
    distance = np.hypot(offset[:, 0], offset[:, 1])
    far = distance > 3.0
    if not far.any():
        return UNLIMITED_ELEVATION
    return float(np.quantile(offset[far, 2] / distance[far], 0.998))


@numba.njit(cache=True, nogil=True)
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
