"""One drive of `evaluate detections` and `evaluate tracking`: the options that a worker needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from multimodal_perception.cli.evaluate.sensor_options import (
    reduced_rig,
    remaining_modalities,
    with_image_detector,
)
from multimodal_perception.datasets.open_dataset import DatasetName, open_dataset
from multimodal_perception.evaluation.recorded_drives import (
    DriveResult,
    DriveSettings,
    evaluate_drive,
)
from multimodal_perception.frame import SensorFrame
from multimodal_perception.perception import Perception
from multimodal_perception.pipeline_builder import PipelineConfig, build_pipeline, open_detector


@dataclass(frozen=True)
class DetectionJob:
    """root, dataset: as for open_dataset. detector: as for open_detector, None for that of the
    configuration. without, image_detector, tiles: see sensor_options."""

    root: str
    dataset: DatasetName | None
    config: PipelineConfig
    settings: DriveSettings
    detector: str | None = None
    without: tuple[str, ...] = ()
    image_detector: str | None = None
    tiles: tuple[int, int] | None = None


def run_job(
    job: DetectionJob, progress: Callable[[Any], Any] = lambda dataset: dataset
) -> DriveResult:
    """Evaluate one drive. Raises UserError."""
    dataset = open_dataset(job.root, job.dataset)
    modalities = remaining_modalities(job.without)
    tiles = None if job.tiles is None else list(job.tiles)
    rig = reduced_rig(dataset.rig, modalities)
    config = with_image_detector(job.config, job.image_detector, tiles, rig)
    overrides = {}
    if job.detector is not None:
        overrides["detector"] = open_detector(job.detector, config)
    pipeline = build_pipeline(config, **overrides)

    def process(frame: SensorFrame) -> Perception:
        return pipeline.process(frame.select_modalities(modalities))

    result = evaluate_drive(dataset, process, pipeline.detector.name, job.settings, progress)
    result.image_detector = config.image_detector
    return result
