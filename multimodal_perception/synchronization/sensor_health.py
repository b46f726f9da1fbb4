"""Health of each sensor, derived from its statistics, for /diagnostics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from multimodal_perception.frame import Modality
from multimodal_perception.geometry.stamps import NANOSECONDS_PER_SECOND
from multimodal_perception.perception import Level, SensorHealth
from multimodal_perception.rig import Sensor
from multimodal_perception.synchronization.sensor_clocks import SensorClock, silence_timeout_s
from multimodal_perception.synchronization.sensor_queue import SensorStatistics

# A sensor counts as unusable after MAX_UNUSABLE_STREAK readings in a row that could not be used.
MAX_UNUSABLE_STREAK = 3


@dataclass(frozen=True)
class HealthConfig:
    """Thresholds of the sensor diagnostics.

    Attributes:
        min_rate_ratio: Measured rate divided by the nominal rate below which a warning is given.
            Decrease it if a sensor's rate varies during normal operation.
        max_rate_ratio: Measured rate divided by the nominal rate above which a warning is given.
            Increase it if a sensor may publish faster than its nominal rate.
        max_stamp_lead_s: Maximum time by which a header stamp may be ahead of its arrival. Readings with
            a larger lead are dropped if most sensors agree with the receiver's clock. Increase it if the
            clocks are synchronised coarsely.
        max_clock_drift: Seconds per second by which a sensor's clock may drift from the receiver's
            clock before a warning is given. Increase it for sensors without clock synchronisation.
    """

    min_rate_ratio: float = field(default=0.7, metadata={"min": 0.0, "max": 1.0, "dynamic": True})
    max_rate_ratio: float = field(default=1.5, metadata={"min": 1.0, "max": 100.0, "dynamic": True})
    max_stamp_lead_s: float = field(default=0.05, metadata={"min": 0.0, "max": 10.0, "unit": "s"})
    max_clock_drift: float = field(
        default=200e-6, metadata={"min": 0.0, "max": 1.0, "unit": "s/s", "dynamic": True}
    )


def sensor_health(
    sensor: Sensor,
    statistics: SensorStatistics,
    drops: Mapping[str, int],
    previous_drops: Mapping[str, int],
    now_ns: int,
    config: HealthConfig | None = None,
    unusable_streak: int = 0,
) -> SensorHealth:
    """Return the health of one sensor.

    drops: counts of dropped readings by reason; previous_drops: the counts at the previous call.
    unusable_streak: number of readings dropped since the last one that was part of a frame.

    STALE if the sensor has stopped publishing; ERROR (WARN for an optional sensor) if no usable reading
    has ever arrived, if its messages arrive but are not usable any more, or the last MAX_UNUSABLE_STREAK
    readings could not be used; WARN if the rate is too low or too high, the clock is wrong, or readings
    were dropped since the previous call.
    """
    # Superseded readings are normal: cameras are often faster than the frame rate.
    new_drops = {
        reason: count - previous_drops.get(reason, 0)
        for reason, count in drops.items()
        if count > previous_drops.get(reason, 0) and reason != "superseded"
    }
    rate = 1.0 / statistics.interval_s if statistics.interval_s > 0 else 0.0
    last_ns, clock = statistics.last_arrival_ns, statistics.clock
    age = float("inf") if last_ns is None else (now_ns - last_ns) / NANOSECONDS_PER_SECOND
    unusable = Level.ERROR if sensor.required else Level.WARN
    silence_s = silence_timeout_s(1.0 / sensor.rate_hz)
    if clock is not None:
        silence_s = max(silence_s, clock.silence_ns / NANOSECONDS_PER_SECOND)
    is_silent = age > silence_s
    if clock is not None and is_silent and now_ns - clock.last_message_ns <= clock.silence_ns:
        level = unusable
        problems = [_clock_problem(clock) or "messages arrive, but none can be used"]
    elif last_ns is None:
        level = unusable
        problems = ["no usable reading" if drops else f"no message on {sensor.topic}"]
    elif unusable_streak >= MAX_UNUSABLE_STREAK and new_drops:
        level = unusable
        problems = [f"no usable reading: the last {unusable_streak} could not be used"]
    elif is_silent:
        level, problems = Level.STALE, [f"no reading for {age:.1f} s"]
    else:
        level, problems = (
            Level.WARN,
            _problems(sensor, statistics, rate, config or HealthConfig()),
        )
    if new_drops:
        dropped = ", ".join(f"{reason} {count}" for reason, count in sorted(new_drops.items()))
        problems.append(f"dropped: {dropped}")
    return SensorHealth(
        sensor.name,
        level if problems else Level.OK,
        "; ".join(problems) or "ok",
        rate_hz=rate,
        jitter_s=statistics.jitter_s,
        latency_s=-statistics.offset_s,
        age_s=age,
        drops=dict(drops),
        clock_offset_s=statistics.offset_s,
    )


def frozen_health(health: SensorHealth, sensor: Sensor, unchanged_s: float) -> SensorHealth:
    """The health of a sensor that has repeated an old measurement for `unchanged_s` seconds.

    ERROR for a required LiDAR, whose sweeps are not used while the vehicle moves, else WARN.
    """
    unusable = sensor.required and sensor.modality is Modality.LIDAR
    problem = f"frozen: the data has not changed for {unchanged_s:.1f} s"
    return replace(
        health,
        level=Level.ERROR if unusable else Level.WARN,
        message=problem if health.level is Level.OK else f"{problem}; {health.message}",
    )


def _problems(
    sensor: Sensor, statistics: SensorStatistics, rate: float, config: HealthConfig
) -> list[str]:
    """Return the problems of a sensor that publishes."""
    result = []
    if rate > 0 and not config.min_rate_ratio <= rate / sensor.rate_hz <= config.max_rate_ratio:
        result.append(f"rate is {rate:.1f} Hz, expected {sensor.rate_hz:.1f} Hz")
    clock_problem = None if statistics.clock is None else _clock_problem(statistics.clock)
    if clock_problem is not None:
        result.append(clock_problem)
    elif statistics.offset_s > config.max_stamp_lead_s:
        result.append(f"stamps are {statistics.offset_s:.3f} s later than their arrival")
    drift = statistics.clock_drift
    if drift is not None and abs(drift) > config.max_clock_drift:
        result.append(f"clock drifts by {1e6 * drift:.0f} us per second")
    return result


def _clock_problem(clock: SensorClock) -> str | None:
    """Return by how much the clock of a sensor differs from that of most sensors, or None."""
    if clock.error_ns is not None:
        error_s, side = clock.error_ns / NANOSECONDS_PER_SECOND, "ahead of"
        if error_s < 0:
            error_s, side = -error_s, "behind"
        return f"stamps are {error_s:.3f} s {side} the clock of most sensors: not used"
    if clock.max_ahead_ns is not None and not clock.may_define_frame_time:
        lead_s = -clock.lag_ns / NANOSECONDS_PER_SECOND
        return (
            f"stamps are {lead_s:.3f} s ahead of those of most sensors: the sensor is not used as time "
            "reference"
        )
    if not clock.may_define_frame_time:
        lag_s = clock.lag_ns / NANOSECONDS_PER_SECOND
        return f"stamps are {lag_s:.3f} s behind those of most sensors (clock or latency)"
    return None


def clock_statistics(statistics: SensorStatistics) -> dict[str, float]:
    """Return a sensor's clock offset, maximum lateness and, if known, drift, for diagnostics."""
    figures = {
        "clock_offset_s": statistics.offset_s,
        "max_lateness_s": statistics.max_lateness_s,
    }
    drift = statistics.clock_drift
    if drift is not None:
        figures["clock_drift_us_per_s"] = 1e6 * drift
    return figures
