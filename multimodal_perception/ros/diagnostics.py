"""Sensor health, inference status and stage times as diagnostic_msgs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from multimodal_perception.frame import SensorFrame
from multimodal_perception.load_control import LoadController
from multimodal_perception.messages.encoders import make_header
from multimodal_perception.messages.message_types import MessageTypes
from multimodal_perception.perception import (
    ImageQuality,
    Level,
    Perception,
    SensorHealth,
    StageStatus,
)

HARDWARE = "multimodal_perception"


def status(
    types: MessageTypes, name: str, level: Level, message: str, values: Mapping[str, Any]
) -> Any:
    """One DiagnosticStatus."""
    return types.new(
        "diagnostic_msgs/msg/DiagnosticStatus",
        level=bytes([level.value]),
        name=name,
        message=message,
        hardware_id=HARDWARE,
        values=[
            types.new("diagnostic_msgs/msg/KeyValue", key=key, value=_text(value))
            for key, value in values.items()
        ],
    )


def diagnostic_array(types: MessageTypes, stamp_ns: int, statuses: list[Any]) -> Any:
    """The DiagnosticArray of /diagnostics."""
    head = make_header(types, stamp_ns, "")
    return types.new("diagnostic_msgs/msg/DiagnosticArray", header=head, status=statuses)


def sensor_status(
    types: MessageTypes,
    node: str,
    health: SensorHealth,
    clock: Mapping[str, float],
    image_quality: ImageQuality | None = None,
    warn_quality: float = 0.5,
    details: Mapping[str, Any] | None = None,
) -> Any:
    """DiagnosticStatus of one sensor, with the dropped messages by reason and the clock statistics.

    image_quality: of its last image, for image sensors; WARN below `warn_quality`, and with its
    problems, such as a dirty lens. details: further values, such as the assumptions about its messages.
    """
    values: dict[str, Any] = {
        "rate_hz": health.rate_hz,
        "jitter_s": health.jitter_s,
        "latency_s": health.latency_s,
        "age_s": health.age_s,
        **{f"dropped.{reason}": count for reason, count in sorted(health.drops.items())},
        **{name: f"{value:.6g}" for name, value in clock.items()},
        **(details or {}),
    }
    level, message = health.level, health.message
    if image_quality is not None:
        values["image_quality"] = f"{image_quality.value:.3f}"
        values |= {
            f"image_quality.{cue}": f"{score:.3f}" for cue, score in image_quality.cues.items()
        }
        reasons = list(image_quality.problems)
        if image_quality.value < warn_quality:
            weak = ", ".join(cue for cue, score in image_quality.cues.items() if score < 1.0)
            reasons.insert(0, f"image quality {image_quality.value:.2f}: {weak}")
        if reasons and level in (Level.OK, Level.WARN):
            reason = "; ".join(reasons)
            message = reason if level is Level.OK else f"{message}; {reason}"
            level = Level.WARN
    return status(types, f"{node}: {health.sensor}", level, message, values)


def stage_status(types: MessageTypes, node: str, stage: StageStatus) -> Any:
    """DiagnosticStatus of one network or detector: engine, device, times, and the fallback's reason."""
    name = f"{node}: inference of {stage.name}"
    return status(types, name, stage.level, stage.message, stage.values)


def sensor_use_status(types: MessageTypes, node: str, use: StageStatus) -> Any:
    """DiagnosticStatus with the sensors that no stage uses, and the images that exceed a network."""
    return status(types, f"{node}: sensor use", use.level, use.message, use.values)


def evidence_status(types: MessageTypes, node: str, evidence: StageStatus) -> Any:
    """DiagnosticStatus of the sensors' opinions; WARN with the sensors whose opinions are wrong."""
    return status(types, f"{node}: evidence", evidence.level, evidence.message, evidence.values)


def odometry_status(types: MessageTypes, node: str, odometry: StageStatus) -> Any:
    """DiagnosticStatus of the odometry; WARN if it is lost."""
    return status(types, f"{node}: odometry", odometry.level, odometry.message, odometry.values)


def load_status(types: MessageTypes, node: str, load: LoadController) -> Any:
    """DiagnosticStatus of the load: WARN with the reason while the detector saves computing time."""
    level = Level.WARN if load.level else Level.OK
    values = {
        "level": load.level,
        "level_name": load.level_name,
        "levels": ", ".join(load.levels),
        **load.counts,
    }
    return status(types, f"{node}: load", level, load.reason or "ok", values)


def pipeline_status(
    types: MessageTypes,
    node: str,
    detector: str,
    counts: Mapping[str, int],
    last_counts: Mapping[str, int],
    max_latency_s: float,
    warn_latency_s: float,
    clock_problem: str = "",
    details: Mapping[str, Any] | None = None,
    disabled: Collection[str] = (),
) -> Any:
    """DiagnosticStatus of the pipeline.

    ERROR if frames failed or were withheld since the last status, or the time is invalid; WARN if stages
    are disabled, frames or messages of common topics were dropped, or frames were late. last_counts: the
    counts in the last status. max_latency_s: maximum latency since then; WARN above warn_latency_s.
    clock_problem: why the time is invalid. details: further values, such as the assumptions about the
    odometry. disabled: stages that were switched off by a service.
    """
    new = {name: count - last_counts.get(name, 0) for name, count in counts.items()}
    dropped, failed = new["frames_dropped_busy"], new["frames_failed"]
    withheld, degraded = (
        new.get(name, 0) for name in ("frames_withheld", "frames_without_required")
    )
    topics = ", ".join(f"{n[8:]} {c}" for n, c in new.items() if n.startswith("dropped.") and c > 0)
    level, message = Level.OK, "ok"
    if clock_problem:
        level, message = Level.ERROR, clock_problem
    elif failed:
        level, message = Level.ERROR, f"{failed} frames could not be processed"
    elif withheld:
        level, message = (
            Level.ERROR,
            f"no objects published for {withheld} frames: readings of required sensors were dropped",
        )
    elif disabled:
        level, message = Level.WARN, f"disabled stages: {', '.join(sorted(disabled))}"
    elif degraded:
        level, message = (
            Level.WARN,
            f"readings of required sensors were dropped from {degraded} frames",
        )
    elif topics:
        level, message = Level.WARN, f"dropped: {topics}"
    elif dropped:
        level, message = Level.WARN, f"{dropped} frames dropped: inference is too slow"
    elif max_latency_s > warn_latency_s:
        level, message = Level.WARN, f"latency {max_latency_s:.3f} s"
    elif not counts["frames_synchronized"]:
        level, message = Level.WARN, "no frame received yet"
    values = {"detector": detector, "max_latency_s": max_latency_s, **counts, **(details or {})}
    return status(types, f"{node}: pipeline", level, message, values)


def timing_message(
    types: MessageTypes, perception: Perception, extra: Mapping[str, float], frame: SensorFrame
) -> Any:
    """Stage times and reading ages of one frame, with the stamp of its boxes.

    Status `stages`: time of each stage in milliseconds; `extra` are times outside of the pipeline.
    Status `readings`: by how many milliseconds each reading is older than the frame; WARN if a sensor
    is missing.
    """
    values = {**perception.stage_ms, **extra}
    timing = status(types, "stages", Level.OK, "milliseconds", values)
    ages = {name: 1e-6 * (frame.stamp_ns - r.stamp_ns) for name, r in frame.readings.items()}
    missing = ", ".join(sorted(frame.missing))
    level, text = (Level.WARN, f"missing: {missing}") if missing else (Level.OK, "complete")
    readings = status(types, "readings", level, text, ages)
    head = make_header(types, perception.stamp_ns, perception.frame_id)
    return types.new("diagnostic_msgs/msg/DiagnosticArray", header=head, status=[timing, readings])


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
