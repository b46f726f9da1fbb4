"""Readings that belong together, the result of the synchronizers. No ROS imports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from multimodal_perception.frame import Modality
from multimodal_perception.geometry.stamps import NANOSECONDS_PER_SECOND

# Order in which sensors define the reference time.
MODALITY_PRIORITY = (Modality.LIDAR, Modality.CAMERA, Modality.THERMAL, Modality.ULTRASONIC)


@dataclass(frozen=True)
class ReadingSet:
    """Readings that belong to one reference time.

    stamp_ns: the reference time. readings: (corrected stamp, reading) by sensor. missing: sensors
    without a reading.
    """

    stamp_ns: int
    readings: Mapping[str, tuple[int, Any]]
    missing: frozenset[str]

    @property
    def complete(self) -> bool:
        """Whether every sensor has a reading."""
        return not self.missing

    @property
    def staleness_s(self) -> dict[str, float]:
        """Seconds by which each reading is older than the reference time; negative if newer."""
        return {
            n: (self.stamp_ns - r[0]) / NANOSECONDS_PER_SECOND for n, r in self.readings.items()
        }
