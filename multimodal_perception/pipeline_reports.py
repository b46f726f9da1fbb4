"""Counts, status and used sensors of the stages of a pipeline, and copies without some stages."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING

from multimodal_perception import stages
from multimodal_perception.perception import StageStatus
from multimodal_perception.rig import Rig
from multimodal_perception.sensor_use import RigUse

if TYPE_CHECKING:
    from multimodal_perception.pipeline import Pipeline


def stages_of(pipeline: Pipeline) -> dict[str, stages.Stage | None]:
    """The stages by name (keys of stages.ATTRIBUTES); None where the pipeline has no such stage."""
    return {name: getattr(pipeline, attribute) for name, attribute in stages.ATTRIBUTES.items()}


def counts(pipeline: Pipeline) -> Mapping[str, int]:
    """Inputs that the stages dropped or could not use, by `stage.sensor.reason`."""
    return stages.collect_counts(stages_of(pipeline)) | dict(pipeline.own_counts)


def status(pipeline: Pipeline) -> list[StageStatus]:
    """Status of the stages, such as the inference engines in use, for diagnostics."""
    return [*pipeline.choice_status, *stages.collect_status(stages_of(pipeline))]


def evidence_status(pipeline: Pipeline) -> StageStatus | None:
    """State of the sensors by their opinions about the objects; None without opinions."""
    if pipeline.evidence is None or "evidence" in pipeline.disabled:
        return None
    return pipeline.evidence.evidence_status


def configured(pipeline: Pipeline) -> frozenset[str]:
    """Names of the stages that the pipeline has, enabled or not."""
    return frozenset(name for name, stage in stages_of(pipeline).items() if stage is not None)


def sensor_use(pipeline: Pipeline, rig: Rig) -> RigUse:
    """Which sensors of a rig no stage uses, and which images exceed the inputs of a network."""
    return stages.collect_sensor_use(rig, stages_of(pipeline))


def reset_occupancy(pipeline: Pipeline) -> bool:
    """Delete the evidence of earlier frames. Call it between two frames.

    Returns False if the occupancy stage is not stages.Resettable.
    """
    if isinstance(pipeline.occupancy, stages.Resettable):
        pipeline.occupancy.reset()
        return True
    return False


def without(pipeline: Pipeline, disabled: frozenset[str]) -> Pipeline:
    """A copy with the same stages except for the disabled ones.

    The detector and the image quality, which are not optional, stay; the pipeline skips them.
    """
    result = copy.copy(pipeline)
    result.disabled = result._removed = disabled
    for name in disabled - {"detector", "image_quality"}:
        setattr(result, stages.ATTRIBUTES[name], None)
    return result
