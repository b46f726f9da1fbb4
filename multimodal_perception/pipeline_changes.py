"""Changes of parameters while the pipeline runs: thresholds that its stages read with every frame."""

from __future__ import annotations

from multimodal_perception.detection.bev_fusion.detector import BevFusionDetector
from multimodal_perception.detection.geometric.detector import GeometricDetector
from multimodal_perception.detection.images.image_objects import ImageObjects
from multimodal_perception.detection.images.imported import ImportedDetector
from multimodal_perception.detection.images.rgb_thermal import RgbThermalDetector
from multimodal_perception.images.image_quality import ImageQualityMonitor
from multimodal_perception.occupancy.evidential import EvidentialMapper
from multimodal_perception.pipeline import Pipeline
from multimodal_perception.pipeline_builder import PipelineConfig
from multimodal_perception.tracking import Tracker


def use_thresholds(pipeline: Pipeline, config: PipelineConfig) -> None:
    """Give the stages the parameters whose metadata has `dynamic`. Call it between two frames.

    All other parameters of `config` must be those that the pipeline was built with. Plug-ins do not
    change.
    """
    detector = pipeline.detector
    if isinstance(detector, BevFusionDetector):
        detector.config = config.fusion
        detector.fallback.config = config.geometric
    elif isinstance(detector, GeometricDetector):
        detector.config = config.geometric
    if isinstance(pipeline.image_detector, RgbThermalDetector):
        pipeline.image_detector.config = config.rgb_thermal_detector
    elif isinstance(pipeline.image_detector, ImportedDetector):
        pipeline.image_detector.config = config.imported_detector
    if isinstance(pipeline.box_projection, ImageObjects):
        pipeline.box_projection.geometric = config.geometric
    if isinstance(pipeline.image_quality, ImageQualityMonitor):
        pipeline.image_quality.config = config.image_quality
    if isinstance(pipeline.tracker, Tracker):
        pipeline.tracker.config = config.tracking
    if isinstance(pipeline.occupancy, EvidentialMapper):
        pipeline.occupancy.config = config.evidential
        pipeline.occupancy.grid.config = config.evidential.grid
