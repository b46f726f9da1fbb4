"""SensorFrame to Perception: the only place that knows every stage."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from multimodal_perception.detection.geometric import GeometricConfig, GeometricDetector
from multimodal_perception.frame import (
    Boxes3D,
    LidarSweep,
    OccupancyGrid,
    Perception,
    SensorFrame,
)
from multimodal_perception.geometry import poses
from multimodal_perception.occupancy.raycast import RaycastConfig, RaycastMapper
from multimodal_perception.preprocess.ground import Cloud, GroundConfig, ground_cloud


class Detector(Protocol):
    """Finds objects in a frame; boxes come out in the frame's base_frame at its stamp."""

    name: str

    def detect(self, frame: SensorFrame, cloud: Cloud) -> Boxes3D: ...


class OccupancyMapper(Protocol):
    """Turns a frame into occupancy around the vehicle."""

    def update(self, frame: SensorFrame, cloud: Cloud) -> OccupancyGrid: ...


@dataclass(frozen=True)
class PipelineConfig:
    """Which stages run, and the parameters of each.

    detector: finds the objects. occupancy: makes the grid, or none.
    """

    detector: Literal["geometric"] = "geometric"
    occupancy: Literal["raycast", "none"] = "raycast"
    ground: GroundConfig = field(default_factory=GroundConfig)
    geometric: GeometricConfig = field(default_factory=GeometricConfig)
    raycast: RaycastConfig = field(default_factory=RaycastConfig)


class Pipeline:
    """Runs the stages in order and times each."""

    def __init__(
        self,
        detector: Detector,
        occupancy: OccupancyMapper | None = None,
        ground: GroundConfig | None = None,
    ) -> None:
        self.detector = detector
        self.occupancy = occupancy
        self.ground = ground or GroundConfig()

    def process(self, frame: SensorFrame) -> Perception:
        """Perceive one frame. A frame without LiDAR gives no boxes and an unknown grid."""
        stage_ms: dict[str, float] = {}
        grid = None
        with _timed(stage_ms, "total"):
            with _timed(stage_ms, "ground"):
                cloud = ground_cloud(frame, self.ground)
            with _timed(stage_ms, "detect"):
                boxes = self.detector.detect(frame, cloud)
            if self.occupancy is not None:
                with _timed(stage_ms, "occupancy"):
                    grid = self.occupancy.update(frame, cloud)
        return Perception(
            frame.stamp_ns,
            frame.base_frame,
            boxes,
            grid,
            stage_ms=stage_ms,
            missing=frame.missing,
        )


def build_pipeline(config: PipelineConfig | None = None) -> Pipeline:
    """The pipeline that a configuration names, its kernels compiled and ready."""
    config = config or PipelineConfig()
    occupancy = RaycastMapper(config.raycast) if config.occupancy == "raycast" else None
    pipeline = Pipeline(GeometricDetector(config.geometric), occupancy, config.ground)
    # Compiled (or loaded from the cache) now, so that the first frame is not late by seconds.
    pipeline.process(_small_frame())
    return pipeline


def _small_frame() -> SensorFrame:
    """A flat ground and one block on it, as a LiDAR at 1.7 m sees them."""
    x, y = (axis.ravel() for axis in np.meshgrid(np.arange(3, 20, 0.5), np.arange(-10, 10, 0.5)))
    ground = np.column_stack([x, y, np.full(x.size, -1.7), np.zeros(x.size)])
    wide, tall = (
        a.ravel() for a in np.meshgrid(np.arange(-0.8, 0.9, 0.1), np.arange(-1.6, 0, 0.1))
    )
    block = np.column_stack([np.full(wide.size, 8.0), wide, tall, np.zeros(wide.size)])
    points = np.concatenate([ground, block]).astype(np.float32)
    return SensorFrame(
        0,
        lidars={"lidar": LidarSweep("lidar", 0, "lidar", points)},
        base_from_sensor={"lidar": poses.from_xyz_rpy((0.0, 0.0, 1.7))},
    )


@contextmanager
def _timed(stage_ms: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    stage_ms[stage] = 1e3 * (time.perf_counter() - start)
