"""Health and stage times as diagnostic_msgs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from multimodal_perception.frame import SensorFrame
from multimodal_perception.messages.encoders import header
from multimodal_perception.messages.message_types import MessageTypes
from multimodal_perception.perception import ImageTrust, Level, Perception, SensorHealth

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
    head = header(types, stamp_ns, "")
    return types.new("diagnostic_msgs/msg/DiagnosticArray", header=head, status=statuses)


def sensor_status(
    types: MessageTypes,
    node: str,
    health: SensorHealth,
    clock: Mapping[str, float],
    trust: ImageTrust | None = None,
    warn_below: float = 0.5,
) -> Any:
    """One sensor's DiagnosticStatus, with a value for each reason of drops and each clock figure.

    trust: in its last image, where it is one that is judged; WARN below `warn_below`.
    """
    values: dict[str, Any] = {
        "rate_hz": health.rate_hz,
        "jitter_s": health.jitter_s,
        "latency_s": health.latency_s,
        "age_s": health.age_s,
        **{f"dropped.{reason}": count for reason, count in sorted(health.drops.items())},
        **{name: f"{value:.6g}" for name, value in clock.items()},
    }
    level, message = health.level, health.message
    if trust is not None:
        values["trust"] = f"{trust.value:.3f}"
        values |= {f"trust.{cue}": f"{share:.3f}" for cue, share in trust.cues.items()}
        if trust.value < warn_below and level in (Level.OK, Level.WARN):
            weak = ", ".join(cue for cue, share in trust.cues.items() if share < 1.0)
            complaint = f"image trusted {trust.value:.2f}: {weak}"
            message = complaint if level is Level.OK else f"{message}; {complaint}"
            level = Level.WARN
    return status(types, f"{node}: {health.sensor}", level, message, values)


def pipeline_status(
    types: MessageTypes,
    node: str,
    detector: str,
    counts: Mapping[str, int],
    last: Mapping[str, int],
    worst_s: float,
    slow_s: float,
) -> Any:
    """The pipeline's DiagnosticStatus: ERROR or WARN by what its counts have grown since the last ones.

    worst_s: the longest latency meanwhile; above slow_s it is worth a warning.
    """
    lost, failed = (
        counts[name] - last.get(name, 0) for name in ("frames_dropped_busy", "frames_failed")
    )
    level, message = Level.OK, "ok"
    if failed:
        level, message = Level.ERROR, f"{failed} frames could not be processed"
    elif lost:
        level, message = Level.WARN, f"{lost} frames dropped: inference cannot keep up"
    elif worst_s > slow_s:
        level, message = Level.WARN, f"latency {worst_s:.3f} s"
    elif not counts["frames_synchronized"]:
        level, message = Level.WARN, "no frame yet"
    values = {"detector": detector, "worst_latency_s": worst_s, **counts}
    return status(types, f"{node}: pipeline", level, message, values)


def timing_message(
    types: MessageTypes, perception: Perception, extra: Mapping[str, float], frame: SensorFrame
) -> Any:
    """One frame's stages and readings, stamped as its boxes are.

    Status `stages`: milliseconds of each. Status `readings`: by how many milliseconds each reading is
    older than the frame; WARN where one is missing.
    """
    values = {**perception.stage_ms, **extra}
    timing = status(types, "stages", Level.OK, "milliseconds", values)
    ages = {name: 1e-6 * (frame.stamp_ns - r.stamp_ns) for name, r in frame.readings.items()}
    missing = ", ".join(sorted(frame.missing))
    level, text = (Level.WARN, f"missing: {missing}") if missing else (Level.OK, "complete")
    readings = status(types, "readings", level, text, ages)
    head = header(types, perception.stamp_ns, perception.frame_id)
    return types.new("diagnostic_msgs/msg/DiagnosticArray", header=head, status=[timing, readings])


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
