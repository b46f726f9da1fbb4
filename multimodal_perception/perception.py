"""Results of the pipeline: 2D boxes, masks, occupancy, sensor health, and all of them for one frame."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.frame import Boxes3D, CameraImage, require

if TYPE_CHECKING:
    from multimodal_perception.pointcloud.ground_segmentation import Cloud


@dataclass(frozen=True)
class Boxes2D:
    """N axis-aligned bounding boxes in one image.

    boxes: (N, 4) float32, x1 y1 x2 y2 in pixels from the image's upper left corner, so that a box
    around the first pixel is 0 0 1 1. scores: (N,) float32 in [0, 1]. labels: (N,) int64, index into
    class_names. size: width and height of the image in pixels.
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
        require(self.boxes.shape == (n, 4), "boxes must be (N, 4)")
        require(
            self.scores.shape == (n,) and self.labels.shape == (n,),
            "scores and labels must be (N,)",
        )

    def __len__(self) -> int:
        return len(self.boxes)


@dataclass(frozen=True)
class SegmentationMask:
    """Semantic segmentation of one image.

    labels: (H, W) uint8, index into class_names. logits: (h, w, classes) float32, class scores before
    the softmax in a lower resolution that covers the whole image: the pixel (x, y) of the image, pixel
    centres at whole numbers, is at ((x + 0.5) * w / W - 0.5, (y + 0.5) * h / H - 0.5). None if the
    segmenter does not provide them. temperatures: (classes,) float32, by which the logits of a pixel
    with this label are divided for the probability of its label, see segmentation.confidence; None
    means 1.
    """

    sensor: str
    stamp_ns: int
    labels: NDArray[np.uint8]
    class_names: tuple[str, ...]
    logits: NDArray[np.float32] | None = None
    temperatures: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class OccupancyGrid:
    """Bird's-eye-view occupancy grid with Dempster-Shafer masses over {free, occupied} in each cell.

    free, occupied: masses (rows, columns) float32 in [0, 1]; rows are y, columns are x, cell (0, 0)
    has the smallest x and y. The remaining mass, up to 1, is unknown. conflict: mass of contradicting
    evidence, or None. semantic: (rows, columns) uint8, class of the object in a cell, index into
    occupancy.layers.SEMANTIC_LAYER, 0 for none; or None. origin: x, y of the corner of cell (0, 0)
    with the smallest coordinates, in frame_id, metres. resolution: cell size, metres.
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
        require(self.resolution > 0, "resolution must be positive")
        require(
            self.free.ndim == 2 and self.free.shape == self.occupied.shape,
            "free and occupied must have the same shape (rows, columns)",
        )

    def unknown(self) -> NDArray[np.float32]:
        """Return the mass (rows, columns) assigned to neither free nor occupied."""
        rest = 1.0 - self.free - self.occupied
        return rest if self.conflict is None else rest - self.conflict

    def probability(self) -> NDArray[np.float32]:
        """Return the pignistic probability of occupied (rows, columns).

        Half of the mass that is neither free nor occupied counts as occupied.
        """
        return 0.5 * (1.0 + self.occupied - self.free)


class Level(int, Enum):
    """Severity level, with the values of diagnostic_msgs/DiagnosticStatus."""

    OK = 0
    WARN = 1
    ERROR = 2
    STALE = 3


@dataclass(frozen=True)
class StageStatus:
    """State of a part of the pipeline for /diagnostics, such as one network's inference.

    name: unique within the pipeline, e.g. the model's name. level: WARN while a fallback is in use.
    message: the reason; "ok" at level OK. values: details by key, e.g. engine, device, latency_ms.
    """

    name: str
    level: Level
    message: str
    values: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class ImageQuality:
    """Quality of one image.

    value: 0 to 1, the product of its cues by name. problems: to report in any case, such as a dirty
    lens.
    """

    value: float
    cues: Mapping[str, float]
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class SensorHealth:
    """Health of one sensor.

    rate_hz: measured rate. jitter_s: mean deviation of the interval between stamps. latency_s: mean
    delay from stamp to arrival. age_s: time since the last reading arrived. drops: dropped messages by
    reason. clock_offset_s: mean of stamp minus arrival time. image_quality: of the last image, 0 to 1.
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
    image_quality: float = 1.0


@dataclass(frozen=True)
class Perception:
    """Results of the pipeline for one SensorFrame.

    frame_id: coordinate frame of the boxes. odom_occupancy: occupancy grid aligned with the odometry
    frame, None without odometry. segmentations, boxes2d: by camera or thermal camera. stage_ms:
    computation time by stage, milliseconds. missing: sensors without a reading, or with an image of
    low quality. image_quality: by camera or thermal camera. fused_images: visible and thermal image
    fused, rgb8 by camera. frozen: by LiDAR or ultrasonic sensor that repeats an old measurement, the
    time without a change, seconds. cloud: points of all LiDARs without weather noise; None without
    LiDAR. disabled: names of stages that were switched off for this frame; without the detector, there
    are no boxes although objects may be present.
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
    image_quality: Mapping[str, ImageQuality] = field(default_factory=lambda: MappingProxyType({}))
    fused_images: Mapping[str, CameraImage] = field(default_factory=dict)
    boxes2d: Mapping[str, Boxes2D] = field(default_factory=dict)
    frozen: Mapping[str, float] = field(default_factory=dict)
    cloud: Cloud | None = None
    disabled: frozenset[str] = frozenset()
