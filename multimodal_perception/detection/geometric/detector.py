"""A detector that needs no weights: what stands on the ground, grouped, boxed and judged by its shape.

It is the floor under the networks and the fallback when one cannot run. Classes are coarse, scores
rank.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numba
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.detection.geometric.box_completion import place
from multimodal_perception.detection.geometric.box_fit import BOTTOM, describe
from multimodal_perception.detection.geometric.clustering import Clusters, cluster
from multimodal_perception.detection.geometric.ray_evidence import (
    GROUND_RETURN,
    HIGH_RETURN,
    UNCLUSTERED,
    Rays,
)
from multimodal_perception.detection.geometric.shape_scores import (
    JUDGED,
    RINGS,
    TYPICAL,
    Array,
    Evidence,
    Shapes,
    judge,
    size_fit,
)
from multimodal_perception.frame import Boxes3D, SensorFrame
from multimodal_perception.geometry.boxes import iou_bev
from multimodal_perception.pointcloud.ground_segmentation import Cloud

# Returns higher than this above the ground hang over the road or top a building.
HIGHEST_COLUMN = 6.0
# Height over the ground above which a cluster begins that stands on nothing, where rays passed below.
FLOATING = 0.6
# Tangent of the highest elevation where too few returns tell it: straight up, and yet finite.
NO_CEILING = 1e3


@dataclass(frozen=True)
class GeometricConfig:
    """Parameters of the geometric detector.

    extent: half side of the square searched. cell: of the clustering grid. band: heights over the
    ground that are grouped. gap, gap_per_metre: how far apart an object's points may lie, and by
    how much more for each metre of distance. min_points: of a cluster. min_score: below it a box is
    not reported. overlap: share of the smaller footprint that two boxes may have in common.
    """

    extent: float = field(default=64.0, metadata={"min": 5.0, "max": 200.0, "unit": "m"})
    cell: float = field(default=0.15, metadata={"min": 0.05, "max": 1.0, "unit": "m"})
    band: tuple[float, float] = (0.25, 2.3)
    gap: float = field(default=0.3, metadata={"min": 0.1, "max": 2.0, "unit": "m"})
    gap_per_metre: float = field(default=0.012, metadata={"min": 0.0, "max": 0.1})
    min_points: int = field(default=5, metadata={"min": 1, "max": 1000})
    min_score: float = field(default=0.3, metadata={"min": 0.0, "max": 1.0})
    overlap: float = field(default=0.3, metadata={"min": 0.0, "max": 1.0})

    def __post_init__(self) -> None:
        if not 0 < self.band[0] < self.band[1]:
            raise ValueError("band must be two rising heights above 0")


class GeometricDetector:
    """Ground out, clusters, rectangles, shapes, suppression."""

    name = "geometric"

    def __init__(self, config: GeometricConfig | None = None) -> None:
        self.config = config or GeometricConfig()

    def detect(self, frame: SensorFrame, cloud: Cloud) -> Boxes3D:
        """Boxes in base_link at the frame's stamp, best score first; none without LiDAR points."""
        clusters, owner = self._clusters(cloud)
        if not len(clusters):
            return Boxes3D.empty(frame.stamp_ns, frame.base_frame)
        tops = _column_tops(
            clusters.points,
            clusters.starts,
            cloud.points,
            cloud.height,
            self.config.cell,
            self.config.band[1],
        )
        rows = describe(clusters.points, clusters.starts, tops, cloud.origins[0])
        rays = Rays.of(cloud, owner)
        elevation = _highest_elevation(cloud)
        beam_step, density = rays.spacing()
        view = (cloud.origins[0], elevation, beam_step)
        seen_shapes = Shapes.from_rows(rows, *view)
        # What does not reach down to the ground, such as a roof seen over a bumper, is a part of
        # something else: it is no object of its own that could not be in the same place.
        floating = np.flatnonzero(rows[:, BOTTOM] - beam_step * seen_shapes.distance > FLOATING)
        rays.owner[np.isin(rays.owner, floating)] = UNCLUSTERED
        chosen, labels = self._hypotheses(seen_shapes)
        sizes = np.array([TYPICAL[k][:2] for k in labels], np.float64).reshape(-1, 2)
        rings = np.array([RINGS[k] for k in labels], np.float64)
        footprints, rows, seen = place(rows, clusters, chosen, sizes, rings, rays)
        shapes, evidence = Shapes.from_rows(rows, *view), Evidence(*seen.T)
        scores = judge(shapes, evidence, labels, beam_step, density)
        scores[footprints[:, 2] == 0] = 0.0
        boxes = raise_boxes(shapes, evidence, footprints, labels)
        likely = np.flatnonzero(scores >= self.config.min_score)
        kept = likely[suppress(boxes[likely], scores[likely], self.config.overlap)]
        return Boxes3D(
            frame.stamp_ns,
            frame.base_frame,
            boxes[kept].astype(np.float32),
            scores[kept].astype(np.float32),
            labels[kept],
            num_points=evidence.hits[kept].astype(np.int64),
        )

    def _hypotheses(self, shapes: Shapes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Clusters (K,) and classes (K,) that go together by size."""
        fits = np.stack([size_fit(shapes, label) for label in JUDGED])
        classes, chosen = np.nonzero(fits >= 0.5 * self.config.min_score)
        return chosen, np.array(JUDGED, np.int64)[classes]

    def _clusters(self, cloud: Cloud) -> tuple[Clusters, NDArray[np.int32]]:
        """Clusters of what stands, and the cluster of each return (N,); see rays.Rays."""
        low, high = self.config.band
        standing = np.flatnonzero((cloud.height > low) & (cloud.height < high))
        points = np.empty((len(standing), 4), np.float32)
        points[:, :3] = cloud.points[standing, :3]
        points[:, 3] = cloud.height[standing]
        c = self.config
        clusters = cluster(points, c.cell, c.extent, c.gap, c.gap_per_metre, c.min_points)
        owner = np.where(cloud.height < low, GROUND_RETURN, HIGH_RETURN).astype(np.int32)
        owner[standing] = UNCLUSTERED
        sizes = np.diff(clusters.starts)
        owner[standing[clusters.sources]] = np.repeat(np.arange(len(clusters)), sizes)
        return clusters, owner


def raise_boxes(
    shapes: Shapes, evidence: Evidence, footprints: Array, labels: NDArray[np.int64]
) -> Array:
    """Boxes (K, 7) on footprints (K, 5), as high as seen, or as usual where no top was."""
    typical = np.array([TYPICAL[k][2] for k in labels], np.float64)
    top = np.maximum(np.maximum(shapes.top, shapes.column), evidence.top)
    hidden = top > shapes.ceiling - 0.2
    top = np.where(hidden, np.maximum(top, typical), top)
    yaw = np.arctan2(np.sin(footprints[:, 4]), np.cos(footprints[:, 4]))
    return np.column_stack(
        [footprints[:, :2], shapes.ground + top / 2, footprints[:, 2:4], top, yaw]
    )


def suppress(boxes: Array, scores: Array, most: float) -> NDArray[np.int64]:
    """Indices of the boxes (N, 7) kept, best score first.

    No box has more than a share `most` of its own footprint, or of a better box's, in common with it.
    """
    area = boxes[:, 3] * boxes[:, 4]
    iou = iou_bev(boxes, boxes)
    common = iou * (area[:, None] + area) / (1 + iou)
    overlap = common / np.maximum(np.minimum(area[:, None], area), 1e-6)
    kept: list[int] = []
    for i in np.argsort(-scores, kind="stable"):
        if not any(overlap[i, j] > most for j in kept):
            kept.append(int(i))
    return np.array(kept, np.int64)


def _highest_elevation(cloud: Cloud) -> float:
    """Tangent of the highest angle at which the LiDAR sees: no object's top shows above it."""
    # Every tenth return says as much as all.
    offset = cloud.points[::10, :3] - cloud.origins[0]
    distance = np.hypot(offset[:, 0], offset[:, 1])
    far = distance > 3.0
    if not far.any():
        return NO_CEILING
    return float(np.quantile(offset[far, 2] / distance[far], 0.998))


@numba.njit(cache=True, nogil=True)
def _column_tops(points, starts, all_points, all_heights, cell, band_top):  # type: ignore[no-untyped-def]
    """Height (C,) over the ground of the highest return over each cluster's cells."""
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
        if band_top <= height <= HIGHEST_COLUMN:
            x, y = all_points[i, 0] - low_x, all_points[i, 1] - low_y
            if x >= 0 and y >= 0:
                u, v = int(x / cell), int(y / cell)
                if u < columns and v < rows and owner[v * columns + u] >= 0:
                    c = owner[v * columns + u]
                    tops[c] = max(tops[c], height)
    return tops
