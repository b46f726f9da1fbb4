"""How each sensor does, judged from its statistics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from multimodal_perception.geometry.stamps import NANOSECONDS
from multimodal_perception.perception import Level, SensorHealth
from multimodal_perception.rig import Sensor
from multimodal_perception.synchronization.sensor_queue import SensorStatistics, silence_s


@dataclass(frozen=True)
class HealthConfig:
    """When a sensor is worth a warning.

    slow, fast: shares of the expected rate below and above which a rate is wrong. ahead_s: by how
    much stamps may be ahead of their arrival; more is a clock set wrong. drift: by how much a clock
    may run wrong, seconds a second.
    """

    slow: float = field(default=0.7, metadata={"min": 0.0, "max": 1.0})
    fast: float = field(default=1.5, metadata={"min": 1.0, "max": 100.0})
    ahead_s: float = field(default=0.05, metadata={"min": 0.0, "max": 10.0, "unit": "s"})
    drift: float = field(default=200e-6, metadata={"min": 0.0, "max": 1.0})


def sensor_health(
    sensor: Sensor,
    statistics: SensorStatistics,
    drops: Mapping[str, int],
    earlier: Mapping[str, int],
    now_ns: int,
    config: HealthConfig | None = None,
) -> SensorHealth:
    """Judge one sensor. drops: counts by reason until now; earlier: those at the last judgement.

    STALE when it has fallen silent, ERROR (WARN where optional) when it never spoke or nothing of it
    can be used, WARN when it is too slow or too fast, its clock is wrong, or readings were lost since
    the last judgement.
    """
    # A reading that another was preferred to is not lost: cameras are often faster than frames.
    fresh = {
        reason: count - earlier.get(reason, 0)
        for reason, count in drops.items()
        if count > earlier.get(reason, 0) and reason != "superseded"
    }
    rate = 1.0 / statistics.interval_s if statistics.interval_s > 0 else 0.0
    last_ns = statistics.last_arrival_ns
    age = float("inf") if last_ns is None else (now_ns - last_ns) / NANOSECONDS
    if last_ns is None:
        level = Level.ERROR if sensor.required else Level.WARN
        complaints = ["no usable reading" if drops else f"silent on {sensor.topic}"]
    elif age > silence_s(sensor.rate_hz):
        level, complaints = Level.STALE, [f"silent for {age:.1f} s"]
    else:
        level, complaints = (
            Level.WARN,
            _complaints(sensor, statistics, rate, config or HealthConfig()),
        )
    if fresh:
        lost = ", ".join(f"{reason} {count}" for reason, count in sorted(fresh.items()))
        complaints.append(f"dropped: {lost}")
    return SensorHealth(
        sensor.name,
        level if complaints else Level.OK,
        "; ".join(complaints) or "ok",
        rate_hz=rate,
        jitter_s=statistics.jitter_s,
        latency_s=-statistics.offset_s,
        age_s=age,
        drops=dict(drops),
        clock_offset_s=statistics.offset_s,
    )


def _complaints(
    sensor: Sensor, statistics: SensorStatistics, rate: float, config: HealthConfig
) -> list[str]:
    """What is wrong with a sensor that speaks."""
    result = []
    if rate > 0 and not config.slow <= rate / sensor.rate_hz <= config.fast:
        result.append(f"{rate:.1f} Hz, {sensor.rate_hz:.1f} Hz expected")
    if statistics.offset_s > config.ahead_s:
        result.append(f"stamps {statistics.offset_s:.3f} s ahead of their arrival")
    drift = statistics.clock_drift
    if drift is not None and abs(drift) > config.drift:
        result.append(f"clock drifts by {1e6 * drift:.0f} us a second")
    return result


def clock_figures(statistics: SensorStatistics) -> dict[str, float]:
    """What is known of a sensor's clock: offset, worst lateness and, once known, drift."""
    figures = {
        "clock_offset_s": statistics.offset_s,
        "worst_lateness_s": statistics.worst_lateness_s,
    }
    drift = statistics.clock_drift
    if drift is not None:
        figures["clock_drift_us_per_s"] = 1e6 * drift
    return figures
