"""SensorFrame to Perception: the only place that knows every stage."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from multimodal_perception.frame import Boxes3D, OccupancyGrid, Perception, SensorFrame


class Detector(Protocol):
    """Finds objects in a frame; boxes come out in the frame's base_frame at its stamp."""

    name: str

    def detect(self, frame: SensorFrame) -> Boxes3D: ...


class OccupancyMapper(Protocol):
    """Turns a frame and its boxes into occupancy around the vehicle."""

    def update(self, frame: SensorFrame, boxes: Boxes3D) -> OccupancyGrid: ...


class Pipeline:
    """Runs the stages in order and times each."""

    def __init__(self, detector: Detector, occupancy: OccupancyMapper | None = None) -> None:
        self.detector = detector
        self.occupancy = occupancy

    def process(self, frame: SensorFrame) -> Perception:
        """Perceive one frame."""
        stage_ms: dict[str, float] = {}
        with _timed(stage_ms, "total"):
            with _timed(stage_ms, "detect"):
                boxes = self.detector.detect(frame)
            grid = None
            if self.occupancy is not None:
                with _timed(stage_ms, "occupancy"):
                    grid = self.occupancy.update(frame, boxes)
        return Perception(
            frame.stamp_ns,
            frame.base_frame,
            boxes,
            grid,
            stage_ms=stage_ms,
            missing=frame.missing,
        )


@contextmanager
def _timed(stage_ms: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    stage_ms[stage] = 1e3 * (time.perf_counter() - start)
