"""Streams of a rig in simulated time in which the clocks of some sensors are wrong."""

from __future__ import annotations

import heapq
import random
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from multimodal_perception.frame import Modality
from multimodal_perception.rig import Sensor
from multimodal_perception.sensor_calibration import Intrinsics, RangeLimits
from multimodal_perception.synchronization.reading_set import ReadingSet
from multimodal_perception.synchronization.synchronizer import Synchronizer

MS = 1_000_000
SECOND = 1000 * MS
# Latency of each sensor in milliseconds, and its phase within the period.
LATENCIES_MS = {
    "lidar": 110,
    "camera": 25,
    "camera2": 15,
    "thermal": 20,
    "ultrasonic": 4,
    "ultrasonic2": 5,
}
PHASES_MS = {
    "lidar": 0,
    "camera": 12,
    "camera2": 30,
    "thermal": 45,
    "ultrasonic": 70,
    "ultrasonic2": 5,
}
TICK_NS = 10 * MS


def make_sensor(name: str, rate_hz: float = 10.0) -> Sensor:
    modality = Modality(name.rstrip("0123456789"))
    image = Intrinsics(40, 30, 30.0, 30.0, 19.5, 14.5)
    return Sensor(
        name,
        modality,
        f"/{name}",
        name,
        rate_hz=rate_hz,
        intrinsics=image if modality in (Modality.CAMERA, Modality.THERMAL) else None,
        limits=RangeLimits(0.05, 5.0, 0.9) if modality is Modality.ULTRASONIC else None,
    )


@dataclass
class Stream:
    """Messages of all sensors in order of arrival.

    faults: error of the clock by sensor, seconds, from fault_start_s on. gaps: sensors that publish
    nothing from gap_start_s for gap_s. base_s: added to all stamps: sensors with a common clock of their
    own. factor: how much more slowly than nominal the sensors publish.
    """

    sensors: Collection[str] = tuple(LATENCIES_MS)
    faults: Mapping[str, float] = field(default_factory=dict)
    fault_start_s: float = 0.0
    fault_end_s: float = 1e9
    gaps: Collection[str] = ()
    gap_start_s: float = 3.0
    gap_s: float = 0.0
    until_s: float = 8.0
    base_s: float = 0.0
    factor: float = 1.0
    jitter_ms: float = 2.0
    rate_hz: float = 10.0
    start_s: float = 0.0

    def __iter__(self) -> Iterator[tuple[int, str, int]]:
        rng = random.Random(1)
        return heapq.merge(*[list(self._messages(n, rng)) for n in self.sensors])

    def _messages(self, name: str, rng: random.Random) -> Iterator[tuple[int, str, int]]:
        period_s = self.factor / self.rate_hz
        events = []
        for i in range(int((self.until_s - self.start_s) / period_s)):
            at_s = self.start_s + period_s * i + PHASES_MS[name] / 1000
            if name in self.gaps and self.gap_start_s <= at_s < self.gap_start_s + self.gap_s:
                continue
            latency_ms = LATENCIES_MS[name] + rng.uniform(0, self.jitter_ms)
            has_fault = self.fault_start_s <= at_s < self.fault_end_s
            error_s = self.faults.get(name, 0.0) if has_fault else 0.0
            stamp_ns = round((100 + self.base_s + at_s + error_s) * SECOND)
            events.append(
                (100 * SECOND + round((at_s + latency_ms / 1000) * SECOND), name, stamp_ns)
            )
        yield from sorted(events)


@dataclass
class Played:
    """Sets with the time at which they were emitted, in seconds since the start of the stream."""

    synchronizer: Synchronizer
    sets: list[tuple[float, ReadingSet]] = field(default_factory=list)

    def between(self, start_s: float, end_s: float) -> list[ReadingSet]:
        return [s for at, s in self.sets if start_s <= at < end_s]

    def used(self, sensor: str, start_s: float, end_s: float) -> float:
        """Fraction of the sets in a time that contain a reading of a sensor."""
        sets = self.between(start_s, end_s)
        return sum(sensor in s.readings for s in sets) / max(len(sets), 1)


def play(stream: Stream, synchronizer: Synchronizer | None = None) -> Played:
    """Play a stream with a ticking clock."""
    if synchronizer is None:
        synchronizer = Synchronizer([make_sensor(n, stream.rate_hz) for n in stream.sensors])
    played = Played(synchronizer)
    clock_ns = None
    for now_ns, name, stamp_ns in stream:
        if clock_ns is not None:
            while clock_ns + TICK_NS < now_ns:
                clock_ns += TICK_NS
                _record(played, clock_ns, synchronizer.advance(clock_ns))
        clock_ns = now_ns
        _record(played, now_ns, synchronizer.add(name, stamp_ns, (name, stamp_ns), now_ns))
    return played


def _record(played: Played, now_ns: int, sets: list[ReadingSet]) -> None:
    played.sets += [(now_ns / SECOND - 100, s) for s in sets]
