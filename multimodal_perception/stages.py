"""Interfaces of the pipeline's stages. A class with these methods can replace a built-in stage.

Stages are plain classes; they need not inherit from the protocols. Every stage has `counts`. It may
also have a property `status`, a sequence of StageStatus, which the node publishes on /diagnostics.
The node reads both on another thread while a frame is processed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Protocol, TypeVar, runtime_checkable

from multimodal_perception.frame import Boxes3D, CameraImage, SensorFrame
from multimodal_perception.perception import (
    Boxes2D,
    ImageQuality,
    Level,
    OccupancyGrid,
    SegmentationMask,
    SensorHealth,
    StageStatus,
)
from multimodal_perception.pointcloud.ground_segmentation import Cloud
from multimodal_perception.rig import Rig
from multimodal_perception.sensor_use import RigUse, SensorUse, combine

Argument = TypeVar("Argument")
Result = TypeVar("Result")
# Results by camera or thermal sensor.
BoxesBySensor = Mapping[str, Boxes2D]
MasksBySensor = Mapping[str, SegmentationMask]
ImagesBySensor = Mapping[str, CameraImage]


class Output(Enum):
    """Results that the pipeline computes only on request.

    3D boxes, occupancy and stage times are always computed. An output that was not requested is still
    computed if another stage of the same frame needs it.
    """

    IMAGE_BOXES = "image_boxes"
    SEGMENTATIONS = "segmentations"
    FUSED_IMAGES = "fused_images"


ALL_OUTPUTS = frozenset(Output)


class Stage(Protocol):
    """What all stages have in common."""

    @property
    def counts(self) -> Mapping[str, int]:
        """Number of inputs that were dropped or could not be used, by reason (`sensor.reason`)."""
        ...


@runtime_checkable
class SensorUser(Protocol):
    """A stage that lists the sensors of a rig that it uses. Optional; other stages may use all."""

    def sensor_use(self, rig: Rig) -> SensorUse:
        """The sensors of a rig that the stage uses, and those that its network has no input for."""
        ...


@dataclass(frozen=True)
class ImageResults:
    """Results of the image networks for one frame, which run before the 3D detector.

    boxes: 2D boxes (class, score, pixels of the image) by camera or thermal camera. segmentations:
    masks in the size of the image, with the class scores where the segmenter has them, by camera or
    thermal camera. An image that was not processed in this frame has no entry.
    """

    boxes: BoxesBySensor = field(default_factory=dict)
    segmentations: MasksBySensor = field(default_factory=dict)


class Detector(Stage, Protocol):
    """Detects objects in 3D."""

    @property
    def name(self) -> str:
        """Name for logs and diagnostics."""
        ...

    @property
    def uses_proposals(self) -> bool:
        """Whether `detect` uses `proposals` or 2D boxes. If not, image detection may be skipped."""
        ...

    @property
    def uses_masks(self) -> bool:
        """Whether `detect` uses segmentation masks. If not, segmentation may be skipped."""
        ...

    def prepare(self, frame: SensorFrame) -> None:
        """Start work on a frame that needs no point cloud (e.g. scaling images on a thread).

        The pipeline calls it before ground segmentation, and `detect` with the same frame afterwards.
        """
        ...

    def detect(
        self,
        frame: SensorFrame,
        cloud: Cloud,
        proposals: Boxes3D | None = None,
        image_results: ImageResults | None = None,
    ) -> Boxes3D:
        """Boxes in the frame's base_frame at its stamp, highest score first.

        proposals: 3D boxes of the 2D boxes of all images, in base_frame (see BoxProjection); a
        detector with a refinement stage may refine them beside its own proposals. image_results: 2D
        boxes and masks of the frame's images, for example as features of the LiDAR points; None
        without image networks.
        """
        ...


@runtime_checkable
class UsesPastSweeps(Protocol):
    """A detector that also uses the LiDAR sweeps of earlier frames. Optional.

    `detect` stores the sweeps of its frame itself. With these methods single frames of a recording can
    be processed with the sweeps before them.
    """

    def add_past_sweep(self, frame: SensorFrame, cloud: Cloud) -> None:
        """Store the points of a frame as a past sweep, without detecting objects in it."""
        ...

    def clear_past_sweeps(self) -> None:
        """Remove all past sweeps."""
        ...


@runtime_checkable
class LoadAdaptive(Protocol):
    """A Detector that can reduce its computing time at the cost of accuracy. Optional.

    The node changes the level while it runs (see load_control); replays and evaluations do not.
    """

    @property
    def load_levels(self) -> tuple[str, ...]:
        """Names of the load levels, from full accuracy (level 0) to the lowest computing time."""
        ...

    def set_load_level(self, level: int) -> None:
        """Use load_levels[level] from the next `prepare` and `detect` on. Raises ValueError."""
        ...


class ImageDetector(Stage, Protocol):
    """Detects objects in images."""

    def detect(self, frame: SensorFrame) -> BoxesBySensor:
        """2D boxes by camera or thermal sensor; empty without usable images."""
        ...


class BoxProjection(Protocol):
    """Makes 3D boxes of the 2D boxes in all images of a frame."""

    def __call__(self, boxes2d: BoxesBySensor, frame: SensorFrame, cloud: Cloud) -> Boxes3D:
        """Boxes in the frame's base_frame at its stamp, highest score first, with covariances.

        cloud: without points in a frame without LiDAR.
        """
        ...


class BoxTracker(Stage, Protocol):
    """Assigns track ids and velocities to boxes."""

    def update(self, boxes: Boxes3D, frame: SensorFrame) -> Boxes3D:
        """The boxes with track_ids and, where odometry is known, velocities over ground in m/s."""
        ...


class EvidenceCombiner(Stage, Protocol):
    """Combines the opinions of the sensors about each box, with a weight for each sensor."""

    def update(self, boxes: Boxes3D) -> Boxes3D:
        """The boxes of a frame with combined opinions; boxes without opinions are unchanged."""
        ...

    @property
    def evidence_status(self) -> StageStatus | None:
        """State of the sensors by their opinions, for diagnostics; None without opinions."""
        ...


class Segmenter(Stage, Protocol):
    """Predicts the class of every pixel."""

    def segment(self, frame: SensorFrame) -> MasksBySensor:
        """Masks by camera or thermal sensor; empty without usable images."""
        ...


class ImageFusion(Stage, Protocol):
    """Fuses visible and thermal images."""

    def fuse(self, frame: SensorFrame) -> ImagesBySensor:
        """Fused rgb8 images by camera."""
        ...


class NearFieldEstimator(Stage, Protocol):
    """Estimates occupancy close to the vehicle from fisheye cameras and ultrasonic sensors."""

    def update(self, frame: SensorFrame) -> OccupancyGrid | None:
        """Grid in base_frame; None where the frame does not have the necessary sensors."""
        ...


class OccupancyMapper(Stage, Protocol):
    """Computes the occupancy grid around the vehicle."""

    @property
    def uses_masks(self) -> bool:
        """Whether `update` uses `masks`. If not, segmentation may be skipped."""
        ...

    def update(
        self,
        frame: SensorFrame,
        cloud: Cloud,
        *,
        boxes: Boxes3D | None = None,
        masks: MasksBySensor | None = None,
        health: Mapping[str, SensorHealth] | None = None,
        near_field: OccupancyGrid | None = None,
    ) -> OccupancyGrid:
        """The grid after one frame, at its stamp.

        boxes: in base_frame at the frame's stamp, velocities over ground. masks: by camera or thermal
        sensor. health: by sensor. near_field: grid of a NearFieldEstimator, in base_frame.
        """
        ...

    def odom_grid(self, stamp_ns: int) -> OccupancyGrid | None:
        """The present grid aligned with the odometry frame's axes; None without odometry."""
        ...


@runtime_checkable
class ContradictionReporter(Protocol):
    """An OccupancyMapper that also compares ultrasonic echoes with all other sources. Optional."""

    @property
    def contradictions(self) -> Mapping[str, float]:
        """By ultrasonic sensor, the mean free mass of all other sources on the arc of its echo."""
        ...


@runtime_checkable
class Resettable(Protocol):
    """A stage that can discard what it has accumulated from earlier frames. Optional."""

    def reset(self) -> None:
        """Discard the results of all earlier frames. Called between two frames."""
        ...


class QualityMonitor(Stage, Protocol):
    """Assesses the quality of images."""

    def assess(
        self, frame: SensorFrame, agreement: Mapping[str, float] | None = None
    ) -> Mapping[str, ImageQuality]:
        """Quality by camera and thermal sensor of the frame.

        agreement: by sensor, 0 to 1, how well the image agrees with other sensors' data (see
        CalibrationMonitor.agreement). Sensors that it does not list are not penalised.
        """
        ...

    def drop_low_quality(
        self, frame: SensorFrame, quality: Mapping[str, ImageQuality]
    ) -> SensorFrame:
        """The frame without images of low quality, which then count as missing."""
        ...


class FrozenSensors(Stage, Protocol):
    """Finds sensors that repeat an old measurement."""

    def check(self, frame: SensorFrame) -> Mapping[str, float]:
        """By frozen sensor of the frame, the time in seconds without a change."""
        ...

    def drop_frozen(self, frame: SensorFrame, frozen: Mapping[str, float]) -> SensorFrame:
        """The frame without the readings of frozen sensors that must not be used."""
        ...


def needed_outputs(
    frame: SensorFrame,
    requested: Collection[Output],
    detector: Detector | None,
    occupancy: OccupancyMapper | None,
) -> frozenset[Output]:
    """The requested outputs, and those that the detector or the occupancy mapper uses in this frame.

    detector: None while it is disabled.
    """
    needed = set(requested)
    if detector is not None and (detector.uses_proposals or not frame.lidars):
        needed.add(Output.IMAGE_BOXES)
    if (detector is not None and detector.uses_masks) or (
        occupancy is not None and occupancy.uses_masks
    ):
        needed.add(Output.SEGMENTATIONS)
    return frozenset(needed)


def load_levels(detector: Detector) -> tuple[str, ...]:
    """Names of the load levels of a detector; empty if it has none."""
    return detector.load_levels if isinstance(detector, LoadAdaptive) else ()


def set_load_level(detector: Detector, level: int) -> None:
    """Use a load level of a detector that has some."""
    if isinstance(detector, LoadAdaptive):
        detector.set_load_level(level)


def collect_counts(stages: Mapping[str, Stage | None]) -> dict[str, int]:
    """Counts of all stages that are not None, as `stage.sensor.reason`."""
    return {
        f"{name}.{reason}": count
        for name, stage in stages.items()
        for reason, count in sorted(stage.counts.items() if stage is not None else ())
    }


def collect_status(stages: Mapping[str, Stage | None]) -> list[StageStatus]:
    """Status of all stages that are not None and report one."""
    return [status for stage in stages.values() for status in getattr(stage, "status", ())]


# The pipeline's attribute of each stage, by the stage's name in counts and diagnostics.
ATTRIBUTES = {
    "detector": "detector",
    "image_quality": "image_quality",
    "frozen_sensors": "frozen_sensors",
    "near_field": "near_field",
    "segmentation": "segmenter",
    "image_fusion": "image_fusion",
    "image_detector": "image_detector",
    "tracking": "tracker",
    "evidence": "evidence",
    "occupancy": "occupancy",
}
# Stages that only assess or post-process: a sensor that no other stage uses counts as unused.
AUXILIARY_STAGES = ("image_quality", "frozen_sensors", "tracking", "evidence")


def collect_sensor_use(rig: Rig, stages: Mapping[str, Stage | None]) -> RigUse:
    """Which sensors of a rig the stages use. A stage that does not state it may use all sensors."""
    everything = SensorUse(frozenset(rig.sensors))
    return combine(
        rig,
        {
            name: stage.sensor_use(rig) if isinstance(stage, SensorUser) else everything
            for name, stage in stages.items()
            if stage is not None and name not in AUXILIARY_STAGES
        },
    )


class StageTimer:
    """Wall-clock time of each stage of one frame. milliseconds: by stage, in order of completion."""

    def __init__(self) -> None:
        self.milliseconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Measure the time of a `with` block."""
        start = time.perf_counter()
        yield
        self.milliseconds[stage] = 1e3 * (time.perf_counter() - start)

    def run(self, stage: str, function: Callable[[Argument], Result], argument: Argument) -> Result:
        """Call a function and measure its time."""
        with self(stage):
            return function(argument)


def with_image_quality(
    health: Mapping[str, SensorHealth], quality: Mapping[str, ImageQuality]
) -> dict[str, SensorHealth]:
    """Health by sensor, with the quality of each sensor's image in this frame."""
    unknown = {n: SensorHealth(n, Level.OK, "ok") for n in quality.keys() - health.keys()}
    return {
        name: replace(h, image_quality=quality[name].value) if name in quality else h
        for name, h in {**health, **unknown}.items()
    }
