"""One study: a corruption of sensors in some severities, or an attack on a sensor, on one drive.

A setting is a study with one of its severities. A task is detection, segmentation or occupancy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from multimodal_perception.evaluation.occupancy import UNDECIDED
from multimodal_perception.evaluation.robustness import search_attack
from multimodal_perception.evaluation.robustness.attacked_pixels import image_pixels, with_pixels
from multimodal_perception.evaluation.robustness.corruption import NotApplicableError
from multimodal_perception.evaluation.robustness.drive import RobustnessDrive
from multimodal_perception.evaluation.robustness.pictures import comparison_picture
from multimodal_perception.evaluation.robustness.scores import (
    DECISION_DISTANCE_M,
    DECISION_SCORE,
    SettingResult,
    decided_states,
)
from multimodal_perception.evaluation.robustness.tasks import RunFrame, TaskOutput, TaskRunner
from multimodal_perception.frame import Boxes3D, SensorFrame

# Sweeps before a frame for detectors that use past sweeps.
PAST_SWEEPS = 5
# Unit and sizes of the attacks by severity.
ATTACKS: Mapping[str, tuple[str, tuple[float, float, float, float, float]]] = {
    "image_attack": ("1/255", (1, 2, 4, 8, 16)),
    "point_attack": ("cm", (2, 5, 10, 20, 40)),
}
CLEAN = "clean"


@dataclass(frozen=True)
class Study:
    """A corruption of one or more sensors, or an attack, in some severities.

    name: corruption, attack or CLEAN. target: name of the sensors in tables. task: that an attack is
    made against; empty for corruptions. tasks: that use one of the sensors; the others are not run.
    """

    kind: Literal["clean", "corruption", "attack"]
    name: str
    target: str = ""
    sensors: tuple[str, ...] = ()
    severities: tuple[int, ...] = ()
    task: str = ""
    tasks: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """Name in reports."""
        words = [self.name, self.target, self.task and f"against {self.task}"]
        return " ".join(w for w in words if w)


@dataclass(frozen=True)
class AttackEffort:
    """steps: of the projected gradient. queries: runs of a search. seed: of the random start."""

    steps: int = 10
    queries: int = 30
    seed: int = 0


@dataclass
class StudyResult:
    """Counts of a study on one drive.

    settings: by severity; an attack has also severity 0, the clean run of the attacked frames. reason:
    why the study could not be made, empty if it was. method: of an attack. picture: JPEG, or empty.
    """

    study: Study
    settings: list[SettingResult] = field(default_factory=list)
    reason: str = ""
    method: str = ""
    picture: bytes = b""


def clean_outputs(drive: RobustnessDrive, runner: TaskRunner) -> list[TaskOutput]:
    """Results of the clean run."""
    return runner.run(_frames(drive, runner, drive.indices, lambda i: drive.frame(i)))


def run_clean(drive: RobustnessDrive, clean: Sequence[TaskOutput], seconds: float) -> StudyResult:
    """The clean run itself, as severity 0. seconds: that its tasks took."""
    result = SettingResult(0, seconds=seconds)
    for index, output in zip(drive.indices, clean, strict=True):
        result.add(output, output, drive.truth(index), drive.frame(index))
    return StudyResult(Study("clean", CLEAN), [result])


def run_corruption(
    drive: RobustnessDrive, runner: TaskRunner, study: Study, clean: Sequence[TaskOutput]
) -> StudyResult:
    """All frames of the drive with a corruption in each severity."""
    result = StudyResult(study)
    pictured = drive.indices[0]
    changed: SensorFrame | None = None
    for severity in study.severities:

        def make(index: int, severity: int = severity) -> SensorFrame:
            nonlocal changed
            frame = drive.corrupted(index, study.name, study.sensors, severity)
            if index == pictured:
                changed = frame
            return frame

        try:
            outputs = runner.run(_frames(drive, runner, drive.indices, make), study.tasks)
        except NotApplicableError as error:
            return StudyResult(study, reason=str(error))
        counts = SettingResult(severity, seconds=runner.seconds)
        for index, output, reference in zip(drive.indices, outputs, clean, strict=True):
            counts.add(output, reference, drive.truth(index), drive.frame(index))
        result.settings.append(counts)
    if changed is not None and study.sensors:
        result.picture = comparison_picture(drive.frame(pictured), changed, study.sensors[0])
    return result


def run_attack(
    drive: RobustnessDrive, runner: TaskRunner, study: Study, effort: AttackEffort
) -> StudyResult:
    """An attack of each size on the first frame of the drive.

    Of segmentation only the views count whose masks depend on the sensor.
    """
    index, sensor = drive.indices[0], study.sensors[0]
    frame, truth = drive.frame(index), drive.truth(index)
    if sensor not in frame.present:
        return StudyResult(study, reason=f"{sensor} has no reading in the first frame")
    past = list(_past(drive, runner, index, lambda i: drive.frame(i)))

    def process_all(changed: SensorFrame) -> TaskOutput:
        return runner.run([RunFrame(changed, past)], (study.task,))[0]

    clean = process_all(frame)
    views = _dependent_views(clean, process_all(frame.without_sensors({sensor})))
    clean = _select_views(clean, views)

    def process(changed: SensorFrame) -> TaskOutput:
        return _select_views(process_all(changed), views)

    unchanged = SettingResult(0, seconds=runner.seconds)
    unchanged.add(clean, clean, truth, frame)
    result = StudyResult(study, [unchanged])
    attack, result.method = _attack(runner, study, frame, process, clean, effort)
    changed = frame
    for severity in study.severities:
        changed = attack(ATTACKS[study.name][1][severity - 1])
        counts = SettingResult(severity)
        counts.add(process(changed), clean, truth, frame)
        counts.seconds = runner.seconds
        result.settings.append(counts)
    is_image = study.name == "image_attack"
    result.picture = comparison_picture(frame, changed, sensor, difference=is_image)
    return result


def agreement(output: TaskOutput, clean: TaskOutput, task: str) -> float:
    """What a search lowers: how much of the clean result remains, from 0 to 1.

    detection: scores of the boxes at the clean boxes relative to the clean scores. segmentation and
    occupancy: fraction of the pixels and cells with the same decision.
    """
    if task == "detection":
        assert output.boxes is not None and clean.boxes is not None
        return _box_support(output.boxes, clean.boxes)
    if task == "segmentation":
        masks = output.masks or {}
        same = [
            float((masks[n].labels == m.labels).mean()) if n in masks else 0.0
            for n, m in (clean.masks or {}).items()
        ]
        return float(np.mean(same)) if same else 0.0
    assert output.grid is not None and clean.grid is not None
    before, now = decided_states(clean.grid), decided_states(output.grid)
    decided = before != UNDECIDED
    return float((before == now)[decided].mean()) if decided.any() else 0.0


def _dependent_views(clean: TaskOutput, without: TaskOutput) -> frozenset[str]:
    """Views whose masks differ without a sensor."""
    others = without.masks or {}
    return frozenset(
        name
        for name, mask in (clean.masks or {}).items()
        if name not in others or (others[name].labels != mask.labels).any()
    )


def _select_views(output: TaskOutput, views: frozenset[str]) -> TaskOutput:
    if output.masks is None:
        return output
    return replace(output, masks={n: mask for n, mask in output.masks.items() if n in views})


def _box_support(boxes: Boxes3D, clean: Boxes3D) -> float:
    reference = clean.select(clean.scores >= DECISION_SCORE)
    total = 0.0
    for k in range(len(reference)):
        offset = boxes.boxes[:, :2] - reference.boxes[k, :2]
        near = np.hypot(offset[:, 0], offset[:, 1]) <= DECISION_DISTANCE_M
        near &= boxes.labels == reference.labels[k]
        total += float(boxes.scores[near].max(initial=0.0))
    return total / max(float(reference.scores.sum()), 1e-9)


def _attack(
    runner: TaskRunner,
    study: Study,
    frame: SensorFrame,
    process: Callable[[SensorFrame], TaskOutput],
    clean: TaskOutput,
    effort: AttackEffort,
) -> tuple[Callable[[float], SensorFrame], str]:
    """A function from the size of the attack to the attacked frame, and the name of the method."""
    sensor = study.sensors[0]

    def score(changed: SensorFrame) -> float:
        return agreement(process(changed), clean, study.task)

    search = f"Square Attack with {effort.queries} runs"
    if study.name == "point_attack":
        return (
            lambda size: search_attack.attack_points(
                frame, sensor, 0.01 * size, effort.queries, score, effort.seed
            ),
            search,
        )
    target = _gradient_target(runner, study, frame, sensor)
    if target is None:
        return (
            lambda size: search_attack.attack_image(
                frame, sensor, size, effort.queries, score, effort.seed
            ),
            search,
        )
    from multimodal_perception.evaluation.robustness import image_gradient

    maximum = image_pixels(frame, sensor)[1]

    def by_gradient(size: float) -> SensorFrame:
        pixels = image_gradient.projected_gradient(target, size, effort.steps, maximum, effort.seed)
        return with_pixels(frame, sensor, pixels)

    return by_gradient, f"projected gradient with {effort.steps} steps"


def _gradient_target(runner: TaskRunner, study: Study, frame: SensorFrame, sensor: str) -> Any:
    """The target of the gradient attack; None if the attacked stage has no torch network."""
    try:
        from multimodal_perception.evaluation.robustness.image_gradient import gradient_target
    except ImportError:  # torch is optional
        return None
    pipeline = runner.pipeline
    cloud = pipeline.point_cloud(frame).reliable
    stages: list[Any] = [runner.segmenter] if study.task == "segmentation" else [pipeline.detector]
    if study.task == "detection" and (pipeline.detector.uses_proposals or not frame.lidars):
        stages.append(pipeline.image_detector)
    for stage in stages:
        target = gradient_target(stage, frame, sensor, cloud)
        if target is not None:
            return target
    return None


def _frames(
    drive: RobustnessDrive,
    runner: TaskRunner,
    indices: Sequence[int],
    make: Callable[[int], SensorFrame],
) -> Any:
    """The frames to process, each with the sweeps before it if the detector uses them."""
    for index in indices:
        yield RunFrame(make(index), list(_past(drive, runner, index, make)))


def _past(
    drive: RobustnessDrive, runner: TaskRunner, index: int, make: Callable[[int], SensorFrame]
) -> Any:
    if not runner.uses_past_sweeps:
        return
    for i in range(max(index - PAST_SWEEPS, 0), index):
        try:
            yield make(i)
        except NotApplicableError:
            continue
