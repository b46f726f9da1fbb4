"""The policies of ROS 2's message_filters, for those who want sets as it makes them. No ROS.

Both hand out complete sets alone: one silent sensor and there is none. Named differences from
message_filters: no lock is held while sets are used, and when the receiver's clock goes back (a bag
that starts again) what is pending is dropped, where message_filters would hold it for ever against
everything older.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Sequence
from itertools import count
from typing import Any, Literal

from multimodal_perception.geometry.stamps import NANOSECONDS
from multimodal_perception.rig import Sensor
from multimodal_perception.synchronization.sensor_queue import SensorStatistics, silence_s
from multimodal_perception.synchronization.synchronizer import (
    LINE,
    MAX_SKEW_NS,
    ReadingSet,
    Synchronizer,
)

Policy = Literal["deadline", "approximate", "exact"]
# Readings kept of each sensor, as message_filters' queue_size.
QUEUE_SIZE = 10


class _Stock:
    """The newest readings of one sensor, by stamp."""

    def __init__(self, sensor: Sensor) -> None:
        self.offset_ns = round(sensor.time_offset_s * NANOSECONDS)
        silence_ns = round(silence_s(sensor.rate_hz) * NANOSECONDS)
        self.statistics = SensorStatistics(silence_ns=silence_ns)
        self.stamps: list[int] = []
        self.items: dict[int, tuple[int, Any]] = {}  # order of arrival, reading

    def take(self, stamp_ns: int) -> tuple[int, Any]:
        del self.stamps[bisect_left(self.stamps, stamp_ns)]
        self.statistics.used += 1
        return stamp_ns, self.items.pop(stamp_ns)[1]

    def drop(self, stamp_ns: int, reason: str) -> None:
        del self.stamps[bisect_left(self.stamps, stamp_ns)], self.items[stamp_ns]
        self.statistics.drops[reason] += 1


class _Matcher:
    """What both policies share: the stocks, and the interface of Synchronizer."""

    def __init__(self, sensors: Iterable[Sensor], queue_size: int = QUEUE_SIZE) -> None:
        """Sensors of a rig; of each the `queue_size` readings with the newest stamps are kept.

        Raises ValueError without sensors or for a size below one.
        """
        line = sorted(sensors, key=lambda s: LINE.index(s.modality))
        if not line or queue_size < 1:
            raise ValueError("no sensors to synchronise" if not line else "queue_size is below 1")
        self._size = queue_size
        self._stocks = {s.name: _Stock(s) for s in line}
        self._arrivals = count()
        self._now_ns = 0
        self.sets = 0
        self.incomplete = 0
        self.clock_jumps = 0

    @property
    def statistics(self) -> dict[str, SensorStatistics]:
        """What became of each sensor's readings."""
        return {name: stock.statistics for name, stock in self._stocks.items()}

    def add(self, sensor: str, stamp_ns: int, reading: Any, now_ns: int) -> list[ReadingSet]:
        """Take one reading; returns the set that it completes, if any.

        A reading of a stamp that is pending already takes that one's place.

        Raises KeyError for a sensor that is not of the rig.
        """
        stock = self._stocks[sensor]
        self.advance(now_ns)
        stamp_ns -= stock.offset_ns
        stock.statistics.received += 1
        stock.statistics.observe(stamp_ns, now_ns)
        if stamp_ns in stock.items:
            stock.statistics.drops["duplicate"] += 1
            stock.items[stamp_ns] = stock.items[stamp_ns][0], reading
        else:
            insort(stock.stamps, stamp_ns)
            stock.items[stamp_ns] = next(self._arrivals), reading
            if len(stock.stamps) > self._size:
                stock.drop(stock.stamps[0], "overflow")
        if stamp_ns not in stock.items:
            return []
        stamps = self._match(sensor, stamp_ns)
        if stamps is None:
            return []
        self.sets += 1
        readings = {n: s.take(t) for (n, s), t in zip(self._stocks.items(), stamps, strict=True)}
        return [ReadingSet(stamps[0], readings, frozenset())]

    def advance(self, now_ns: int) -> list[ReadingSet]:
        """Let time pass, which closes no set; a clock that went back empties the stocks."""
        if now_ns < self._now_ns - MAX_SKEW_NS:
            self.clock_jumps += 1
            for stock in self._stocks.values():
                stock.statistics.restart()
                for stamp_ns in list(stock.stamps):
                    stock.drop(stamp_ns, "clock_jump")
        self._now_ns = now_ns
        return []

    def next_deadline_ns(self) -> None:
        """Nothing here has a deadline."""

    def flush(self, now_ns: int) -> list[ReadingSet]:
        """Nothing: what is pending is not complete."""
        return []

    def pending(self) -> dict[str, int]:
        """How many readings of each sensor wait for their set."""
        return {name: len(stock.stamps) for name, stock in self._stocks.items()}

    def _match(self, sensor: str, stamp_ns: int) -> Sequence[int] | None:
        """A stamp of each sensor that go with the newest reading, or None."""
        raise NotImplementedError


class ExactMatcher(_Matcher):
    """Sets of readings with the same stamp: message_filters' TimeSynchronizer."""

    def _match(self, sensor: str, stamp_ns: int) -> Sequence[int] | None:
        for stock in self._stocks.values():
            if stamp_ns not in stock.items:
                return None
        return [stamp_ns] * len(self._stocks)


class ApproximateMatcher(_Matcher):
    """Sets of readings less than a slop apart: message_filters' ApproximateTimeSynchronizer (Python).

    Of all sets with the newest reading that fit, it is the first in the order in which
    message_filters tries them: sensors in line, each one's readings by distance from the newest. The
    search here never tries a combination that cannot be completed, so its cost does not explode
    with the number of sensors.
    """

    def __init__(
        self, sensors: Iterable[Sensor], slop_s: float, queue_size: int = QUEUE_SIZE
    ) -> None:
        """slop_s: least distance, seconds, that the first and last stamp of a set must not reach.

        Raises ValueError without sensors, for a size below one or a slop below zero.
        """
        super().__init__(sensors, queue_size)
        if not slop_s >= 0:
            raise ValueError("slop_s is below 0")
        self._slop_ns = int(slop_s * NANOSECONDS)

    def _match(self, sensor: str, stamp_ns: int) -> Sequence[int] | None:
        slop_ns = self._slop_ns
        near: list[list[int]] = []
        for name, stock in self._stocks.items():
            if name == sensor:
                near.append([stamp_ns])
                continue
            stamps = stock.stamps
            first = bisect_left(stamps, stamp_ns - slop_ns)
            last = bisect_right(stamps, stamp_ns + slop_ns, first)
            if first == last:
                return None
            near.append(stamps[first:last])
        ranked = [
            _by_distance(stock, stamps, stamp_ns) if len(stamps) > 1 else stamps
            for stock, stamps in zip(self._stocks.values(), near, strict=True)
        ]
        nearest = [stamps[0] for stamps in ranked]
        if max(nearest) - min(nearest) < slop_ns:
            return nearest
        return self._search(ranked, near, stamp_ns)

    def _search(
        self, ranked: list[list[int]], near: list[list[int]], stamp_ns: int
    ) -> list[int] | None:
        """The first combination of ranked stamps that fits; near holds the same by rising stamp."""
        low = high = stamp_ns
        chosen: list[int] = []
        for at, stamps in enumerate(ranked):
            for candidate in stamps:
                least, most = min(low, candidate), max(high, candidate)
                if self._completes(least, most, near[at + 1 :]):
                    low, high = least, most
                    chosen.append(candidate)
                    break
            else:
                return None
        return chosen

    def _completes(self, low: int, high: int, others: list[list[int]]) -> bool:
        """Whether stamps from low to high fit together with one of each of the others."""
        begins = {low, *(t for stamps in others for t in stamps if high - self._slop_ns < t < low)}
        if high - low >= self._slop_ns:
            return False
        for begin in begins:
            end = begin + self._slop_ns
            for stamps in others:
                at = bisect_left(stamps, begin)
                if at == len(stamps) or stamps[at] >= end:
                    break
            else:
                return True
        return False


def _by_distance(stock: _Stock, stamps: list[int], stamp_ns: int) -> list[int]:
    """Nearest to a stamp first; of two as near, the one that came first."""
    return sorted(stamps, key=lambda t: (abs(t - stamp_ns), stock.items[t][0]))


AnySynchronizer = Synchronizer | ExactMatcher | ApproximateMatcher


def make_synchronizer(
    sensors: Iterable[Sensor],
    policy: Policy = "deadline",
    deadline_s: float = 0.05,
    frame_rate_hz: float | None = None,
) -> AnySynchronizer:
    """The synchronizer of a policy; for "approximate" the largest tolerance of a sensor is the slop.

    Raises ValueError as the policies do, and for a policy that is none.
    """
    sensors = list(sensors)
    if policy == "deadline":
        return Synchronizer(sensors, deadline_s, frame_rate_hz)
    if policy == "exact":
        return ExactMatcher(sensors)
    if policy == "approximate":
        return ApproximateMatcher(sensors, max((s.tolerance_s for s in sensors), default=0.0))
    raise ValueError(f"policy {policy!r}; allowed: deadline, approximate, exact")
