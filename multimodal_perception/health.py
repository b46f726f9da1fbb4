"""How each sensor does, judged from its statistics."""

from __future__ import annotations

from collections.abc import Mapping

from multimodal_perception.frame import NANOSECONDS, Level, SensorHealth
from multimodal_perception.rig import Sensor
from multimodal_perception.synchronizer import SILENT_PERIODS, SILENT_S, SensorStatistics

# A rate below this share of the expected one is worth a warning.
SLOW = 0.7


def sensor_health(
    sensor: Sensor,
    statistics: SensorStatistics,
    drops: Mapping[str, int],
    earlier: Mapping[str, int],
    now_ns: int,
) -> SensorHealth:
    """Judge one sensor. drops: counts by reason until now; earlier: those at the last judgement.

    STALE when it has fallen silent, ERROR (WARN where optional) when it never spoke or nothing of it
    can be used, WARN when it is slow or readings were lost since the last judgement.
    """
    problem = Level.ERROR if sensor.required else Level.WARN
    # A reading that another was preferred to is not lost: cameras are often faster than frames.
    fresh = {
        reason: count - earlier.get(reason, 0)
        for reason, count in drops.items()
        if count > earlier.get(reason, 0) and reason != "superseded"
    }
    lost = ", ".join(f"{reason} {count}" for reason, count in sorted(fresh.items()))
    rate = 1.0 / statistics.interval_s if statistics.interval_s > 0 else 0.0
    if statistics.last_arrival_ns is None:
        age = float("inf")
        level, message = problem, "no usable reading" if drops else f"silent on {sensor.topic}"
        if lost:
            message += f"; dropped: {lost}"
    else:
        age = (now_ns - statistics.last_arrival_ns) / NANOSECONDS
        if age > max(SILENT_PERIODS / sensor.rate_hz, SILENT_S):
            level, message = Level.STALE, f"silent for {age:.1f} s"
            if lost:
                message += f"; dropped: {lost}"
        elif lost:
            level, message = Level.WARN, f"dropped: {lost}"
        elif 0 < rate < SLOW * sensor.rate_hz:
            level, message = Level.WARN, f"{rate:.1f} Hz, {sensor.rate_hz:.1f} Hz expected"
        else:
            level, message = Level.OK, "ok"
    return SensorHealth(
        sensor.name,
        level,
        message,
        rate_hz=rate,
        jitter_s=statistics.jitter_s,
        latency_s=-statistics.offset_s,
        age_s=age,
        drops=dict(drops),
        clock_offset_s=statistics.offset_s,
    )
