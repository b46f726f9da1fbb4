"""Faults of LiDAR sweeps: lost points and rings, range noise, fog, rain and snow.

Lost points and beams are those of MultiCorrupt (points and beams reducing) and Robo3D (beam missing,
Kong et al. 2023). Fog and rain attenuate the pulses and add backscatter where it is stronger than the
echo of the surface (Hahner et al. 2021); a return is lost when its power falls below the sensor's limit,
as in LISA (Kilic et al. 2021).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.evaluation.robustness.corruption import (
    FrameSource,
    generator,
    with_reading,
)
from multimodal_perception.frame import LidarSweep, SensorFrame

# Range at which the sensor still detects a surface of reflectivity DARK, metres.
DETECTION_RANGE, DARK = 100.0, 0.1
# Reflectivity of surfaces with the highest intensities.
BRIGHT = 0.5
# Backscatter coefficient of fog relative to its extinction (0.046 / visibility, Rasshofer et al. 2011,
# with a visibility of 3 / extinction), length of the pulse, and range at which the beams overlap,
# metres.
BACKSCATTER, PULSE_LENGTH, ECHO_RANGE = 0.0153, 1.5, 4.0
# Backscatter has this intensity relative to the brightest surfaces, and comes from up to this range.
SCATTER_INTENSITY, SCATTER_RANGE = 0.02, 30.0
# Rings that sweeps without ring numbers are divided into, by elevation.
PSEUDO_RINGS = 64
# Snowflakes are measured up to this range, metres; further ones reflect too little.
SNOW_RANGE = 20.0


def drop_points(frame: SensorFrame, sensor: str, value: float, source: FrameSource) -> SensorFrame:
    """Without the fraction `value` of the points, at random."""
    sweep = frame.lidars[sensor]
    draws = generator(source, "point_drop", sensor).random(len(sweep.points))
    return with_reading(frame, select_points(sweep, draws >= value))


def drop_rings(frame: SensorFrame, sensor: str, value: float, source: FrameSource) -> SensorFrame:
    """Without the fraction `value` of the rings, the same ones in all sweeps."""
    sweep = frame.lidars[sensor]
    rings = ring_numbers(sweep)
    numbers = np.unique(rings)
    order = generator(source, "ring_drop", sensor, constant=True).permutation(
        int(numbers.max(initial=0)) + 1
    )
    lost = [r for r in order if r in numbers][: round(value * len(numbers))]
    return with_reading(frame, select_points(sweep, ~np.isin(rings, lost)))


def add_range_noise(
    frame: SensorFrame, sensor: str, value: float, source: FrameSource
) -> SensorFrame:
    """Normally distributed range errors with a standard deviation of `value` metres."""
    sweep = frame.lidars[sensor]
    noise = generator(source, "range_noise", sensor).standard_normal(len(sweep.points))
    ranges = _ranges(sweep)
    return with_reading(frame, _at_ranges(sweep, np.maximum(ranges + value * noise, 0.05)))


def fog(frame: SensorFrame, sensor: str, value: float, source: FrameSource) -> SensorFrame:
    """Fog with an extinction coefficient of `value` 1/m."""
    return _scatter(frame, sensor, value, generator(source, "fog", sensor))


def rain(frame: SensorFrame, sensor: str, value: float, source: FrameSource) -> SensorFrame:
    """Rain of `value` mm/h, as in the simulator's conditions."""
    return _scatter(frame, sensor, rain_extinction(value), generator(source, "rain", sensor))


def snow(frame: SensorFrame, sensor: str, value: float, source: FrameSource) -> SensorFrame:
    """Returns from snowflakes; `value`: mean number of flakes per metre of the beam.

    The distance to the first flake is distributed exponentially. Flakes are bright.
    """
    sweep = frame.lidars[sensor]
    rng = generator(source, "snow", sensor)
    ranges = _ranges(sweep)
    distance = 0.8 + rng.exponential(1.0, len(ranges)) / max(value, 1e-9)
    brightness = rng.uniform(0.1, 0.6, len(ranges)) * _brightest(sweep)
    hit = (distance < ranges) & (distance < SNOW_RANGE)
    return with_reading(frame, _with_echoes(sweep, distance, hit, brightness))


def rain_extinction(rate: float) -> float:
    """Extinction coefficient of rain in 1/m by its rate in mm/h (Goodin et al. 2019, eq. 4)."""
    return 0.0012 * float(rate) ** 0.6


def ring_numbers(sweep: LidarSweep) -> NDArray[np.integer]:
    """Ring (N,) of each point; equal steps of elevation for sweeps without ring numbers."""
    if sweep.rings is not None:
        return sweep.rings
    xyz = sweep.points[:, :3].astype(np.float64)
    elevation = np.arctan2(xyz[:, 2], np.hypot(xyz[:, 0], xyz[:, 1]))
    low, high = (elevation.min(), elevation.max()) if len(elevation) else (0.0, 0.0)
    steps = (elevation - low) / max(high - low, 1e-9) * PSEUDO_RINGS
    return np.clip(steps, 0, PSEUDO_RINGS - 1).astype(np.int64)


def select_points(sweep: LidarSweep, kept: NDArray[np.bool_]) -> LidarSweep:
    """The sweep with the points of a mask (N,)."""
    return replace(
        sweep,
        points=sweep.points[kept],
        time_offsets=None if sweep.time_offsets is None else sweep.time_offsets[kept],
        rings=None if sweep.rings is None else sweep.rings[kept],
    )


def _scatter(frame: SensorFrame, sensor: str, extinction: float, rng: Any) -> SensorFrame:
    """Attenuation and backscatter of fog or rain.

    A pulse gives the echo of the fog where that is stronger than the echo of the surface (Hahner et al.
    2021, eq. 8 and 9), both by the LiDAR equation. The echo of the fog fluctuates (exponential
    distribution) and comes from where the beams overlap, a few metres away.
    """
    sweep = frame.lidars[sensor]
    ranges, brightest = _ranges(sweep), _brightest(sweep)
    strength, unit_ranges = rng.exponential(1.0, len(ranges)), rng.exponential(1.0, len(ranges))
    attenuation = np.exp(-2.0 * extinction * ranges)
    reflectivity = BRIGHT * np.clip(sweep.points[:, 3] / brightest, 0.02, 1.0)
    surface = reflectivity / np.pi * attenuation / np.maximum(ranges, 0.1) ** 2
    backscatter = BACKSCATTER * extinction * PULSE_LENGTH
    fog_echo = backscatter * np.exp(-2.0 * extinction * ECHO_RANGE) / ECHO_RANGE**2
    distance = 1.5 + unit_ranges / (2.0 * extinction + 0.08)
    scattered = (fog_echo * strength > surface) & (distance < ranges) & (distance < SCATTER_RANGE)
    # A return that is weaker than that of a dark surface at the detection range is lost. Every clean
    # return was stronger.
    limit = DARK / np.pi / DETECTION_RANGE**2
    kept = np.maximum(surface / attenuation, limit) * attenuation >= limit
    points = sweep.points.copy()
    points[:, 3] *= attenuation
    faint = np.full(len(ranges), SCATTER_INTENSITY * brightest)
    changed = _with_echoes(replace(sweep, points=points), distance, scattered, faint)
    return with_reading(frame, select_points(changed, kept | scattered))


def _with_echoes(
    sweep: LidarSweep,
    distance: NDArray[np.float64],
    hit: NDArray[np.bool_],
    intensity: NDArray[np.float64],
) -> LidarSweep:
    """The sweep with the returns of a mask (N,) replaced by echoes at other distances."""
    moved = _at_ranges(sweep, np.where(hit, distance, _ranges(sweep)))
    points = np.where(hit[:, None], moved.points, sweep.points)
    points[hit, 3] = intensity[hit]
    return replace(sweep, points=points)


def _at_ranges(sweep: LidarSweep, ranges: NDArray[np.float64]) -> LidarSweep:
    """The sweep with its points moved along their rays."""
    points = sweep.points.copy()
    factor = ranges / np.maximum(_ranges(sweep), 1e-6)
    points[:, :3] = sweep.points[:, :3] * factor[:, None]
    return replace(sweep, points=points)


def _ranges(sweep: LidarSweep) -> NDArray[np.float64]:
    return np.linalg.norm(sweep.points[:, :3].astype(np.float64), axis=1)


def _brightest(sweep: LidarSweep) -> float:
    """Intensity of bright surfaces in the unit of the driver: the 95th percentile."""
    if not len(sweep.points):
        return 1.0
    return max(float(np.percentile(sweep.points[:, 3], 95)), 1e-6)
