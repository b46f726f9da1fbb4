"""The tasks that are evaluated: detection, segmentation and occupancy of one pipeline.

Every run over a drive is independent of the runs before it: tracker, occupancy grid and monitors
are new, and the stamps are moved to an earlier hour, at which the stages with networks reset what they
keep between frames.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from multimodal_perception.configuration import UserError
from multimodal_perception.evaluation.robustness.catalogue import check_names
from multimodal_perception.frame import Boxes3D, Modality, SensorFrame
from multimodal_perception.perception import OccupancyGrid, Perception, SegmentationMask
from multimodal_perception.pipeline import Pipeline
from multimodal_perception.rig import Rig
from multimodal_perception.segmentation.rgb_thermal import RgbThermalSegmenter
from multimodal_perception.sensor_use import SensorUse
from multimodal_perception.stages import Output, Segmenter, SensorUser, UsesPastSweeps

TASKS = ("detection", "segmentation", "occupancy")
HOUR_NS = 3_600_000_000_000
# Stages with networks or without state, which all runs share; each run has its own copy of the others.
SHARED_STAGES = (
    "detector",
    "point_cloud",
    "box_projection",
    "image_detector",
    "segmenter",
    "image_fusion",
    "near_field",
)
# Runs of one process at most; each one is an hour before the one before it.
MAX_RUNS = 100_000


@dataclass(frozen=True)
class TaskOutput:
    """Results of one frame, None for tasks that were not run. masks: by camera or thermal camera."""

    boxes: Boxes3D | None = None
    masks: Mapping[str, SegmentationMask] | None = None
    grid: OccupancyGrid | None = None


@dataclass(frozen=True)
class RunFrame:
    """A frame to process, and the LiDAR sweeps before it for detectors that use them."""

    frame: SensorFrame
    past: Sequence[SensorFrame] = ()


class TaskRunner:
    """Runs the stages that the tasks need.

    seconds: computing time of the tasks in the last run.
    """

    def __init__(
        self, pipeline: Pipeline, tasks: Sequence[str], segmenter: Segmenter | None
    ) -> None:
        """pipeline: not used before. segmenter: for pipelines without one. Raises UserError."""
        check_names("--tasks", tasks, TASKS)
        self.tasks = tuple(t for t in TASKS if t in tasks)
        if "occupancy" in self.tasks and pipeline.occupancy is None:
            raise UserError("--pipeline: occupancy: none; the task occupancy needs a mapper")
        if "occupancy" not in self.tasks:
            pipeline = replace(pipeline, occupancy=None)
        self.segmenter = pipeline.segmenter or segmenter
        self._template = pipeline
        self._has_own_segmenter = pipeline.segmenter is not None
        self._runs = 0
        self.seconds = 0.0

    @property
    def detector_name(self) -> str:
        """Name of the detector."""
        return self._template.detector.name

    @property
    def uses_past_sweeps(self) -> bool:
        """Whether `past` of RunFrame is needed."""
        return isinstance(self._template.detector, UsesPastSweeps)

    @property
    def pipeline(self) -> Pipeline:
        """The pipeline; its tracker, grid and image quality are not used."""
        return self._template

    def used_sensors(self, task: str, rig: Rig) -> frozenset[str]:
        """Names of the sensors that a task uses."""
        p = self._template
        stages: list[Any] = [self.segmenter]
        if task != "segmentation":
            stages = [p.detector]
            if p.detector.uses_proposals or not rig.sensors_of(Modality.LIDAR):
                stages.append(p.image_detector)
            uses_masks = p.detector.uses_masks
            if task == "occupancy" and p.occupancy is not None:
                stages += [p.occupancy, p.near_field]
                uses_masks |= p.occupancy.uses_masks
            if uses_masks:
                stages.append(p.segmenter)
        return frozenset().union(*(_use(s, rig).used for s in stages if s is not None))

    def run(
        self, frames: Iterable[RunFrame], tasks: Sequence[str] | None = None
    ) -> list[TaskOutput]:
        """Results of consecutive frames, independent of earlier runs. tasks: None for all."""
        chosen = self.tasks if tasks is None else tuple(t for t in self.tasks if t in tasks)
        if self._runs >= MAX_RUNS:
            raise RuntimeError("too many runs in one process")
        self._runs += 1
        # deepcopy: the stages of the template were never used.
        p = self._template
        light = [f.name for f in fields(p) if f.init and f.name not in SHARED_STAGES]
        fresh = replace(p, **{name: copy.deepcopy(getattr(p, name)) for name in light})
        if "occupancy" not in chosen:
            fresh.occupancy = None
        shift_ns = (MAX_RUNS - self._runs) * HOUR_NS
        if isinstance(p.detector, UsesPastSweeps):
            p.detector.clear_past_sweeps()
        self.seconds = 0.0
        return [self._process(fresh, item, shift_ns, chosen) for item in frames]

    def _process(
        self, pipeline: Pipeline, item: RunFrame, shift_ns: int, tasks: Sequence[str]
    ) -> TaskOutput:
        start = time.perf_counter()
        frame = shift_time(item.frame, shift_ns)
        detector = pipeline.detector
        perception: Perception | None = None
        if set(tasks) - {"segmentation"}:
            if isinstance(detector, UsesPastSweeps) and item.past:
                detector.clear_past_sweeps()
                for past in item.past:
                    earlier = shift_time(past, shift_ns)
                    detector.add_past_sweep(earlier, pipeline.point_cloud(earlier))
            wanted = {Output.SEGMENTATIONS} if "segmentation" in tasks else set()
            perception = pipeline.process(frame, requested=wanted)
        masks: Mapping[str, SegmentationMask] | None = None
        if "segmentation" in tasks:
            masks = self._segment(pipeline, frame, perception)
        boxes = perception.boxes if perception is not None and "detection" in tasks else None
        grid = None if perception is None else perception.occupancy
        if grid is not None and grid.frame_id != frame.base_frame:
            raise UserError(
                f"--pipeline: evidential.frame: allowed: base; got a grid in {grid.frame_id}"
            )
        self.seconds += time.perf_counter() - start
        return TaskOutput(boxes, masks, grid)

    def _segment(
        self, pipeline: Pipeline, frame: SensorFrame, perception: Perception | None
    ) -> Mapping[str, SegmentationMask]:
        """Masks by sensor, also for the view of a missing image that another image covers."""
        assert self.segmenter is not None
        quality = (
            pipeline.image_quality.assess(frame) if perception is None else perception.image_quality
        )
        frame = pipeline.image_quality.drop_low_quality(frame, quality)
        if perception is not None and self._has_own_segmenter:
            masks = dict(perception.segmentations)
        else:
            masks = dict(self.segmenter.segment(frame))
        if isinstance(self.segmenter, RgbThermalSegmenter):
            wanted = self.segmenter.config.cameras or tuple(frame.intrinsics)
            for name in (n for n in wanted if n in frame.intrinsics and n not in frame.readings):
                labels = self.segmenter.segment_view(frame, name)
                if labels is not None:
                    classes = self.segmenter.class_names
                    masks[name] = SegmentationMask(name, frame.stamp_ns, labels, classes)
        return masks


def shift_time(frame: SensorFrame, nanoseconds: int) -> SensorFrame:
    """The frame with all its stamps moved."""

    def moved(readings: Mapping[str, Any]) -> dict[str, Any]:
        return {n: replace(r, stamp_ns=r.stamp_ns + nanoseconds) for n, r in readings.items()}

    return replace(
        frame,
        stamp_ns=frame.stamp_ns + nanoseconds,
        lidars=moved(frame.lidars),
        cameras=moved(frame.cameras),
        thermals=moved(frame.thermals),
        ultrasonics=moved(frame.ultrasonics),
    )


def _use(stage: Any, rig: Rig) -> SensorUse:
    if isinstance(stage, SensorUser):
        return stage.sensor_use(rig)
    return SensorUse(frozenset(rig.sensors))
