"""A detector that needs no weights: what stands on the ground, grouped, boxed and judged by its shape.

It is the floor under the networks and the fallback when one cannot run. Classes are coarse, scores rank.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numba
import numpy as np

from multimodal_perception.detection.box_fit import describe
from multimodal_perception.detection.clustering import Clusters, cluster
from multimodal_perception.detection.shape import Shapes, complete, judge
from multimodal_perception.frame import Boxes3D, SensorFrame
from multimodal_perception.geometry.boxes import non_maximum_suppression
from multimodal_perception.preprocess.ground import Cloud

# Returns higher than this above the ground hang over the road or top a building.
HIGHEST_COLUMN = 6.0
ANGLE_STEPS = 45


@dataclass(frozen=True)
class GeometricConfig:
    """Parameters of the geometric detector.

    extent: half side of the square searched. cell: of the clustering grid. band: heights over the
    ground that are grouped. gap, gap_per_metre: how far apart an object's points may lie, and by how
    much more for each metre of distance. min_score: below it a box is not reported.
    """

    extent: float = field(default=64.0, metadata={"min": 5.0, "max": 200.0, "unit": "m"})
    cell: float = field(default=0.15, metadata={"min": 0.05, "max": 1.0, "unit": "m"})
    band: tuple[float, float] = (0.25, 2.3)
    gap: float = field(default=0.3, metadata={"min": 0.1, "max": 2.0, "unit": "m"})
    gap_per_metre: float = field(default=0.012, metadata={"min": 0.0, "max": 0.1})
    min_points: int = field(default=5, metadata={"min": 1, "max": 1000})
    min_score: float = field(default=0.2, metadata={"min": 0.0, "max": 1.0})
    overlap: float = field(default=0.1, metadata={"min": 0.0, "max": 1.0})

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
        clusters = self._clusters(cloud)
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
        rows = describe(clusters.points, clusters.starts, tops, ANGLE_STEPS)
        shapes = Shapes.from_rows(rows, cloud.origins[0], _highest_elevation(cloud))
        labels, scores = judge(shapes)
        likely = np.flatnonzero(scores >= self.config.min_score)
        boxes = complete(shapes.select(likely), labels[likely], cloud.origins[0])
        kept = non_maximum_suppression(boxes, scores[likely], self.config.overlap)
        chosen = likely[kept]
        return Boxes3D(
            frame.stamp_ns,
            frame.base_frame,
            boxes[kept].astype(np.float32),
            scores[chosen].astype(np.float32),
            labels[chosen],
            num_points=rows[chosen, 8].astype(np.int64),
        )

    def _clusters(self, cloud: Cloud) -> Clusters:
        low, high = self.config.band
        standing = np.flatnonzero((cloud.height > low) & (cloud.height < high))
        points = np.empty((len(standing), 4), np.float32)
        points[:, :3] = cloud.points[standing, :3]
        points[:, 3] = cloud.height[standing]
        c = self.config
        return cluster(points, c.cell, c.extent, c.gap, c.gap_per_metre, c.min_points)


def _highest_elevation(cloud: Cloud) -> float:
    """Tangent of the highest angle at which the LiDAR sees: no object's top shows above it."""
    offset = cloud.points[:, :3] - cloud.origins[0]
    distance = np.hypot(offset[:, 0], offset[:, 1])
    far = distance > 3.0
    if not far.any():
        return np.inf
    tangents = offset[far, 2] / distance[far]
    return float(
        np.partition(tangents, -max(len(tangents) // 500, 1))[-max(len(tangents) // 500, 1)]
    )


@numba.njit(cache=True)
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
