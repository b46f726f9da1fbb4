"""SensorFrame to Perception: the only place that knows every stage."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.detection.fusion.detector import FusionConfig, FusionDetector
from multimodal_perception.detection.geometric.detector import GeometricConfig, GeometricDetector
from multimodal_perception.detection.images.ground_projection import (
    PlacingConfig,
    frame_boxes,
    joined,
)
from multimodal_perception.detection.images.rgb_thermal import RgbirConfig, RgbirDetector
from multimodal_perception.frame import (
    Boxes3D,
    CameraImage,
    LidarSweep,
    OwnVehicle,
    SensorFrame,
    UltrasonicReading,
)
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.boxes import iou_bev
from multimodal_perception.image_fusion.stage import ImageFuser, ImageFusionConfig
from multimodal_perception.images.image_quality import TrustConfig, TrustMonitor
from multimodal_perception.images.rgb_thermal_inputs import RgbxConfig
from multimodal_perception.near_field.source import NearFieldConfig, NearFieldSource
from multimodal_perception.occupancy.evidential import EvidentialConfig, EvidentialMapper
from multimodal_perception.occupancy.raycast import RaycastConfig, RaycastMapper
from multimodal_perception.perception import (
    Boxes2D,
    ImageTrust,
    Level,
    OccupancyGrid,
    Perception,
    SegmentationMask,
    SensorHealth,
)
from multimodal_perception.pointcloud.ground_segmentation import Cloud, GroundConfig, ground_cloud
from multimodal_perception.pointcloud.haze_filter import without_haze
from multimodal_perception.runtime.cuda import gpu_present
from multimodal_perception.runtime.settings import RuntimeConfig
from multimodal_perception.segmentation.drivable import DrivableConfig, DrivableSegmenter
from multimodal_perception.segmentation.rgb_thermal import RgbxSegmenter
from multimodal_perception.tracking import Tracker, TrackingConfig

log = logging.getLogger(__name__)
INSIDE = 0.3


class Detector(Protocol):
    """Finds objects in a frame; boxes come out in the frame's base_frame at its stamp."""

    name: str

    def detect(self, frame: SensorFrame, cloud: Cloud) -> Boxes3D: ...


class ImageDetector(Protocol):
    """Finds objects in images: boxes by camera or thermal sensor."""

    @property
    def counts(self) -> Mapping[str, int]: ...

    def detect(self, frame: SensorFrame) -> Mapping[str, Boxes2D]: ...


class Segmenter(Protocol):
    """Finds the class of every pixel: a mask by camera or thermal sensor."""

    def segment(self, frame: SensorFrame) -> Mapping[str, SegmentationMask]: ...


class OccupancyMapper(Protocol):
    """Turns a frame, and what was found in it, into occupancy around the vehicle."""

    def update(
        self,
        frame: SensorFrame,
        cloud: Cloud,
        *,
        boxes: Boxes3D | None = None,
        masks: Mapping[str, SegmentationMask] | None = None,
        health: Mapping[str, SensorHealth] | None = None,
        near_field: OccupancyGrid | None = None,
    ) -> OccupancyGrid: ...


@dataclass(frozen=True)
class PipelineConfig:
    """Which stages run, and the parameters of each.

    detector: finds the objects; fusion is the network of all sensors, with geometric as its fallback;
    auto is fusion where a GPU runs it, geometric elsewhere, for a CPU alone is too slow for 10 Hz.
    occupancy: makes the grid; evidential keeps evidence of all sensors while the vehicle moves,
    raycast is the LiDARs of one frame alone; or none. raycast: size of the grid and the inverse model
    of LiDARs, for both. near_field: a network whose answer is one more source of evidence. segmenter:
    classes of pixels; rgbx of visible and thermal images, drivable an imported TwinLiteNet; what may
    be driven on is free in the evidential grid. trust: in what images show. image_fusion: visible and
    thermal images in one picture. image_detector: boxes in images; rgbir finds them in
    visible and thermal images. placing: how they become boxes on the ground, which are told in frames
    without LiDAR and may seed the fusion detector (fusion.seeds). tracking: ids and velocities of
    objects. runtime: what runs the networks.
    """

    detector: Literal["auto", "geometric", "fusion"] = "auto"
    occupancy: Literal["evidential", "raycast", "none"] = "evidential"
    segmenter: Literal["none", "rgbx", "drivable"] = "none"
    image_detector: Literal["none", "rgbir"] = "none"
    ground: GroundConfig = field(default_factory=GroundConfig)
    geometric: GeometricConfig = field(default_factory=GeometricConfig)
    fusion: FusionConfig = field(default_factory=FusionConfig)
    raycast: RaycastConfig = field(default_factory=RaycastConfig)
    evidential: EvidentialConfig = field(default_factory=EvidentialConfig)
    near_field: NearFieldConfig = field(default_factory=NearFieldConfig)
    rgbx: RgbxConfig = field(default_factory=RgbxConfig)
    drivable: DrivableConfig = field(default_factory=DrivableConfig)
    trust: TrustConfig = field(default_factory=TrustConfig)
    image_fusion: ImageFusionConfig = field(default_factory=ImageFusionConfig)
    rgbir: RgbirConfig = field(default_factory=RgbirConfig)
    placing: PlacingConfig = field(default_factory=PlacingConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)


class Pipeline:
    """Runs the stages in order and times each."""

    def __init__(
        self,
        detector: Detector,
        occupancy: OccupancyMapper | None = None,
        ground: GroundConfig | None = None,
        segmenter: Segmenter | None = None,
        near_field: NearFieldSource | None = None,
        trust: TrustConfig | None = None,
        image_fuser: ImageFuser | None = None,
        image_detector: ImageDetector | None = None,
        placing: PlacingConfig | None = None,
        tracker: Tracker | None = None,
    ) -> None:
        """Without a tracker boxes have neither ids nor velocities."""
        self.detector = detector
        self.occupancy = occupancy
        self.ground = ground or GroundConfig()
        self.segmenter = segmenter
        self.near_field = near_field
        self.trust = TrustMonitor(trust)
        self.image_fuser = image_fuser
        self.image_detector = image_detector
        self.placing = placing or PlacingConfig()
        self.tracker = tracker
        self._own_vehicle = 0

    @property
    def counts(self) -> Mapping[str, int]:
        """What the stages dropped or did not believe, by `stage.source.reason`."""
        stages = {
            "detector": self.detector,
            "near_field": self.near_field,
            "segmentation": self.segmenter,
            "image_fusion": self.image_fuser,
            "image_detector": self.image_detector,
            "tracking": self.tracker,
        }
        counts: dict[str, int] = {}
        for name, stage in stages.items():
            found = getattr(stage, "counts", {})
            counts |= {f"{name}.{reason}": count for reason, count in sorted(found.items())}
        if self._own_vehicle:
            counts["detector.own_vehicle"] = self._own_vehicle
        mapper = self.occupancy
        if isinstance(mapper, EvidentialMapper):
            counts |= {f"occupancy.{name}": count for name, count in sorted(mapper.counts.items())}
            if mapper.silent:
                counts["occupancy.ultrasonic.silent"] = len(mapper.silent)
            if mapper.contradicted:
                counts["occupancy.ultrasonic.contradicted"] = len(mapper.contradicted)
        return counts

    def process(
        self, frame: SensorFrame, health: Mapping[str, SensorHealth] | None = None
    ) -> Perception:
        """Perceive one frame; health is by sensor.

        Without LiDAR only a fusion detector and boxes in images, placed on the ground, tell objects.
        An image that is trusted too little is missing to every stage; one that is trusted less than
        fully lowers the weight of its masks in the grid.
        """
        stage_ms: dict[str, float] = {}
        masks: Mapping[str, SegmentationMask] = {}
        fused: Mapping[str, CameraImage] = {}
        boxes2d: Mapping[str, Boxes2D] = {}
        grid = located = near = None
        with _timed(stage_ms, "total"):
            with _timed(stage_ms, "trust"):
                trust = self.trust.judge(frame)
                frame = self.trust.believed(frame, trust)
                health = _with_trust(health or {}, trust)
            if isinstance(self.detector, FusionDetector):
                self.detector.look_ahead(frame)
            with _timed(stage_ms, "ground"):
                cloud = without_haze(ground_cloud(frame, self.ground))
            placed = Boxes3D.empty(frame.stamp_ns, frame.base_frame)
            if self.image_detector is not None:
                with _timed(stage_ms, "image_detect"):
                    boxes2d = self.image_detector.detect(frame)
                    placed = frame_boxes(boxes2d, frame, self.placing)
            with _timed(stage_ms, "detect"):
                if isinstance(self.detector, FusionDetector):
                    boxes = self.detector.detect(frame, cloud.certain, placed)
                else:
                    boxes = self.detector.detect(frame, cloud.certain)
                if not frame.lidars:
                    boxes = joined(boxes, placed)
                if frame.own_vehicle is not None:
                    own = _is_in(frame.own_vehicle, boxes)
                    self._own_vehicle += int(own.sum())
                    boxes = boxes.select(~own)
            if self.tracker is not None:
                with _timed(stage_ms, "track"):
                    boxes = self.tracker.update(boxes, frame)
            if self.segmenter is not None:
                with _timed(stage_ms, "segment"):
                    masks = self.segmenter.segment(frame)
            if self.image_fuser is not None:
                with _timed(stage_ms, "fuse_images"):
                    fused = self.image_fuser.fuse(frame)
            if self.near_field is not None:
                with _timed(stage_ms, "near_field"):
                    near = self.near_field.update(frame)
            if self.occupancy is not None:
                with _timed(stage_ms, "occupancy"):
                    grid = self.occupancy.update(
                        frame, cloud, boxes=boxes, masks=masks, health=health, near_field=near
                    )
                    if isinstance(self.occupancy, EvidentialMapper):
                        located = self.occupancy.in_odom(frame.stamp_ns)
        return Perception(
            frame.stamp_ns,
            frame.base_frame,
            boxes,
            grid,
            located,
            masks,
            stage_ms,
            frame.missing,
            health,
            trust,
            fused,
            boxes2d,
        )


def _is_in(vehicle: OwnVehicle, boxes: Boxes3D) -> NDArray[np.bool_]:
    """Which boxes share INSIDE of their or the vehicle's area with it: there is no room for both."""
    rear, front, right, left = vehicle
    own = np.array([(rear + front) / 2, (right + left) / 2, 0, front - rear, left - right, 1, 0])
    overlap = iou_bev(boxes.boxes, own[None].astype(np.float32))[:, 0]
    areas = boxes.boxes[:, 3] * boxes.boxes[:, 4], own[3] * own[4]
    shared = overlap / (1.0 + overlap) * (areas[0] + areas[1])
    return np.asarray(shared > INSIDE * np.minimum(*areas), np.bool_)


def _with_trust(
    health: Mapping[str, SensorHealth], trust: Mapping[str, ImageTrust]
) -> dict[str, SensorHealth]:
    """Health by sensor with the trust in its image."""
    unknown = {n: SensorHealth(n, Level.OK, "ok") for n in trust.keys() - health.keys()}
    known = {**health, **unknown}
    return {n: replace(h, trust=trust[n].value) if n in trust else h for n, h in known.items()}


def build_pipeline(config: PipelineConfig | None = None) -> Pipeline:
    """The pipeline that a configuration names, its kernels compiled and ready."""
    config = config or PipelineConfig()
    # Compiled (or loaded from the cache) now, so that the first frame is not late by seconds. With
    # another pipeline: what this one will be asked must not meet evidence of the made-up frames.
    trial = _assemble(config)
    for step in range(3):
        trial.process(_small_frame(step))
    pipeline = _assemble(config)
    fusion = _fusion_detector(config)
    if fusion is not None:
        pipeline.detector = fusion
        for step in range(2):
            small = _small_frame(step)
            fusion.detect(small, ground_cloud(small, config.ground))
    if config.near_field.model and config.occupancy == "evidential":
        pipeline.near_field = NearFieldSource(config.near_field, config.runtime)
    if config.image_fusion.model:
        pipeline.image_fuser = ImageFuser(config.image_fusion, config.runtime)
    if config.image_detector == "rgbir":
        pipeline.image_detector = RgbirDetector(config.rgbir, config.runtime)
    if config.segmenter == "rgbx":
        pipeline.segmenter = RgbxSegmenter(config.rgbx, config.runtime)
    elif config.segmenter == "drivable":
        pipeline.segmenter = DrivableSegmenter(config.drivable, config.runtime)
    return pipeline


def _fusion_detector(config: PipelineConfig) -> FusionDetector | None:
    """The networks, where PipelineConfig.detector means them."""
    auto = config.detector == "auto"
    wanted = config.detector == "fusion" or (
        auto and config.runtime.device != "cpu" and gpu_present(config.runtime.gpu)
    )
    if not wanted:
        return None
    found = FusionDetector(config.fusion, config.runtime, GeometricDetector(config.geometric))
    if auto and found.proposals.device == "cpu":
        log.info("no engine here runs the fusion detector on the GPU: the geometric one it is")
        return None
    return found


def _assemble(config: PipelineConfig) -> Pipeline:
    occupancy: OccupancyMapper | None = None
    if config.occupancy == "evidential":
        occupancy = EvidentialMapper(config.evidential, config.raycast)
    elif config.occupancy == "raycast":
        occupancy = RaycastMapper(config.raycast)
    return Pipeline(
        GeometricDetector(config.geometric),
        occupancy,
        config.ground,
        trust=config.trust,
        placing=config.placing,
        tracker=Tracker(config.tracking) if config.tracking.enabled else None,
    )


def _small_frame(step: int) -> SensorFrame:
    """A flat ground and one block on it, as a LiDAR at 1.7 m and an ultrasonic find them in a bend."""
    x, y = (axis.ravel() for axis in np.meshgrid(np.arange(3, 20, 0.5), np.arange(-10, 10, 0.5)))
    ground = np.column_stack([x, y, np.full(x.size, -1.7), np.zeros(x.size)])
    wide, tall = (
        a.ravel() for a in np.meshgrid(np.arange(-0.8, 0.9, 0.1), np.arange(-1.6, 0, 0.1))
    )
    block = np.column_stack([np.full(wide.size, 8.0), wide, tall, np.zeros(wide.size)])
    points = np.concatenate([ground, block]).astype(np.float32)
    stamp_ns = step * 100_000_000
    return SensorFrame(
        stamp_ns,
        lidars={"lidar": LidarSweep("lidar", stamp_ns, "lidar", points)},
        ultrasonics={
            "ultrasonic": UltrasonicReading("ultrasonic", stamp_ns, "", 3.0, 0.15, 5.0, 1.0)
        },
        base_from_sensor={
            "lidar": poses.from_xyz_rpy((0.0, 0.0, 1.7)),
            "ultrasonic": poses.from_xyz_rpy((2.0, 0.0, 0.5)),
        },
        odom_from_base=poses.from_xyz_rpy((0.3 * step, 0.0, 0.0), (0.0, 0.0, 0.02 * step)),
    )


@contextmanager
def _timed(stage_ms: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    stage_ms[stage] = 1e3 * (time.perf_counter() - start)
