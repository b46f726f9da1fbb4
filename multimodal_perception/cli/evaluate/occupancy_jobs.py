"""One simulated drive or one recorded data set of `evaluate occupancy`, as a worker's job."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

from multimodal_perception.cli.recordings import open_recording
from multimodal_perception.evaluation.occupancy import (
    LabelledFrameScore,
    TruthFunction,
    evaluate_occupancy,
)
from multimodal_perception.evaluation.occupancy_drives import (
    HELD_OUT_CONDITIONS,
    KNOWN_CONDITIONS,
    DriveScores,
    score_drive,
    simulate,
)
from multimodal_perception.evaluation.worst_pictures import (
    WorstPictures,
    draw_grid_errors,
    grid_errors,
)
from multimodal_perception.perception import OccupancyGrid
from multimodal_perception.pipeline_builder import PipelineConfig, build_pipeline
from multimodal_perception.simulation.profile import Profile
from multimodal_perception.simulation.rigs import open_rig

CONDITIONS = {**KNOWN_CONDITIONS, **HELD_OUT_CONDITIONS}


@dataclass(frozen=True)
class SimulatedDriveJob:
    """condition: of CONDITIONS. rig: as for open_rig. frames, max_range, profile: as for `simulate`.
    true_masks: see score_drive. pictures: number of the worst frames to draw."""

    config: PipelineConfig
    seed: int
    condition: str
    rig: str
    frames: int
    max_range: float
    profile: Profile
    true_masks: bool
    pictures: int = 0

    @property
    def name(self) -> str:
        return f"seed {self.seed}, {self.condition}"


@dataclass
class SimulatedDriveResult:
    """Scores, times of the pipeline (milliseconds) and the worst frames."""

    worst: WorstPictures
    scores: DriveScores = field(default_factory=DriveScores)
    times_ms: list[float] = field(default_factory=list)

    def merge(self, other: SimulatedDriveResult) -> None:
        self.scores.merge(other.scores)
        self.times_ms += other.times_ms
        self.worst.merge(other.worst)


def run_simulated_drive(job: SimulatedDriveJob) -> SimulatedDriveResult:
    """Simulate and evaluate one drive. Raises UserError."""
    result = SimulatedDriveResult(WorstPictures(job.pictures))
    rig, conditions = open_rig(job.rig), CONDITIONS[job.condition]
    drive = simulate(job.seed, conditions, rig, job.frames, job.max_range, job.profile)
    caption = f"{drive.scenario.name}, {job.name}"

    def add(index: int, grid: OccupancyGrid, truth: TruthFunction, milliseconds: float) -> None:
        result.times_ms.append(milliseconds)
        if job.pictures:
            error = grid_errors(grid, truth)
            text = f"{caption}, frame {index}: {100 * error:.1f} % of the known cells wrong"
            result.worst.add(error, text, lambda: draw_grid_errors(grid, truth))

    factory: Any = partial(build_pipeline, job.config)
    for _ in score_drive(
        result.scores, drive, job.condition, factory, job.true_masks, job.max_range, add
    ):
        pass
    return result


@dataclass(frozen=True)
class RecordedDriveJob:
    """root: as for open_dataset."""

    root: str
    config: PipelineConfig


@dataclass
class RecordedDriveResult:
    """Counts of the labelled cells, and the number of frames."""

    score: LabelledFrameScore
    frames: int

    def merge(self, other: RecordedDriveResult) -> None:
        self.score.merge(other.score)
        self.frames += other.frames


def run_recorded_drive(job: RecordedDriveJob) -> RecordedDriveResult:
    """Evaluate one data set with the boxes of the configured detector. Raises UserError."""
    dataset = open_recording(job.root)
    pipeline = build_pipeline(job.config)

    def sources(frame: Any, cloud: Any) -> dict[str, Any]:
        return {"boxes": pipeline.detector.detect(frame, cloud)}

    def mapper() -> Any:
        return build_pipeline(job.config).occupancy

    score = LabelledFrameScore()
    metrics = evaluate_occupancy(
        dataset, mapper, sources=sources, ground=job.config.ground, labelled=score
    )
    return RecordedDriveResult(score, metrics["frames"])
