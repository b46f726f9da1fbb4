"""Counts and times that the node measures while it runs, and the pipeline's status on /diagnostics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from multimodal_perception.frame import SensorFrame
from multimodal_perception.messages.message_types import MessageTypes
from multimodal_perception.perception import ImageQuality, Perception
from multimodal_perception.pipeline import Pipeline
from multimodal_perception.rig import Rig
from multimodal_perception.ros import diagnostics
from multimodal_perception.ros.intake_worker import IntakeFrame, IntakeWorker
from multimodal_perception.ros.worker import NewestFirstWorker
from multimodal_perception.sensor_use import RigUse
from multimodal_perception.synchronization.intake import MessageIntake


@dataclass
class NodeStatistics:
    """Counts and times since the node was configured; maxima since the last status.

    The threads of the node write different fields. image_quality: of the last image of each sensor.
    frozen: of the last frame. frames_withheld: frames without a result, because a required sensor was
    dropped and no object was found. last_counts: counts in the last status.
    """

    image_quality: Mapping[str, ImageQuality] = field(default_factory=dict)
    frozen: Mapping[str, float] = field(default_factory=dict)
    frames_processed: int = 0
    frames_withheld: int = 0
    frames_without_required: int = 0
    max_latency_s: float = 0.0
    max_callback_s: float = 0.0
    last_counts: Mapping[str, int] = field(default_factory=dict)

    def has_result(self, rig: Rig, frame: SensorFrame, boxes: int) -> bool:
        """Count a frame; return whether its boxes are a result.

        A frame without a required sensor and without boxes is no result, because objects may be there
        that only this sensor can detect. boxes: number of boxes.
        """
        if not any(rig.sensors[name].required for name in frame.dropped):
            return True
        self.frames_without_required += 1
        self.frames_withheld += not boxes
        return boxes > 0

    def add(self, perception: Perception, latency_s: float) -> None:
        """Count a processed frame. latency_s: time from its last message to its boxes, seconds."""
        self.image_quality = {**self.image_quality, **perception.image_quality}
        self.frozen = perception.frozen
        self.frames_processed += 1
        self.max_latency_s = max(self.max_latency_s, latency_s)

    def pipeline_status(
        self,
        types: MessageTypes,
        node: str,
        pipeline: Pipeline,
        intake: MessageIntake,
        workers: tuple[NewestFirstWorker[IntakeFrame], IntakeWorker],
        rig_use: RigUse,
        warn_latency_s: float,
        clock_problem: str,
    ) -> Any:
        """DiagnosticStatus of the pipeline, see diagnostics.pipeline_status. The maxima are set to 0."""
        counts = self._counts(pipeline, intake, *workers)
        last, self.last_counts = self.last_counts, counts
        latency_s, self.max_latency_s = self.max_latency_s, 0.0
        callback_s, self.max_callback_s = self.max_callback_s, 0.0
        return diagnostics.pipeline_status(
            types,
            node,
            pipeline.detector.name,
            counts,
            last,
            latency_s,
            warn_latency_s,
            clock_problem,
            {
                **intake.details("odometry"),
                **rig_use.details,
                "max_executor_callback_ms": 1e3 * callback_s,
            },
            pipeline.disabled,
        )

    def _counts(
        self,
        pipeline: Pipeline,
        intake: MessageIntake,
        worker: NewestFirstWorker[IntakeFrame],
        intake_worker: IntakeWorker,
    ) -> dict[str, int]:
        synchronizer = intake.synchronizer
        other_drops = {
            f"dropped.{topic}.{reason}": n
            for (topic, reason), n in sorted(intake.drops.items())
            if topic not in intake.rig.sensors
        }
        return {
            "frames_synchronized": synchronizer.sets,
            "frames_incomplete": synchronizer.incomplete,
            "frames_processed": self.frames_processed,
            "frames_dropped_busy": worker.dropped + intake_worker.replaced,
            "frames_failed": worker.failed,
            "frames_withheld": self.frames_withheld,
            "frames_without_required": self.frames_without_required,
            "clock_jumps": synchronizer.clock_jumps,
            "frame_time_restarts": synchronizer.time_restarts,
            **pipeline.counts,
            **other_drops,
        }
