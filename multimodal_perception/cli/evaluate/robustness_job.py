"""One study of `evaluate robustness` on one drive, and the data that a worker keeps between studies."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from multimodal_perception.cli.evaluate.sensor_options import with_image_detector
from multimodal_perception.evaluation.robustness.drive import (
    DriveSource,
    RobustnessDrive,
    open_drive,
)
from multimodal_perception.evaluation.robustness.study import (
    AttackEffort,
    Study,
    StudyResult,
    clean_outputs,
    run_attack,
    run_clean,
    run_corruption,
)
from multimodal_perception.evaluation.robustness.tasks import RunFrame, TaskOutput, TaskRunner
from multimodal_perception.evaluation.segmentation_images import open_segmenter
from multimodal_perception.pipeline_builder import PipelineConfig, build_pipeline, open_detector
from multimodal_perception.rig import Rig
from multimodal_perception.segmentation.rgb_thermal import RgbThermalSegmenter


@dataclass(frozen=True)
class RunnerOptions:
    """config: of the pipeline. tasks: see TaskRunner. detector, image_detector: as for the options of
    `evaluate detections`; segmenter: name or folder of a segmentation model. They are None for those of
    the configuration."""

    config: PipelineConfig
    tasks: tuple[str, ...]
    detector: str | None = None
    image_detector: str | None = None
    segmenter: str | None = None


@dataclass(frozen=True)
class RobustnessJob:
    """A study of a drive. picture: whether the result has one. data: digest of the drive's files."""

    drive: DriveSource
    runner: RunnerOptions
    study: Study
    effort: AttackEffort
    picture: bool = False
    data: str = ""


@dataclass
class OpenedDrive:
    """Shared by the studies of one drive: its frames, the stages, and the results of the clean run."""

    drive: RobustnessDrive
    runner: TaskRunner
    clean: list[TaskOutput] | None = None
    clean_seconds: float = 0.0

    def clean_run(self) -> list[TaskOutput]:
        """Results of the clean run, computed once."""
        if self.clean is None:
            first = self.drive.frame(self.drive.indices[0])
            # Kernels are compiled before the time is measured.
            self.runner.run([RunFrame(first)])
            self.clean = clean_outputs(self.drive, self.runner)
            self.clean_seconds = self.runner.seconds
        return self.clean


# Of this process: the last drive, and the stages by configuration, because opening them takes seconds.
_drives: dict[str, OpenedDrive] = {}
_runners: dict[str, TaskRunner] = {}


def opened_drive(source: DriveSource, options: RunnerOptions) -> OpenedDrive:
    """The drive and the stages, kept from the last call with these arguments. Raises UserError."""
    key = repr((source, options))
    if key not in _drives:
        drive = open_drive(source)
        _drives.clear()
        _drives[key] = OpenedDrive(drive, _runner(options, drive.rig))
    return _drives[key]


def run_job(job: RobustnessJob) -> StudyResult:
    """Make a study. Raises UserError."""
    opened = opened_drive(job.drive, job.runner)
    clean = opened.clean_run()
    if job.study.kind == "clean":
        return run_clean(opened.drive, clean, opened.clean_seconds)
    if job.study.kind == "corruption":
        result = run_corruption(opened.drive, opened.runner, job.study, clean)
    else:
        result = run_attack(opened.drive, opened.runner, job.study, job.effort)
    return result if job.picture else dataclasses.replace(result, picture=b"")


def _runner(options: RunnerOptions, rig: Rig) -> TaskRunner:
    config = with_image_detector(options.config, options.image_detector, None, rig)
    key = repr((options, config.image_detector))
    if key not in _runners:
        overrides: dict[str, Any] = {}
        if options.detector is not None:
            overrides["detector"] = open_detector(options.detector, config)
        segmenter = None if options.segmenter is None else open_segmenter(options.segmenter)
        if segmenter is not None and config.segmenter != "none":
            overrides["segmenter"] = segmenter
        pipeline = build_pipeline(config, **overrides)
        if "segmentation" in options.tasks and (segmenter or pipeline.segmenter) is None:
            segmenter = RgbThermalSegmenter(config.rgb_thermal_segmenter, config.runtime)
        _runners[key] = TaskRunner(pipeline, options.tasks, segmenter)
    return _runners[key]
