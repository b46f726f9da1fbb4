"""Times at which the sensors of a simulated drive measure if each has its own rate."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from multimodal_perception.frame import Modality
from multimodal_perception.geometry.stamps import NANOSECONDS_PER_SECOND
from multimodal_perception.rig import Rig, Sensor


@dataclass(frozen=True)
class MeasurementTimes:
    """Times of the measurements of sensors with different rates, in nanoseconds since the drive's start.

    Measurement k of a sensor is at k periods minus its phase. frame_period_ns: time between frames.
    period_ns: time between measurements by sensor. phase_ns: by sensor, 0 to its period.
    """

    frame_period_ns: float
    period_ns: dict[str, float]
    phase_ns: dict[str, float]

    @classmethod
    def of_rig(cls, rig: Rig, seed: int, frame_rate_hz: float) -> MeasurementTimes:
        """Periods from the rates of a rig, and random phases, as of sensors without a common trigger.

        The first LiDAR, which defines the frames, has the phase 0. Ultrasonic sensors of equal rate have
        one phase, because one control unit triggers them.
        """
        reference = next(iter(rig.sensors_of(Modality.LIDAR)), None)
        period = {n: NANOSECONDS_PER_SECOND / s.rate_hz for n, s in rig.sensors.items()}
        phase = {n: period[n] * _phase(seed, s) for n, s in rig.sensors.items() if n != reference}
        if reference is not None:
            phase[reference] = 0.0
        return cls(NANOSECONDS_PER_SECOND / frame_rate_hz, period, phase)

    def measurement(self, sensor: str, frame_ns: int) -> tuple[int, int] | None:
        """Number and time in nanoseconds of the measurement that is nearest to a frame.

        frame_ns: time of the frame, nanoseconds since the start of the drive. Raises KeyError for
        unknown sensors.

        Returns None if that measurement is nearer to another frame: a sensor that is slower than the
        frames has a measurement in some of them only, and each measurement is in one frame.
        """
        period, phase = self.period_ns[sensor], self.phase_ns[sensor]
        nearest = round((frame_ns + phase) / period)
        candidates = [(k, round(k * period - phase)) for k in range(nearest - 1, nearest + 2)]
        number, time_ns = min(candidates, key=lambda c: abs(c[1] - frame_ns))
        is_in_frame = -self.frame_period_ns < 2 * (time_ns - frame_ns) <= self.frame_period_ns
        return (number, time_ns) if is_in_frame and number >= 0 else None


def _phase(seed: int, sensor: Sensor) -> float:
    """Phase of a sensor as a fraction of its period, 0 to 1."""
    group = "ultrasonic" if sensor.modality is Modality.ULTRASONIC else sensor.name
    return float(np.random.default_rng((53, seed, zlib.crc32(group.encode()))).uniform())
