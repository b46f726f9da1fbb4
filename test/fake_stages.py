"""Stages that return fixed results, for tests of the pipeline and its callers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from multimodal_perception.frame import Boxes3D, CameraImage, SensorFrame
from multimodal_perception.perception import Boxes2D, OccupancyGrid, SegmentationMask, StageStatus
from multimodal_perception.pointcloud.ground_segmentation import Cloud
from multimodal_perception.stages import ImageResults


class FakeStage:
    """Records the frames that it processed."""

    def __init__(self, counts: Mapping[str, int] | None = None) -> None:
        self.counts: Counter[str] = Counter(counts or {})
        self.frames: list[SensorFrame] = []


class FakeDetector(FakeStage):
    """Returns the boxes of a function of the frame; by default none."""

    name = "fake"
    uses_proposals = False
    uses_masks = False

    def __init__(
        self,
        boxes: Callable[[SensorFrame, Cloud], Boxes3D] | None = None,
        status: tuple[StageStatus, ...] = (),
    ) -> None:
        super().__init__()
        self.boxes, self.status = boxes, status
        self.prepared: list[SensorFrame] = []
        self.proposals: list[Boxes3D | None] = []
        self.image_results: list[ImageResults | None] = []

    def prepare(self, frame: SensorFrame) -> None:
        self.prepared.append(frame)

    def detect(
        self,
        frame: SensorFrame,
        cloud: Cloud,
        proposals: Boxes3D | None = None,
        image_results: ImageResults | None = None,
    ) -> Boxes3D:
        self.frames.append(frame)
        self.proposals.append(proposals)
        self.image_results.append(image_results)
        if self.boxes is None:
            return Boxes3D.empty(frame.stamp_ns, frame.base_frame)
        return self.boxes(frame, cloud)


class FakeSegmenter(FakeStage):
    """Labels every pixel of every camera as road."""

    def segment(self, frame: SensorFrame) -> dict[str, SegmentationMask]:
        self.frames.append(frame)
        return {
            name: SegmentationMask(
                name, frame.stamp_ns, np.zeros(image.pixels.shape[:2], np.uint8), ("road",)
            )
            for name, image in frame.cameras.items()
        }


class FakeImageFusion(FakeStage):
    """Returns the images of the cameras."""

    def fuse(self, frame: SensorFrame) -> dict[str, CameraImage]:
        self.frames.append(frame)
        return dict(frame.cameras)


class FakeImageDetector(FakeStage):
    """Returns one vehicle in front of every camera."""

    def detect(self, frame: SensorFrame) -> dict[str, Boxes2D]:
        self.frames.append(frame)
        boxes = {}
        for name in frame.cameras:
            model = frame.intrinsics[name]
            u, v = model.matrix[:2, 2] + (0.5, 0.08 * model.matrix[1, 1])
            row = np.array([[u - 40, v - 60, u + 40, v + 20]], np.float32)
            score, label = np.array([0.9], np.float32), np.zeros(1, np.int64)
            size = model.width, model.height
            boxes[name] = Boxes2D(name, frame.stamp_ns, row, score, label, ("vehicle",), size)
        return boxes


class FakeMapper(FakeStage):
    """Returns an unknown grid and keeps the keyword arguments of the last update."""

    def __init__(self, uses_masks: bool = False) -> None:
        super().__init__()
        self.uses_masks = uses_masks
        self.given: dict[str, Any] = {}

    def update(self, frame: SensorFrame, cloud: Cloud, **given: Any) -> OccupancyGrid:
        self.frames.append(frame)
        self.given = given
        free, occupied = np.zeros((2, 4, 4), np.float32)
        return OccupancyGrid(frame.stamp_ns, frame.base_frame, 1.0, (-2.0, -2.0), free, occupied)

    def odom_grid(self, stamp_ns: int) -> OccupancyGrid | None:
        return None
