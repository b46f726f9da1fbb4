"""Readings of many sensors to sets of one moment, on time whatever fails. No ROS, no clock of its own.

A set belongs to a reference time: the stamp of the first sensor in line (LiDARs, then cameras, thermal
cameras, ultrasonics) that is alive. It closes as soon as every living sensor has the reading that fits
best, or at its deadline with what has come. The caller says what time it is, so a recording gives the
same sets at any speed.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from multimodal_perception.frame import NANOSECONDS, Modality
from multimodal_perception.rig import Sensor

# Share of the frame period that must have passed since the last reference time.
LEAST_PERIOD = 0.7
# A sensor that is silent for this many of its periods, and at least so long, is not waited for.
SILENT_PERIODS = 3.0
SILENT_S = 0.5
# At the start every sensor is waited for this long.
START_S = 1.0
# Stamps further from the other sensors' than this are wrong, unless most sensors agree with them.
MAX_SKEW_S = 1.0
LINE = (Modality.LIDAR, Modality.CAMERA, Modality.INFRARED, Modality.ULTRASONIC)


@dataclass(frozen=True)
class ReadingSet:
    """Readings of one moment.

    stamp_ns: the reference time. readings: by sensor, (corrected stamp, what was added).
    missing: sensors without a reading. complete: none is missing.
    """

    stamp_ns: int
    readings: Mapping[str, tuple[int, Any]]
    missing: frozenset[str]

    @property
    def complete(self) -> bool:
        """Whether every sensor gave a reading."""
        return not self.missing


@dataclass
class SensorStatistics:
    """What became of one sensor's readings.

    drops: by reason: late, duplicate, superseded (a better one was used), overflow, stamp_ahead,
    stamp_behind, clock_jump. worst_lateness_s: of the late ones. offset_s: stamp minus the clock at
    arrival, smoothed; interval_s and jitter_s: mean distance between stamps and its deviation.
    """

    received: int = 0
    used: int = 0
    drops: Counter[str] = field(default_factory=Counter)
    worst_lateness_s: float = 0.0
    last_arrival_ns: int | None = None
    last_stamp_ns: int | None = None
    offset_s: float = 0.0
    interval_s: float = 0.0
    jitter_s: float = 0.0

    def observe(self, stamp_ns: int, now_ns: int) -> None:
        """Update the running figures with an accepted reading."""
        offset = (stamp_ns - now_ns) / NANOSECONDS
        if self.last_stamp_ns is None:
            self.offset_s = offset
        else:
            self.offset_s += 0.1 * (offset - self.offset_s)
            interval = (stamp_ns - self.last_stamp_ns) / NANOSECONDS
            if interval > 0:
                if self.interval_s == 0.0:
                    self.interval_s = interval
                deviation = abs(interval - self.interval_s)
                self.interval_s += 0.1 * (interval - self.interval_s)
                self.jitter_s += 0.1 * (deviation - self.jitter_s)
        self.last_arrival_ns = now_ns
        self.last_stamp_ns = max(stamp_ns, self.last_stamp_ns or stamp_ns)


class _Queue:
    """One sensor's readings that no set has taken yet, by rising stamp."""

    def __init__(self, sensor: Sensor, frame_rate_hz: float) -> None:
        self.name = sensor.name
        self.offset_ns = round(sensor.time_offset_s * NANOSECONDS)
        self.tolerance_ns = round(sensor.tolerance_s * NANOSECONDS)
        self.reuse_ns = round(sensor.reuse_s * NANOSECONDS)
        self.half_period_ns = round(0.5 * NANOSECONDS / sensor.rate_hz)
        self.silence_ns = round(max(SILENT_PERIODS / sensor.rate_hz, SILENT_S) * NANOSECONDS)
        self.most = min(max(8, math.ceil(3 * sensor.rate_hz / frame_rate_hz)), 1000)
        self.stamps: list[int] = []
        self.items: list[Any] = []
        self.last_used: tuple[int, Any] | None = None
        self.clock_ns: int | None = None  # stamp minus arrival, of the last reading
        self.statistics = SensorStatistics()

    def alive(self, now_ns: int) -> bool:
        last = self.statistics.last_arrival_ns
        return last is not None and now_ns - last <= self.silence_ns

    def nearest(self, stamp_ns: int) -> int | None:
        """Index of the reading nearest to a stamp and within tolerance."""
        at = bisect_left(self.stamps, stamp_ns)
        around = [i for i in (at - 1, at) if 0 <= i < len(self.stamps)]
        best = min(around, key=lambda i: abs(self.stamps[i] - stamp_ns), default=None)
        if best is None or abs(self.stamps[best] - stamp_ns) > self.tolerance_ns:
            return None
        return best

    def settled(self, stamp_ns: int) -> bool:
        """Whether no later reading can fit a stamp better than those here."""
        if self.stamps and self.stamps[-1] >= stamp_ns:
            return True
        best = self.nearest(stamp_ns)
        return best is not None and stamp_ns - self.stamps[best] <= self.half_period_ns

    def drop_before(self, index: int) -> None:
        if index <= 0:
            return
        self.statistics.drops["superseded"] += index
        del self.stamps[:index], self.items[:index]

    def clear(self, reason: str) -> None:
        if self.stamps:
            self.statistics.drops[reason] += len(self.stamps)
        self.stamps, self.items = [], []


class Synchronizer:
    """Collects readings and hands out ReadingSets; one thread at a time.

    Cost a message: logarithmic in the pending readings of its sensor, and a look at each sensor when a
    set may close. Memory is bounded by each sensor's rate.
    """

    def __init__(
        self,
        sensors: Iterable[Sensor],
        deadline_s: float = 0.05,
        frame_rate_hz: float | None = None,
    ) -> None:
        """Sensors of a rig; deadline_s after its first reading came a set closes at the latest.

        frame_rate_hz: defaults to the rate of the first sensor in line.

        Raises ValueError without sensors or for a deadline or rate that is not positive.
        """
        line = sorted(sensors, key=lambda s: LINE.index(s.modality))
        if not line:
            raise ValueError("no sensors to synchronise")
        rate = line[0].rate_hz if frame_rate_hz is None else frame_rate_hz
        if not (deadline_s > 0 and rate > 0):
            raise ValueError("deadline and frame rate must be positive")
        self._deadline_ns = round(deadline_s * NANOSECONDS)
        self._period_ns = round(NANOSECONDS / rate)
        self._queues = {s.name: _Queue(s, rate) for s in line}
        self._line = list(self._queues.values())
        self._start_ns: int | None = None
        self._last_ns: int | None = None
        self._closed_ns = 0
        self._closes_ns: int | None = None
        self._clock_ns: int | None = None  # stamps minus arrivals, most sensors' opinion
        self.sets = 0
        self.incomplete = 0
        self.clock_jumps = 0

    @property
    def statistics(self) -> dict[str, SensorStatistics]:
        """What became of each sensor's readings."""
        return {name: queue.statistics for name, queue in self._queues.items()}

    def add(self, sensor: str, stamp_ns: int, reading: Any, now_ns: int) -> list[ReadingSet]:
        """Take one reading; returns the sets that it or the time closes, oldest first.

        Raises KeyError for a sensor that is not of the rig.
        """
        queue = self._queues[sensor]
        if self._start_ns is None:
            self._start_ns = now_ns
        sets = self.advance(now_ns)
        stamp_ns -= queue.offset_ns
        queue.statistics.received += 1
        reason = self._refusal(queue, stamp_ns, now_ns)
        if reason is not None:
            queue.statistics.drops[reason] += 1
            return sets
        queue.statistics.observe(stamp_ns, now_ns)
        at = bisect_left(queue.stamps, stamp_ns)
        queue.stamps.insert(at, stamp_ns)
        queue.items.insert(at, reading)
        if len(queue.stamps) > queue.most:
            queue.statistics.drops["overflow"] += 1
            del queue.stamps[0], queue.items[0]
        if self._due(stamp_ns):
            self._open(queue, now_ns)
        while self._closes_ns is not None and self._may_close(now_ns):
            sets += self._close(now_ns)
        return sets

    def advance(self, now_ns: int) -> list[ReadingSet]:
        """Let time pass; returns the sets whose deadline has come."""
        sets: list[ReadingSet] = []
        while self._closes_ns is not None and now_ns >= self._closes_ns:
            sets += self._close(now_ns)
        return sets

    def next_deadline_ns(self) -> int | None:
        """When advance should be called next, or None while nothing waits."""
        return self._closes_ns

    def flush(self, now_ns: int) -> list[ReadingSet]:
        """Close what is pending, as at the end of a recording."""
        sets: list[ReadingSet] = []
        while self._closes_ns is not None:
            sets += self._close(now_ns)
        return sets

    def _open(self, queue: _Queue, now_ns: int) -> None:
        """Set the deadline of the next set, which a reading of this sensor has begun."""
        closes_ns = now_ns + self._deadline_ns
        leader = self._leader(now_ns)
        if leader is not None and leader is not queue:
            # A LiDAR's sweep arrives later after its stamp than an image: it has until its own turn.
            last_ns = leader.statistics.last_arrival_ns
            last_ns = (self._start_ns or now_ns) if last_ns is None else last_ns
            closes_ns = max(closes_ns, last_ns + 2 * leader.half_period_ns + self._deadline_ns)
        if self._closes_ns is None or closes_ns < self._closes_ns:
            self._closes_ns = closes_ns

    def _leader(self, now_ns: int) -> _Queue | None:
        return next((q for q in self._line if self._awaited(q, now_ns)), None)

    def _awaited(self, queue: _Queue, now_ns: int) -> bool:
        """Whether a sensor may be expected to speak: it has of late, or all have just begun."""
        if queue.statistics.last_arrival_ns is None:
            return self._start_ns is None or now_ns - self._start_ns <= START_S * NANOSECONDS
        return queue.alive(now_ns)

    def _due(self, stamp_ns: int) -> bool:
        return self._last_ns is None or stamp_ns - self._last_ns >= LEAST_PERIOD * self._period_ns

    def _refusal(self, queue: _Queue, stamp_ns: int, now_ns: int) -> str | None:
        clock_ns = queue.clock_ns = stamp_ns - now_ns
        if self._clock_ns is None or abs(clock_ns - self._clock_ns) > MAX_SKEW_S * NANOSECONDS:
            self._agree_on_clock(now_ns)
            assert self._clock_ns is not None
            if abs(clock_ns - self._clock_ns) > MAX_SKEW_S * NANOSECONDS:
                return "stamp_ahead" if clock_ns > self._clock_ns else "stamp_behind"
        at = bisect_left(queue.stamps, stamp_ns)
        if at < len(queue.stamps) and queue.stamps[at] == stamp_ns:
            return "duplicate"
        if queue.last_used is not None:
            if stamp_ns == queue.last_used[0]:
                return "duplicate"
            if stamp_ns < queue.last_used[0]:
                return self._late(queue, queue.last_used[0] - stamp_ns, now_ns)
        if self._last_ns is not None and stamp_ns <= self._last_ns:
            # Its set has gone; it may still fit the next one.
            next_ns = self._last_ns + self._period_ns
            if max(next_ns - stamp_ns, 0) > queue.tolerance_ns:
                return self._late(queue, self._last_ns - stamp_ns, now_ns)
        return None

    def _late(self, queue: _Queue, lateness_ns: int, now_ns: int) -> str:
        if lateness_ns <= queue.tolerance_ns and now_ns - self._closed_ns <= self._deadline_ns:
            # It has come back: had the last set waited for it, it would have been in time.
            queue.statistics.last_arrival_ns = now_ns
        seconds = lateness_ns / NANOSECONDS
        queue.statistics.worst_lateness_s = max(queue.statistics.worst_lateness_s, seconds)
        return "late"

    def _agree_on_clock(self, now_ns: int) -> None:
        """The middle of the sensors' opinions on what their stamps are ahead of the clock."""
        heard = [q for q in self._line if q.clock_ns is not None]
        opinions = sorted(
            q.clock_ns
            for q in heard
            if q.clock_ns is not None and (q.alive(now_ns) or q.statistics.last_arrival_ns is None)
        ) or sorted(q.clock_ns for q in heard if q.clock_ns is not None)
        middle = opinions[(len(opinions) - 1) // 2]
        jumped = self._clock_ns is not None and (
            abs(middle - self._clock_ns) > MAX_SKEW_S * NANOSECONDS
        )
        self._clock_ns = middle
        if jumped:
            self.clock_jumps += 1
            self._last_ns = self._closes_ns = None
            for queue in self._line:
                queue.clear("clock_jump")
                queue.last_used = None
                queue.statistics.last_stamp_ns = None

    def _reference(self) -> int | None:
        """Stamp of the next set: the oldest due reading of the first sensor in line that has one."""
        for queue in self._line:
            for stamp_ns in queue.stamps:
                if self._due(stamp_ns):
                    return stamp_ns
        return None

    def _may_close(self, now_ns: int) -> bool:
        """Whether no living sensor is worth waiting for."""
        leader = self._leader(now_ns)
        if leader is None:
            return False
        reference_ns = next((s for s in leader.stamps if self._due(s)), None)
        if reference_ns is None:
            return False
        return all(
            queue.settled(reference_ns) or self._reusable(queue, reference_ns)
            for queue in self._line
            if self._awaited(queue, now_ns)
        )

    def _reusable(self, queue: _Queue, stamp_ns: int) -> bool:
        last = queue.last_used
        return last is not None and abs(stamp_ns - last[0]) <= queue.reuse_ns

    def _close(self, now_ns: int) -> list[ReadingSet]:
        self._closes_ns = None
        reference_ns = self._reference()
        if reference_ns is None:
            return []
        readings: dict[str, tuple[int, Any]] = {}
        for queue in self._line:
            best = queue.nearest(reference_ns)
            if best is not None:
                queue.drop_before(best)
                queue.last_used = readings[queue.name] = (queue.stamps.pop(0), queue.items.pop(0))
                queue.statistics.used += 1
            elif self._reusable(queue, reference_ns) and queue.last_used is not None:
                readings[queue.name] = queue.last_used
            # What no later set can use is let go.
            horizon_ns = reference_ns + self._period_ns - queue.tolerance_ns
            horizon_ns = min(horizon_ns, reference_ns)
            queue.drop_before(bisect_left(queue.stamps, horizon_ns))
        self._last_ns, self._closed_ns = reference_ns, now_ns
        self.sets += 1
        missing = frozenset(self._queues) - readings.keys()
        self.incomplete += bool(missing)
        waiting = next((q for q in self._line if q.stamps and self._due(q.stamps[-1])), None)
        if waiting is not None:
            self._open(waiting, now_ns)
        return [ReadingSet(reference_ns, readings, missing)]
