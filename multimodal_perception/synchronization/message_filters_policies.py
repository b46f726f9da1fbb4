"""Synchronisation policies of ROS 2 message_filters: exact and approximate time. No ROS imports.

Both return complete sets only: if one sensor is silent, there are no sets. Differences from
message_filters: no lock is held while sets are used; and if the receiver's clock goes back (a bag that
starts again), pending readings are dropped, whereas message_filters keeps them and rejects all older
messages.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Sequence
from itertools import count
from typing import Any, Literal

from multimodal_perception.geometry.stamps import NANOSECONDS_PER_SECOND
from multimodal_perception.rig import Sensor
from multimodal_perception.synchronization.reading_set import MODALITY_PRIORITY, ReadingSet
from multimodal_perception.synchronization.sensor_clocks import (
    MAX_LEAD_S,
    MAX_SKEW_NS,
    MajorityClock,
    SensorClock,
)
from multimodal_perception.synchronization.sensor_queue import SensorStatistics
from multimodal_perception.synchronization.synchronizer import Synchronizer

Policy = Literal["deadline", "approximate", "exact"]
# Number of readings kept per sensor, like queue_size of message_filters.
QUEUE_SIZE = 10


class _SensorBuffer:
    """The newest readings of one sensor, sorted by stamp."""

    def __init__(self, sensor: Sensor) -> None:
        self.offset_ns = round(sensor.time_offset_s * NANOSECONDS_PER_SECOND)
        self.clock = SensorClock(sensor)
        self.statistics = SensorStatistics(clock=self.clock)
        self.stamps: list[int] = []
        self.items: dict[int, tuple[int, Any]] = {}  # by stamp: (order of arrival, reading)

    def take(self, stamp_ns: int) -> tuple[int, Any]:
        del self.stamps[bisect_left(self.stamps, stamp_ns)]
        self.statistics.used += 1
        return stamp_ns, self.items.pop(stamp_ns)[1]

    def drop(self, stamp_ns: int, reason: str) -> None:
        del self.stamps[bisect_left(self.stamps, stamp_ns)], self.items[stamp_ns]
        self.statistics.drops[reason] += 1


class _MessageFiltersPolicy:
    """Base of both policies: one buffer per sensor, and the interface of Synchronizer.

    The majority's clock is only estimated, for diagnostics and for the odometry: readings with wrong
    stamps do not match others.
    """

    def __init__(
        self,
        sensors: Iterable[Sensor],
        queue_size: int = QUEUE_SIZE,
        max_lead_s: float = MAX_LEAD_S,
    ) -> None:
        """Create the buffers; each keeps the `queue_size` readings with the newest stamps.

        Raises ValueError without sensors, or if queue_size is below 1.
        """
        ordered = sorted(sensors, key=lambda s: MODALITY_PRIORITY.index(s.modality))
        if not ordered or queue_size < 1:
            raise ValueError(
                "no sensors to synchronise" if not ordered else "queue_size is below 1"
            )
        self._size = queue_size
        self._buffers = {s.name: _SensorBuffer(s) for s in ordered}
        self.clock = MajorityClock([b.clock for b in self._buffers.values()], max_lead_s)
        self._arrivals = count()
        self._now_ns = 0
        self.sets = 0
        self.incomplete = 0
        self.clock_jumps = 0
        self.time_restarts = 0

    @property
    def statistics(self) -> dict[str, SensorStatistics]:
        """Statistics of each sensor's readings."""
        return {name: buffer.statistics for name, buffer in self._buffers.items()}

    def add(self, sensor: str, stamp_ns: int, reading: Any, now_ns: int) -> list[ReadingSet]:
        """Add one reading; return the set that it completes, if any.

        A reading replaces a pending reading with the same stamp.

        Raises KeyError for a sensor that is not in the rig.
        """
        buffer = self._buffers[sensor]
        self.advance(now_ns)
        stamp_ns -= buffer.offset_ns
        buffer.statistics.received += 1
        buffer.statistics.observe(stamp_ns, now_ns)
        buffer.clock.observe(stamp_ns - now_ns, now_ns)
        if now_ns >= self.clock.next_ns:
            self.clock.estimate(now_ns)
        if stamp_ns in buffer.items:
            buffer.statistics.drops["duplicate"] += 1
            buffer.items[stamp_ns] = buffer.items[stamp_ns][0], reading
        else:
            insort(buffer.stamps, stamp_ns)
            buffer.items[stamp_ns] = next(self._arrivals), reading
            if len(buffer.stamps) > self._size:
                buffer.drop(buffer.stamps[0], "overflow")
        if stamp_ns not in buffer.items:
            return []
        stamps = self._match(sensor, stamp_ns)
        if stamps is None:
            return []
        self.sets += 1
        readings = {n: s.take(t) for (n, s), t in zip(self._buffers.items(), stamps, strict=True)}
        return [ReadingSet(stamps[0], readings, frozenset())]

    def advance(self, now_ns: int) -> list[ReadingSet]:
        """Advance the time, which closes no set. If the clock went back, the buffers are emptied."""
        if now_ns < self._now_ns - MAX_SKEW_NS:
            self.clock_jumps += 1
            self.clock.restart()
            for buffer in self._buffers.values():
                buffer.statistics.restart()
                for stamp_ns in list(buffer.stamps):
                    buffer.drop(stamp_ns, "clock_jump")
        self._now_ns = now_ns
        return []

    def next_deadline_ns(self) -> None:
        """Return None: these policies have no deadline."""

    def flush(self, now_ns: int) -> list[ReadingSet]:
        """Return no sets: pending readings do not form complete sets."""
        return []

    def pending(self) -> dict[str, int]:
        """Number of pending readings by sensor."""
        return {name: len(buffer.stamps) for name, buffer in self._buffers.items()}

    def _match(self, sensor: str, stamp_ns: int) -> Sequence[int] | None:
        """Return one stamp per sensor that match the newest reading, or None."""
        raise NotImplementedError


class ExactMatcher(_MessageFiltersPolicy):
    """Sets of readings with equal stamps, like TimeSynchronizer of message_filters."""

    def _match(self, sensor: str, stamp_ns: int) -> Sequence[int] | None:
        for buffer in self._buffers.values():
            if stamp_ns not in buffer.items:
                return None
        return [stamp_ns] * len(self._buffers)


class ApproximateMatcher(_MessageFiltersPolicy):
    """Sets of readings with similar stamps, like message_filters' ApproximateTimeSynchronizer (Python).

    The stamps of a set differ by less than the slop. Of all sets that contain the newest reading, the
    result is the first one in the search order of message_filters: sensors in their order, the
    readings of each by distance from the newest one. Combinations that cannot be completed are
    skipped, so the cost does not grow exponentially with the number of sensors.
    """

    def __init__(
        self,
        sensors: Iterable[Sensor],
        slop_s: float,
        queue_size: int = QUEUE_SIZE,
        max_lead_s: float = MAX_LEAD_S,
    ) -> None:
        """Create the policy. slop_s: upper limit (exclusive) of the stamp differences in a set, seconds.

        Raises ValueError without sensors, if queue_size is below 1 or if slop_s is below 0.
        """
        super().__init__(sensors, queue_size, max_lead_s)
        if not slop_s >= 0:
            raise ValueError("slop_s is below 0")
        self._slop_ns = int(slop_s * NANOSECONDS_PER_SECOND)

    def _match(self, sensor: str, stamp_ns: int) -> Sequence[int] | None:
        slop_ns = self._slop_ns
        near: list[list[int]] = []
        for name, buffer in self._buffers.items():
            if name == sensor:
                near.append([stamp_ns])
                continue
            stamps = buffer.stamps
            first = bisect_left(stamps, stamp_ns - slop_ns)
            last = bisect_right(stamps, stamp_ns + slop_ns, first)
            if first == last:
                return None
            near.append(stamps[first:last])
        ranked = [
            _by_distance(buffer, stamps, stamp_ns) if len(stamps) > 1 else stamps
            for buffer, stamps in zip(self._buffers.values(), near, strict=True)
        ]
        nearest = [stamps[0] for stamps in ranked]
        if max(nearest) - min(nearest) < slop_ns:
            return nearest
        return self._search(ranked, near, stamp_ns)

    def _search(
        self, ranked: list[list[int]], near: list[list[int]], stamp_ns: int
    ) -> list[int] | None:
        """Return the first matching combination of ranked stamps, or None.

        ranked, near: candidate stamps of each sensor, by distance from stamp_ns and by stamp.
        """
        low = high = stamp_ns
        chosen: list[int] = []
        for at, stamps in enumerate(ranked):
            for candidate in stamps:
                new_low, new_high = min(low, candidate), max(high, candidate)
                if self._can_complete(new_low, new_high, near[at + 1 :]):
                    low, high = new_low, new_high
                    chosen.append(candidate)
                    break
            else:
                return None
        return chosen

    def _can_complete(self, low: int, high: int, others: list[list[int]]) -> bool:
        """Return whether stamps from low to high match at least one stamp of each other sensor."""
        starts = {low, *(t for stamps in others for t in stamps if high - self._slop_ns < t < low)}
        if high - low >= self._slop_ns:
            return False
        for start in starts:
            end = start + self._slop_ns
            for stamps in others:
                at = bisect_left(stamps, start)
                if at == len(stamps) or stamps[at] >= end:
                    break
            else:
                return True
        return False


def _by_distance(buffer: _SensorBuffer, stamps: list[int], stamp_ns: int) -> list[int]:
    """Sort by distance from a stamp; equal distances by order of arrival."""
    return sorted(stamps, key=lambda t: (abs(t - stamp_ns), buffer.items[t][0]))


AnySynchronizer = Synchronizer | ExactMatcher | ApproximateMatcher


def make_synchronizer(
    sensors: Iterable[Sensor],
    policy: Policy = "deadline",
    deadline_s: float = 0.05,
    frame_rate_hz: float | None = None,
    max_lead_s: float = MAX_LEAD_S,
) -> AnySynchronizer:
    """Create the synchronizer of a policy. The slop of "approximate" is the largest sensor tolerance.

    For the other arguments see Synchronizer.

    Raises ValueError for an unknown policy and in the cases of the synchronizers.
    """
    sensors = list(sensors)
    if policy == "deadline":
        return Synchronizer(sensors, deadline_s, frame_rate_hz, max_lead_s)
    if policy == "exact":
        return ExactMatcher(sensors, max_lead_s=max_lead_s)
    if policy == "approximate":
        slop_s = max((s.tolerance_s for s in sensors), default=0.0)
        return ApproximateMatcher(sensors, slop_s, max_lead_s=max_lead_s)
    raise ValueError(f"policy {policy!r}; allowed: deadline, approximate, exact")
