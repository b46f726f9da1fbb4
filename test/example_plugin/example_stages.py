"""An example of user-defined stages; see test/test_plugins.py for its entry points."""

from __future__ import annotations

from collections import Counter

import numpy as np

from multimodal_perception.frame import CLASS_NAMES, Boxes3D, SensorFrame
from multimodal_perception.perception import Boxes2D, OccupancyGrid, SegmentationMask
from multimodal_perception.pointcloud.ground_segmentation import Cloud
from multimodal_perception.stages import ImageResults


class NearestPointDetector:
    """Reports the nearest point above the ground as a box of fixed size."""

    name = "nearest_point"
    uses_proposals = False
    uses_masks = False

    def __init__(self, size: float = 1.0) -> None:
        if size <= 0:
            raise ValueError("size must be above 0")
        self.size = size
        self.counts: Counter[str] = Counter()

    def prepare(self, frame: SensorFrame) -> None:
        """Nothing to prepare."""

    def detect(
        self,
        frame: SensorFrame,
        cloud: Cloud,
        proposals: Boxes3D | None = None,
        image_results: ImageResults | None = None,
    ) -> Boxes3D:
        points = cloud.points[cloud.height > 0.3]
        if not len(points):
            self.counts["no_points"] += 1
            return Boxes3D.empty(frame.stamp_ns, frame.base_frame)
        nearest = points[np.hypot(points[:, 0], points[:, 1]).argmin(), :3]
        box = np.array([[*nearest, self.size, self.size, self.size, 0.0]], np.float32)
        label = np.array([CLASS_NAMES.index("car")], np.int64)
        return Boxes3D(frame.stamp_ns, frame.base_frame, box, np.ones(1, np.float32), label)


class EmptyImageDetector:
    """Detects nothing."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def detect(self, frame: SensorFrame) -> dict[str, Boxes2D]:
        return {}


class RoadSegmenter:
    """Labels every pixel as road."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def segment(self, frame: SensorFrame) -> dict[str, SegmentationMask]:
        return {
            name: SegmentationMask(
                name, image.stamp_ns, np.zeros(image.pixels.shape[:2], np.uint8), ("road",)
            )
            for name, image in frame.cameras.items()
        }


class FreeMapper:
    """Reports free space everywhere."""

    uses_masks = False

    def __init__(self, cells: int = 10) -> None:
        self.cells = cells
        self.counts: Counter[str] = Counter()

    def update(self, frame: SensorFrame, cloud: Cloud, **inputs: object) -> OccupancyGrid:
        free = np.ones((self.cells, self.cells), np.float32)
        corner = -self.cells / 2
        return OccupancyGrid(
            frame.stamp_ns, frame.base_frame, 1.0, (corner, corner), free, np.zeros_like(free)
        )

    def odom_grid(self, stamp_ns: int) -> OccupancyGrid | None:
        return None


class IncompleteDetector:
    """A detector without `prepare`, `uses_proposals` and `uses_masks`."""

    name = "incomplete"

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def detect(self, frame: SensorFrame, cloud: Cloud) -> Boxes3D:
        return Boxes3D.empty(frame.stamp_ns, frame.base_frame)
