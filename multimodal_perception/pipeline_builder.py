"""Builds the pipeline of a configuration and compiles its kernels before the first frame."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from multimodal_perception import plugins, stages
from multimodal_perception.configuration import UserError
from multimodal_perception.detection.bev_fusion.detector import BevFusionDetector
from multimodal_perception.detection.bev_fusion.fusion_config import FusionConfig
from multimodal_perception.detection.geometric.detector import GeometricDetector
from multimodal_perception.detection.geometric.geometric_config import GeometricConfig
from multimodal_perception.detection.images import ground_projection
from multimodal_perception.detection.images.config import ImageDetectorConfig
from multimodal_perception.detection.images.ground_projection import GroundProjectionConfig
from multimodal_perception.detection.images.image_objects import ImageObjects
from multimodal_perception.detection.images.imported import ImportedDetector
from multimodal_perception.detection.images.rgb_thermal import RgbThermalDetector
from multimodal_perception.detector_choice import (
    DetectorChoice,
    MeasuredTime,
    choose_by_time,
    measure_pipeline,
    stored_p95_ms,
)
from multimodal_perception.frame import LidarSweep, Modality, SensorFrame, UltrasonicReading
from multimodal_perception.frozen_sensors import FrozenSensorMonitor, FrozenSensorsConfig
from multimodal_perception.geometry import poses
from multimodal_perception.image_fusion.stage import ImageFuser, ImageFusionConfig
from multimodal_perception.images.image_quality import ImageQualityConfig, ImageQualityMonitor
from multimodal_perception.images.rgb_thermal_inputs import RgbThermalSegmenterConfig
from multimodal_perception.near_field.source import NearFieldConfig, NearFieldSource
from multimodal_perception.occupancy.evidential import EvidentialConfig, EvidentialMapper
from multimodal_perception.occupancy.raycast import RaycastConfig, RaycastMapper
from multimodal_perception.opinions import ReliabilityConfig
from multimodal_perception.pipeline import Pipeline
from multimodal_perception.pointcloud.ground_segmentation import Cloud, GroundConfig, segment_ground
from multimodal_perception.pointcloud.weather_noise_filter import filter_weather_noise
from multimodal_perception.rig import Rig
from multimodal_perception.runtime.card import CARD, shipped_cards
from multimodal_perception.runtime.cuda import gpu_present
from multimodal_perception.runtime.engine import EngineError
from multimodal_perception.runtime.settings import RuntimeConfig
from multimodal_perception.segmentation.drivable import DrivableConfig, DrivableSegmenter
from multimodal_perception.segmentation.imported import ImportedSegmenter, ImportedSegmenterConfig
from multimodal_perception.segmentation.rgb_thermal import RgbThermalSegmenter
from multimodal_perception.sensor_reliability import EvidenceMonitor
from multimodal_perception.tracking import Tracker, TrackingConfig

log = logging.getLogger(__name__)

DETECTORS = ("auto", "geometric", "fusion")
IMAGE_DETECTORS = ("auto", "none", "rgb_thermal", "imported")
SEGMENTERS = ("none", "rgb_thermal", "drivable", "imported")
OCCUPANCY_MAPPERS = ("evidential", "raycast", "none")


@dataclass(frozen=True)
class PipelineConfig:
    """Which stages run, and the parameters of each.

    Attributes:
        detector: Detector of 3D objects. `fusion` is the network of all sensors, with the geometric
            detector as its fallback; `geometric` needs only LiDAR and no network; `auto` is `fusion` if
            this computer processes 95 % of the frames of the rig in 80 % of the frame period with it,
            and `geometric` otherwise. Set it to `geometric` to keep the CPU free for other programs;
            set it to `fusion` if late results are better than results with less accuracy.
        occupancy: Occupancy mapper. `evidential` accumulates evidence of all sensors while the vehicle
            moves; `raycast` uses the LiDAR sweeps of a single frame. Use `raycast` without odometry, or
            `none` if nothing uses the grid.
        segmenter: Semantic segmentation of images. `rgb_thermal` uses visible and thermal images,
            `drivable` is an imported TwinLiteNet, `imported` any other imported network. Enable it to
            mark drivable road as free space in the evidential grid.
        image_detector: Object detector in images. `rgb_thermal` uses visible and thermal images,
            `imported` is your own network; `auto` is `rgb_thermal` for rigs without LiDAR and `none` for
            others. Enable it to get 2D boxes, 3D boxes of them in frames without LiDAR, and classes of
            LiDAR clusters from images.
        plugin_options: Path of a YAML file with constructor arguments of plug-ins, by parameter
            (detector, image_detector, segmenter, occupancy). Leave it empty if no plug-in needs any.
        ground: Ground segmentation.
        geometric: Geometric detector.
        fusion: Fusion detector.
        raycast: Size of the occupancy grid and the inverse sensor model of LiDARs, for both mappers.
        evidential: Evidential mapper.
        near_field: Near-field network, an additional source of evidence.
        rgb_thermal_segmenter: Visible-thermal segmentation.
        drivable: Drivable-area segmentation.
        image_quality: Image quality assessment.
        frozen_sensors: Detection of LiDARs and ultrasonic sensors that repeat old measurements.
        image_fusion: Visible-thermal image fusion.
        rgb_thermal_detector: Visible-thermal image detector.
        imported_detector: Image detector that `import detector` wrote.
        imported_segmenter: Segmentation network that `import segmenter` wrote.
        ground_projection: Projection of 2D boxes onto the ground.
        tracking: Tracking of 3D boxes.
        reliability: Weights of the sensors by their opinions about the objects.
        runtime: Inference engines.
    """

    detector: str = field(default="auto", metadata={"builtin": DETECTORS})
    occupancy: str = field(default="evidential", metadata={"builtin": OCCUPANCY_MAPPERS})
    segmenter: str = field(default="none", metadata={"builtin": SEGMENTERS})
    image_detector: str = field(default="auto", metadata={"builtin": IMAGE_DETECTORS})
    plugin_options: str = ""
    ground: GroundConfig = field(default_factory=GroundConfig)
    geometric: GeometricConfig = field(default_factory=GeometricConfig)
    fusion: FusionConfig = field(default_factory=FusionConfig)
    raycast: RaycastConfig = field(default_factory=RaycastConfig)
    evidential: EvidentialConfig = field(default_factory=EvidentialConfig)
    near_field: NearFieldConfig = field(default_factory=NearFieldConfig)
    rgb_thermal_segmenter: RgbThermalSegmenterConfig = field(
        default_factory=RgbThermalSegmenterConfig
    )
    drivable: DrivableConfig = field(default_factory=DrivableConfig)
    image_quality: ImageQualityConfig = field(default_factory=ImageQualityConfig)
    frozen_sensors: FrozenSensorsConfig = field(default_factory=FrozenSensorsConfig)
    image_fusion: ImageFusionConfig = field(default_factory=ImageFusionConfig)
    rgb_thermal_detector: ImageDetectorConfig = field(default_factory=ImageDetectorConfig)
    imported_detector: ImageDetectorConfig = field(
        default_factory=lambda: ImageDetectorConfig(model="")
    )
    imported_segmenter: ImportedSegmenterConfig = field(default_factory=ImportedSegmenterConfig)
    ground_projection: GroundProjectionConfig = field(default_factory=GroundProjectionConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    reliability: ReliabilityConfig = field(default_factory=ReliabilityConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)

    def __post_init__(self) -> None:
        for parameter in plugins.STAGE_TYPES:
            builtin = type(self).__dataclass_fields__[parameter].metadata["builtin"]
            error = plugins.name_error(parameter, getattr(self, parameter), builtin)
            if error:
                raise ValueError(error)


def build_pipeline(
    config: PipelineConfig | None = None, rig: Rig | None = None, /, **overrides: Any
) -> Pipeline:
    """The pipeline of a configuration, warmed up: the first frame takes no longer than later ones.

    rig: whose frames `detector: auto` measures (see detector_choice), and whose sensors determine
    `image_detector: auto`. Without it, they are the fusion detector if a GPU runs it, else the geometric
    detector; and no image detector. overrides: stages to use instead of the
    configured ones, by attribute of Pipeline (`detector=...`).
    Raises UserError for a model, an engine or a user-defined stage that cannot be used.
    """
    config = config or PipelineConfig()
    config = dataclasses.replace(config, image_detector=select_image_detector(config, rig))
    compile_kernels(config)
    builders: dict[str, Callable[[PipelineConfig], Any]] = {
        "detector": build_detector,
        "point_cloud": _point_cloud,
        "box_projection": _box_projection,
        "image_quality": lambda c: ImageQualityMonitor(c.image_quality),
        "frozen_sensors": lambda c: FrozenSensorMonitor(c.frozen_sensors),
        "image_detector": _image_detector,
        "tracker": lambda c: Tracker(c.tracking) if c.tracking.enabled else None,
        "evidence": lambda c: EvidenceMonitor(c.reliability),
        "segmenter": _segmenter,
        "image_fusion": _image_fusion,
        "near_field": _near_field,
        "occupancy": _occupancy,
    }
    unknown = overrides.keys() - builders.keys()
    if unknown:
        raise TypeError(
            f"{', '.join(sorted(unknown))}: not a stage; allowed: {', '.join(builders)}"
        )
    built = {
        name: overrides[name] if name in overrides else build(config)
        for name, build in builders.items()
        if name != "detector"
    }
    if "detector" in overrides or config.detector != "auto" or rig is None:
        detector, choice = overrides.get("detector") or build_detector(config), None
    else:
        detector, choice = _choose_detector(config, rig, built)
    pipeline = Pipeline(detector=detector, **built)
    if choice is not None:
        pipeline.choice_status = (choice.status,)
    return pipeline


def select_image_detector(config: PipelineConfig, rig: Rig | None) -> str:
    """The image detector of a configuration; `auto` is resolved by the sensors of the rig."""
    if config.image_detector != "auto":
        return config.image_detector
    if rig is None or rig.sensors_of(Modality.LIDAR):
        return "none"
    images = rig.sensors_of(Modality.CAMERA) or rig.sensors_of(Modality.THERMAL)
    return "rgb_thermal" if images else "none"


def _choose_detector(
    config: PipelineConfig, rig: Rig, built: Mapping[str, Any]
) -> tuple[stages.Detector, DetectorChoice]:
    """The detector of `auto` and the reason; measures the pipeline if there is no stored result.

    built: the other stages. Stages that store data of earlier frames are replaced for the measurement.
    """
    geometric = GeometricDetector(config.geometric)
    if config.runtime.measuring == "never":
        detector = build_detector(config)
        return detector, DetectorChoice(
            detector.name, "runtime.measure is never: selected by the presence of a GPU"
        )
    opened: list[stages.Detector] = []

    def measure() -> MeasuredTime:
        opened.append(build_detector(dataclasses.replace(config, detector="fusion")))
        fresh = {
            "image_quality": ImageQualityMonitor(config.image_quality),
            "frozen_sensors": None,  # the measured frames repeat a sweep
            "tracker": Tracker(config.tracking) if config.tracking.enabled else None,
            "evidence": EvidenceMonitor(config.reliability),
            "occupancy": _occupancy(config),
        }
        pipeline = Pipeline(detector=opened[0], **{**built, **fresh})
        result = measure_pipeline(lambda frame: pipeline.process(frame, requested=()), rig)
        _clear_past_sweeps(opened[0])
        return result

    settings = dataclasses.replace(config, runtime=RuntimeConfig())
    try:
        p95_ms = stored_p95_ms(settings, config.fusion.model, config.runtime, rig, measure)
        choice = choose_by_time(p95_ms, rig)
        if choice.detector == "fusion" and not opened:
            opened.append(build_detector(dataclasses.replace(config, detector="fusion")))
    except UserError as error:
        if not isinstance(error.__cause__, EngineError):
            raise
        choice = DetectorChoice("geometric", f"no engine runs the fusion detector: {error}")
    log.info("detector auto: %s: %s", choice.detector, choice.reason)
    return (opened[0] if choice.detector == "fusion" else geometric), choice


def build_detector(config: PipelineConfig) -> stages.Detector:
    """The 3D detector of a configuration, warmed up. Raises UserError."""
    name = config.detector
    if name == "geometric":
        return GeometricDetector(config.geometric)
    if name not in DETECTORS:
        return plugins.load_stage("detector", name, DETECTORS, _options(config, "detector"))
    if name == "auto" and (config.runtime.device == "cpu" or not gpu_present(config.runtime.gpu)):
        return GeometricDetector(config.geometric)
    fallback = GeometricDetector(config.geometric)
    detector = BevFusionDetector(config.fusion, config.runtime, fallback)
    if name == "auto" and detector.proposal_network.device == "cpu":
        log.info("no engine runs the fusion detector on the GPU; using the geometric detector")
        return fallback
    for step in range(2):
        frame = _warm_up_frame(step)
        detector.detect(frame, segment_ground(frame, config.ground))
    _clear_past_sweeps(detector)
    return detector


def _clear_past_sweeps(detector: stages.Detector) -> None:
    """Remove the sweeps of synthetic frames from a detector that keeps sweeps."""
    if isinstance(detector, stages.UsesPastSweeps):
        detector.clear_past_sweeps()


def open_detector(name: str, config: PipelineConfig | None = None) -> stages.Detector:
    """The 3D detector of a name, for evaluation.

    name: a value of PipelineConfig.detector; "shipped" for the fusion detector with the shipped model;
    or the name or folder of a model. "+NAME" after it selects another refinement network
    ("bev_fusion+none" has none). Raises UserError.
    """
    config = config or PipelineConfig()
    name, plus, refinement = name.partition("+")
    if plus:
        fusion = dataclasses.replace(config.fusion, refinement=refinement)
        config = dataclasses.replace(config, fusion=fusion)
    if name == "shipped":
        name = "fusion"
    elif name not in DETECTORS and _is_model(name):
        config = dataclasses.replace(config, fusion=dataclasses.replace(config.fusion, model=name))
        name = "fusion"
    try:
        config = dataclasses.replace(config, detector=name)
    except ValueError as error:
        raise UserError(f"{error}; 'shipped'; or the name or folder of a model") from error
    compile_kernels(config)
    return build_detector(config)


def compile_kernels(config: PipelineConfig) -> None:
    """Compile the numba kernels of the built-in stages, or load them from numba's cache.

    Otherwise the first frames would be seconds late. Runs separate instances of the stages, so that
    the pipeline's occupancy grid and tracks do not contain evidence of the synthetic frames.
    """
    builtin = config.occupancy if config.occupancy in OCCUPANCY_MAPPERS else "none"
    pipeline = Pipeline(
        GeometricDetector(config.geometric),
        _point_cloud(config),
        _box_projection(config),
        ImageQualityMonitor(config.image_quality),
        tracker=Tracker(config.tracking) if config.tracking.enabled else None,
        occupancy=_occupancy(dataclasses.replace(config, occupancy=builtin)),
    )
    for step in range(3):
        pipeline.process(_warm_up_frame(step))
    if config.image_detector not in ("auto", "none"):
        ground_projection.compile_kernels()


def _point_cloud(config: PipelineConfig) -> Callable[[SensorFrame], Cloud]:
    def prepare(frame: SensorFrame) -> Cloud:
        return filter_weather_noise(segment_ground(frame, config.ground))

    return prepare


def _box_projection(config: PipelineConfig) -> stages.BoxProjection:
    return ImageObjects(config.ground_projection, config.geometric)


def _image_detector(config: PipelineConfig) -> stages.ImageDetector | None:
    name = config.image_detector
    if name in ("auto", "none"):
        return None
    if name == "rgb_thermal":
        return RgbThermalDetector(config.rgb_thermal_detector, config.runtime)
    if name == "imported":
        return ImportedDetector(config.imported_detector, config.runtime)
    options = _options(config, "image_detector")
    return plugins.load_stage("image_detector", name, IMAGE_DETECTORS, options)


def _segmenter(config: PipelineConfig) -> stages.Segmenter | None:
    name = config.segmenter
    if name == "none":
        return None
    if name == "rgb_thermal":
        return RgbThermalSegmenter(config.rgb_thermal_segmenter, config.runtime)
    if name == "drivable":
        return DrivableSegmenter(config.drivable, config.runtime)
    if name == "imported":
        return ImportedSegmenter(config.imported_segmenter, config.runtime)
    return plugins.load_stage("segmenter", name, SEGMENTERS, _options(config, "segmenter"))


def _image_fusion(config: PipelineConfig) -> stages.ImageFusion | None:
    return ImageFuser(config.image_fusion, config.runtime) if config.image_fusion.model else None


def _near_field(config: PipelineConfig) -> stages.NearFieldEstimator | None:
    if not config.near_field.model or config.occupancy in ("raycast", "none"):
        return None
    return NearFieldSource(config.near_field, config.runtime)


def _occupancy(config: PipelineConfig) -> stages.OccupancyMapper | None:
    name = config.occupancy
    if name == "none":
        return None
    if name == "evidential":
        return EvidentialMapper(config.evidential, config.raycast)
    if name == "raycast":
        return RaycastMapper(config.raycast)
    return plugins.load_stage("occupancy", name, OCCUPANCY_MAPPERS, _options(config, "occupancy"))


def _options(config: PipelineConfig, parameter: str) -> Mapping[str, Any] | None:
    return plugins.load_options(config.plugin_options).get(parameter)


def _is_model(name: str) -> bool:
    return (Path(name) / CARD).is_file() or name in {p.parent.name for p in shipped_cards()}


def _warm_up_frame(step: int) -> SensorFrame:
    """Flat ground with a block on it, measured by a LiDAR at 1.7 m and an ultrasonic sensor."""
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
