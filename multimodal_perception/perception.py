"""Results of the pipeline: 2D boxes, masks, occupancy, sensor health, and all of them for one frame."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.frame import Boxes3D, CameraImage, _require


@dataclass(frozen=True)
class Boxes2D:
    """N upright boxes in one image.

    boxes: (N, 4) float32, x1 y1 x2 y2 in pixels from the image's upper left edge, so that a box about
    the first pixel is 0 0 1 1. scores: (N,) float32 in [0, 1]. labels: (N,) int64, index into
    class_names. size: width and height of the image.
    """

    sensor: str
    stamp_ns: int
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    size: tuple[int, int]

    def __post_init__(self) -> None:
        n = len(self.boxes)
        _require(self.boxes.shape == (n, 4), "boxes must be (N, 4)")
        _require(
            self.scores.shape == (n,) and self.labels.shape == (n,), "one score, one label a box"
        )

    def __len__(self) -> int:
        return len(self.boxes)


@dataclass(frozen=True)
class SegmentationMask:
    """Per-pixel classes of one image. labels: (H, W) uint8, index into class_names."""

    sensor: str
    stamp_ns: int
    labels: NDArray[np.uint8]
    class_names: tuple[str, ...]


@dataclass(frozen=True)
class OccupancyGrid:
    """Bird's-eye-view belief of each cell, as Dempster-Shafer masses over {free, occupied}.

    free, occupied: (rows, columns) float32 in [0, 1]; row is y, column is x, cell (0, 0) holds the
    smallest x and y. What is left of one is unknown. conflict: mass in contradiction, or None.
    semantic: (rows, columns) uint8, class of what occupies a cell, index into
    occupancy.layers.SEMANTIC_LAYER, 0 for none; or None. origin: x, y of cell (0, 0)'s lower corner
    in frame_id, metres. resolution: metres a cell.
    """

    stamp_ns: int
    frame_id: str
    resolution: float
    origin: tuple[float, float]
    free: NDArray[np.float32]
    occupied: NDArray[np.float32]
    conflict: NDArray[np.float32] | None = None
    semantic: NDArray[np.uint8] | None = None

    def __post_init__(self) -> None:
        _require(self.resolution > 0, "resolution must be positive")
        _require(self.free.ndim == 2 and self.free.shape == self.occupied.shape, "layers differ")

    def unknown(self) -> NDArray[np.float32]:
        """Mass (rows, columns) committed to neither."""
        rest = 1.0 - self.free - self.occupied
        return rest if self.conflict is None else rest - self.conflict

    def probability(self) -> NDArray[np.float32]:
        """Pignistic probability of occupied (rows, columns): the rest is shared out in halves."""
        return 0.5 * (1.0 + self.occupied - self.free)


class Level(int, Enum):
    """Health, with the values of diagnostic_msgs/DiagnosticStatus."""

    OK = 0
    WARN = 1
    ERROR = 2
    STALE = 3


@dataclass(frozen=True)
class ImageTrust:
    """How far one image can be trusted. value: 0 to 1, the product of its cues by name."""

    value: float
    cues: Mapping[str, float]


@dataclass(frozen=True)
class SensorHealth:
    """How one sensor does. Rates in hertz; latency, jitter and age in seconds.

    trust: 0 to 1, in what its last image shows.
    """

    sensor: str
    level: Level
    message: str
    rate_hz: float = 0.0
    jitter_s: float = 0.0
    latency_s: float = 0.0
    age_s: float = 0.0
    drops: Mapping[str, int] = field(default_factory=dict)
    clock_offset_s: float | None = None
    trust: float = 1.0


@dataclass(frozen=True)
class Perception:
    """What the pipeline made of one SensorFrame.

    odom_occupancy: the evidence of occupancy along odom's axes, None without odometry. missing:
    sensors without a reading, or with an image that is trusted too little. trust: by image sensor.
    fused_images: visible and thermal in one, rgb8 by camera. boxes2d: by camera or thermal sensor.
    """

    stamp_ns: int
    frame_id: str
    boxes: Boxes3D
    occupancy: OccupancyGrid | None = None
    odom_occupancy: OccupancyGrid | None = None
    segmentations: Mapping[str, SegmentationMask] = field(default_factory=dict)
    stage_ms: Mapping[str, float] = field(default_factory=dict)
    missing: frozenset[str] = frozenset()
    health: Mapping[str, SensorHealth] = field(default_factory=lambda: MappingProxyType({}))
    trust: Mapping[str, ImageTrust] = field(default_factory=lambda: MappingProxyType({}))
    fused_images: Mapping[str, CameraImage] = field(default_factory=dict)
    boxes2d: Mapping[str, Boxes2D] = field(default_factory=dict)
