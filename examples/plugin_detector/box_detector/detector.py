"""A simple detector: one box around the points in each group of connected grid cells."""

from __future__ import annotations

from collections import Counter

import numpy as np
from scipy.ndimage import label

from multimodal_perception.frame import CLASS_NAMES, Boxes3D, SensorFrame
from multimodal_perception.pointcloud.ground_segmentation import Cloud
from multimodal_perception.stages import ImageResults

EXTENT_M = 40.0


class GridDetector:
    """Reports groups of obstacle points of the size of a car.

    It has the members of multimodal_perception.stages.Detector and need not inherit from it.
    """

    name = "boxes_by_grid"
    uses_proposals = False  # boxes of an image detector are ignored
    uses_masks = False  # so are segmentation masks

    def __init__(self, cell: float = 0.4, min_points: int = 30) -> None:
        """cell: size of the grid cells, metres. min_points: of a group; smaller groups are dropped."""
        if not cell > 0:
            raise ValueError("cell must be above 0")
        self.cell, self.min_points = cell, min_points
        self.counts: Counter[str] = Counter()  # shown on /diagnostics

    def prepare(self, frame: SensorFrame) -> None:
        """Nothing to prepare: this detector needs only the point cloud."""

    def detect(
        self,
        frame: SensorFrame,
        cloud: Cloud,
        proposals: Boxes3D | None = None,
        image_results: ImageResults | None = None,
    ) -> Boxes3D:
        """Boxes in base_link, highest score first."""
        obstacle = (cloud.height > 0.3) & (cloud.height < 2.5)
        points = cloud.points[obstacle & (np.abs(cloud.points[:, :2]) < EXTENT_M).all(axis=1)]
        index = ((points[:, :2] + EXTENT_M) / self.cell).astype(int)
        grid = np.zeros((int(2 * EXTENT_M / self.cell) + 1,) * 2, bool)
        grid[index[:, 0], index[:, 1]] = True
        groups, _ = label(grid, np.ones((3, 3)))
        group = groups[index[:, 0], index[:, 1]]
        boxes, scores = [], []
        for number in np.unique(group):
            members = points[group == number, :3]
            low, high = members.min(axis=0), members.max(axis=0)
            size = np.maximum(high - low, 0.1)
            if len(members) < self.min_points:
                self.counts["few_points"] += 1
            elif 1.0 < size[:2].max() < 6.0:
                boxes.append([*(low + high) / 2, *size, 0.0])
                scores.append(min(len(members) / 500, 1.0))
        order = np.argsort(scores)[::-1].astype(int)
        return Boxes3D(
            frame.stamp_ns,
            frame.base_frame,
            np.array(boxes, np.float32).reshape(-1, 7)[order],
            np.array(scores, np.float32)[order],
            np.full(len(boxes), CLASS_NAMES.index("car"), np.int64),
        )
