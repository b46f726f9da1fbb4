"""What a corruption is: one fault of one sensor in five severities, applied to a frame.

A corruption changes the reading, the calibration or the stamp of one sensor of a SensorFrame, so that it
works on recorded and on simulated data. All readings of other sensors stay the same objects. Random
numbers depend on the seed, the corruption, the sensor and (unless the fault is constant, such as dirt)
the stamp of the frame, but not on the severity: a higher severity changes the same pixels and points
more.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.frame import (
    CameraImage,
    LidarSweep,
    Modality,
    Reading,
    SensorFrame,
    ThermalImage,
    UltrasonicReading,
)

SEVERITIES = (1, 2, 3, 4, 5)


class NotApplicableError(Exception):
    """A corruption needs something that the data does not have. The message gives the reason."""


def _nothing_earlier(count: int) -> SensorFrame | None:
    return None


def _not_simulated(condition: str) -> SensorFrame | None:
    return None


@dataclass(frozen=True)
class FrameSource:
    """A clean frame, and what corruptions may need besides.

    age: number of frames since the first evaluated one of the drive, at which lasting faults begin.
    earlier: returns the frame that many frames before, None if there is none. rendered: returns the same
    moment of a simulated drive under another condition, None for recorded data.
    """

    frame: SensorFrame
    earlier: Callable[[int], SensorFrame | None] = _nothing_earlier
    rendered: Callable[[str], SensorFrame | None] = _not_simulated
    seed: int = 0
    age: int = 0


# Returns `frame` with the fault of one sensor; value: the parameter of the severity.
Fault = Callable[[SensorFrame, str, float, FrameSource], SensorFrame]


@dataclass(frozen=True)
class Corruption:
    """A fault in five severities.

    modalities: sensors that can have it. values: parameter of each severity, in `unit`. source: the
    published definition, or the model that it follows.
    """

    name: str
    modalities: tuple[Modality, ...]
    unit: str
    values: tuple[float, float, float, float, float]
    source: str
    apply: Fault

    def value(self, severity: int) -> float:
        """Parameter of a severity from 1 to 5."""
        return self.values[severity - 1]


def generator(source: FrameSource, name: str, sensor: str, constant: bool = False) -> Any:
    """The random generator of a corruption of one sensor. constant: the same in all frames."""
    words = (zlib.crc32(name.encode()), zlib.crc32(sensor.encode()))
    stamp = 0 if constant else source.frame.stamp_ns
    return np.random.default_rng((source.seed, *words, stamp % (1 << 63)))


def with_reading(frame: SensorFrame, reading: Reading) -> SensorFrame:
    """The frame with another reading of a sensor; the other readings are the same objects."""
    if isinstance(reading, LidarSweep):
        return replace(frame, lidars={**frame.lidars, reading.sensor: reading})
    if isinstance(reading, CameraImage):
        return replace(frame, cameras={**frame.cameras, reading.sensor: reading})
    if isinstance(reading, ThermalImage):
        return replace(frame, thermals={**frame.thermals, reading.sensor: reading})
    if isinstance(reading, UltrasonicReading):
        return replace(frame, ultrasonics={**frame.ultrasonics, reading.sensor: reading})
    raise TypeError(f"{type(reading).__name__} is not a reading")


def reading_modality(reading: Reading) -> Modality:
    """The modality of a reading."""
    kinds = {
        LidarSweep: Modality.LIDAR,
        CameraImage: Modality.CAMERA,
        ThermalImage: Modality.THERMAL,
        UltrasonicReading: Modality.ULTRASONIC,
    }
    return kinds[type(reading)]


def quantised(values: NDArray[np.floating], dtype: Any) -> NDArray[Any]:
    """Values rounded and limited to the range of an unsigned integer type."""
    return np.clip(np.rint(values), 0, np.iinfo(dtype).max).astype(dtype)
