"""Faults of ultrasonic sensors: multipath ghosts, cross-talk and range noise, as in the simulator."""

from __future__ import annotations

import math
from dataclasses import replace

from multimodal_perception.evaluation.robustness.corruption import (
    FrameSource,
    generator,
    with_reading,
)
from multimodal_perception.frame import SensorFrame, UltrasonicReading


def add_ghost(frame: SensorFrame, sensor: str, value: float, source: FrameSource) -> SensorFrame:
    """With probability `value` a multipath echo at twice the range of the object."""
    reading = frame.ultrasonics[sensor]
    if generator(source, "ghosts", sensor).random() >= value or not math.isfinite(reading.range_m):
        return frame
    return with_reading(frame, with_range(reading, 2.0 * reading.range_m))


def add_crosstalk(
    frame: SensorFrame, sensor: str, value: float, source: FrameSource
) -> SensorFrame:
    """With probability `value` the pulse of another sensor ends the measurement too early."""
    reading = frame.ultrasonics[sensor]
    draw, fraction = generator(source, "crosstalk", sensor).random(2)
    if draw >= value:
        return frame
    others = [r.range_m for n, r in source.frame.ultrasonics.items() if n != sensor]
    nearest = min((r for r in others if math.isfinite(r)), default=reading.max_range)
    false_range = 0.5 * (nearest + reading.max_range * fraction)
    return with_reading(frame, with_range(reading, min(_known(reading), false_range)))


def add_range_noise(
    frame: SensorFrame, sensor: str, value: float, source: FrameSource
) -> SensorFrame:
    """Normally distributed range errors with a standard deviation of `value` metres."""
    reading = frame.ultrasonics[sensor]
    noise = float(generator(source, "range_noise", sensor).standard_normal())
    if not math.isfinite(reading.range_m):
        return frame
    return with_reading(frame, with_range(reading, reading.range_m + value * noise))


def with_range(reading: UltrasonicReading, range_m: float) -> UltrasonicReading:
    """The reading with another range, inf or -inf outside of the sensor's limits (REP 117)."""
    if range_m > reading.max_range:
        range_m = math.inf
    elif range_m < reading.min_range:
        range_m = -math.inf
    return replace(reading, range_m=range_m)


def _known(reading: UltrasonicReading) -> float:
    return math.inf if math.isnan(reading.range_m) else reading.range_m
