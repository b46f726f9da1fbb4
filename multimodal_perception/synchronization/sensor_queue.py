"""Queue of one sensor's pending readings, with statistics of its rate, clock and drops. No ROS."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from multimodal_perception.geometry.stamps import NANOSECONDS_PER_SECOND
from multimodal_perception.rig import Sensor
from multimodal_perception.synchronization.sensor_clocks import SensorClock

# If more than half of the sensors that publish are missing in this many sets in a row, the sensor that
# defines the reference times is excluded from that, unless it is ahead of them by less than MIN_LEAD_NS.
MISSED_SETS = 3
MIN_LEAD_NS = NANOSECONDS_PER_SECOND // 20
# Weight of the newest reading in the exponential averages.
SMOOTHING = 0.1
# Clock drift is the slope through the maximum offset in each of DRIFT_WINDOWS time windows.
DRIFT_WINDOW_NS = 2 * NANOSECONDS_PER_SECOND
DRIFT_WINDOWS = 30
# A drift is reported if the slopes of both halves of the windows confirm it; each half has at least this
# many windows. CONFIDENCE_Z is the quantile of the normal distribution for a two-sided 95 % interval.
MIN_HALF_WINDOWS = 5
CONFIDENCE_Z = 1.96


class ClockDrift:
    """Estimates the drift of a sensor's clock relative to the receiver's clock.

    The latency varies but has a constant minimum, so each time window keeps only the offset (stamp
    minus arrival) of its reading with the lowest latency. Memory and cost are constant.
    """

    __slots__ = ("_best_ns", "_ends_ns", "_points")

    def __init__(self) -> None:
        self._points: deque[tuple[float, float]] = deque(maxlen=DRIFT_WINDOWS)
        self.clear()

    def clear(self) -> None:
        """Remove all observations, for example after a jump of a clock."""
        self._points.clear()
        self._best_ns: int | None = None
        self._ends_ns = 0

    def observe(self, offset_ns: int, now_ns: int) -> None:
        """Add one observation: stamp minus arrival time of a reading."""
        if self._best_ns is None:
            self._best_ns, self._ends_ns = offset_ns, now_ns + DRIFT_WINDOW_NS
        elif now_ns >= self._ends_ns:
            self._points.append(
                (self._ends_ns / NANOSECONDS_PER_SECOND, self._best_ns / NANOSECONDS_PER_SECOND)
            )
            self._best_ns, self._ends_ns = offset_ns, now_ns + DRIFT_WINDOW_NS
        elif offset_ns > self._best_ns:
            self._best_ns = offset_ns

    def seconds_per_second(self) -> float | None:
        """Return the drift: seconds that the sensor's clock gains per second. None if unknown yet.

        It is the median of the slopes between all pairs of windows (Theil 1950), and 0 unless the
        confidence intervals (Sen 1968) of both halves of the windows exclude 0 on the same side: the
        latency of a busy computer also changes the offsets, but not steadily.
        """
        points = list(self._points)
        half = len(points) // 2
        if half < MIN_HALF_WINDOWS:
            return None
        first, second = (_slope_interval(p) for p in (points[:half], points[half:]))
        if not (min(first[0], second[0]) > 0 or max(first[1], second[1]) < 0):
            return 0.0
        slopes = _slopes(points)
        return slopes[len(slopes) // 2]


def _slopes(points: list[tuple[float, float]]) -> list[float]:
    """Return the slopes between all pairs of points with different times, sorted."""
    return sorted(
        (b[1] - a[1]) / (b[0] - a[0])
        for i, a in enumerate(points)
        for b in points[i + 1 :]
        if b[0] > a[0]
    )


def _slope_interval(points: list[tuple[float, float]]) -> tuple[float, float]:
    """Return the 95 % confidence interval of the slope (Sen 1968, equation 3.10, from Kendall's tau)."""
    slopes, n = _slopes(points), len(points)
    half_width = CONFIDENCE_Z * math.sqrt(n * (n - 1) * (2 * n + 5) / 18.0) / 2.0
    low = max(int(len(slopes) / 2.0 - half_width), 0)
    high = min(math.ceil(len(slopes) / 2.0 + half_width), len(slopes) - 1)
    return slopes[low], slopes[high]


@dataclass(slots=True)
class SensorStatistics:
    """Statistics of one sensor's readings.

    received, used: numbers of readings. drops: numbers of dropped readings by reason: late, duplicate,
    superseded (another reading matched better), overflow, stamp_ahead, stamp_behind, clock_jump.
    max_lateness_s: maximum lateness of readings dropped as late. offset_s: average of stamp minus
    arrival time. interval_s: average interval between stamps. jitter_s: average absolute deviation from
    interval_s. clock: see SensorClock; None for statistics without a sensor.
    """

    received: int = 0
    used: int = 0
    drops: Counter[str] = field(default_factory=Counter)
    max_lateness_s: float = 0.0
    last_arrival_ns: int | None = None
    last_stamp_ns: int | None = None
    offset_s: float = 0.0
    interval_s: float = 0.0
    jitter_s: float = 0.0
    clock: SensorClock | None = None
    drift: ClockDrift = field(default_factory=ClockDrift)

    @property
    def clock_drift(self) -> float | None:
        """Seconds that the sensor's clock gains per second, or None if unknown yet."""
        return self.drift.seconds_per_second()

    def observe(self, stamp_ns: int, now_ns: int) -> None:
        """Update the averages with an accepted reading."""
        offset_ns = stamp_ns - now_ns
        last_ns = self.last_stamp_ns
        self.drift.observe(offset_ns, now_ns)
        self.last_arrival_ns = now_ns
        if last_ns is None:
            self.offset_s = offset_ns / NANOSECONDS_PER_SECOND
            self.last_stamp_ns = stamp_ns
            return
        self.offset_s += SMOOTHING * (offset_ns / NANOSECONDS_PER_SECOND - self.offset_s)
        interval_ns = stamp_ns - last_ns
        if interval_ns <= 0:
            return
        self.last_stamp_ns = stamp_ns
        if self.clock is not None and interval_ns > self.clock.silence_ns:
            return  # an outage is not part of the rate
        interval = interval_ns / NANOSECONDS_PER_SECOND
        if self.interval_s == 0.0:
            self.interval_s = interval
        deviation = interval - self.interval_s
        self.interval_s += SMOOTHING * deviation
        self.jitter_s += SMOOTHING * (abs(deviation) - self.jitter_s)

    def restart(self) -> None:
        """Reset the clock estimates, for example after a jump of a clock; the counts are kept."""
        self.last_arrival_ns = self.last_stamp_ns = None
        self.drift.clear()


class ReadingQueue:
    """Pending readings of one sensor, sorted by stamp; at most max_size."""

    __slots__ = (
        "clock",
        "items",
        "last_used",
        "max_size",
        "missed_sets",
        "name",
        "offset_ns",
        "rank",
        "reuse_ns",
        "slack_ns",
        "stamps",
        "statistics",
        "tolerance_ns",
    )

    def __init__(self, sensor: Sensor, frame_rate_hz: float) -> None:
        self.name = sensor.name
        self.offset_ns = round(sensor.time_offset_s * NANOSECONDS_PER_SECOND)
        self.tolerance_ns = round(sensor.tolerance_s * NANOSECONDS_PER_SECOND)
        self.reuse_ns = round(sensor.reuse_s * NANOSECONDS_PER_SECOND)
        self.clock = SensorClock(sensor)
        self.max_size = min(max(8, math.ceil(3 * sensor.rate_hz / frame_rate_hz)), 1000)
        self.stamps: list[int] = []
        self.items: list[Any] = []
        self.last_used: tuple[int, Any] | None = None
        self.slack_ns = self.clock.period_ns // 2  # how early a reading may define a reference time
        self.rank = 0  # position in the order of the sensors that define reference times
        self.missed_sets = 0  # number of sets without a reading since the last one with one
        self.statistics = SensorStatistics(clock=self.clock)

    def put(self, stamp_ns: int, item: Any) -> None:
        """Add a reading whose stamp is not pending; if the queue is full, one reading is dropped."""
        stamps, items = self.stamps, self.items
        if not stamps or stamp_ns > stamps[-1]:
            if len(stamps) >= self.max_size:
                # A sensor faster than its nominal rate is thinned out, so that the queue still covers
                # the time back to a LiDAR sweep, which arrives one period after its stamp.
                faster_than_nominal = 2 * (stamp_ns - stamps[-1]) < self.clock.nominal_ns
                dropped = -1 if faster_than_nominal else 0
                del stamps[dropped], items[dropped]
                self.statistics.drops["overflow"] += 1
            stamps.append(stamp_ns)
            items.append(item)
            return
        at = bisect_left(stamps, stamp_ns)
        stamps.insert(at, stamp_ns)
        items.insert(at, item)
        if len(stamps) > self.max_size:
            del stamps[0], items[0]
            self.statistics.drops["overflow"] += 1

    def contains(self, stamp_ns: int) -> bool:
        """Return whether a reading with this stamp is pending or was used last."""
        at = bisect_left(self.stamps, stamp_ns)
        if at < len(self.stamps) and self.stamps[at] == stamp_ns:
            return True
        return self.last_used is not None and self.last_used[0] == stamp_ns

    def has_best_reading(self, stamp_ns: int) -> bool:
        """Return whether no later reading can match a stamp better than the readings in the queue.

        Also true if the last used reading may be used again for this stamp.
        """
        newest_ns = self.statistics.last_stamp_ns
        if newest_ns is None:
            return False
        half_period_ns = self.clock.period_ns // 2
        if self.stamps:
            gap = stamp_ns - self.stamps[-1]
            if gap <= 0 or (gap <= half_period_ns and gap <= self.tolerance_ns):
                return True
        # The next reading of a slow sensor may be outside the tolerance.
        next_ns = newest_ns + half_period_ns + half_period_ns // 2
        return next_ns > stamp_ns + self.tolerance_ns or self.can_reuse(stamp_ns)

    def can_reuse(self, stamp_ns: int) -> bool:
        """Return whether the last used reading may be used again for this stamp."""
        last = self.last_used
        return last is not None and self.reuse_ns > 0 and abs(stamp_ns - last[0]) <= self.reuse_ns

    def take(self, stamp_ns: int, horizon_ns: int) -> tuple[int, Any] | None:
        """Remove and return (stamp, reading) nearest to a stamp, or None if none is within tolerance.

        Older readings are dropped, as are readings before horizon_ns, which no later set can use.
        """
        stamps = self.stamps
        if not stamps:
            return self.last_used if self.can_reuse(stamp_ns) else None
        at = bisect_left(stamps, stamp_ns)
        if at == len(stamps) or (at and stamp_ns - stamps[at - 1] <= stamps[at] - stamp_ns):
            at -= 1
        nearest = stamps[at]
        if abs(nearest - stamp_ns) > self.tolerance_ns:
            self.drop_oldest(bisect_left(stamps, horizon_ns), "superseded")
            return self.last_used if self.can_reuse(stamp_ns) else None
        self.last_used = result = (nearest, self.items[at])
        self.statistics.used += 1
        if at:
            self.statistics.drops["superseded"] += at
        del stamps[: at + 1], self.items[: at + 1]
        return result

    def drop_oldest(self, count: int, reason: str) -> None:
        """Drop the `count` oldest readings and count them with a reason."""
        if count:
            self.statistics.drops[reason] += count
            del self.stamps[:count], self.items[:count]

    def remove_after(self, stamp_ns: int) -> None:
        """Drop pending readings with later stamps as stamp_ahead; clear the last used one if later."""
        at = bisect_right(self.stamps, stamp_ns)
        if at < len(self.stamps):
            self.statistics.drops["stamp_ahead"] += len(self.stamps) - at
            del self.stamps[at:], self.items[at:]
        if self.last_used is not None and self.last_used[0] > stamp_ns:
            self.last_used = None
        newest_ns = self.statistics.last_stamp_ns
        if newest_ns is not None and newest_ns > stamp_ns:
            self.statistics.last_stamp_ns = self.stamps[-1] if self.stamps else None

    def restart(self) -> None:
        """Drop all pending readings because a clock jumped."""
        self.drop_oldest(len(self.stamps), "clock_jump")
        self.last_used = None
        self.missed_sets = 0
        self.statistics.restart()


def lead_over_missing(
    reference: ReadingQueue, queues: Iterable[ReadingQueue], now_ns: int, period_ns: int
) -> int | None:
    """Return by how much a sensor is ahead of the sensors that miss the sets, if they are the majority.

    The smallest lead is returned, or None. Counted are sensors that publish, at least at 2/3 of the rate
    of the sets, and whose stamps may define reference times. period_ns: period of the sets.
    """
    frequent = [
        q
        for q in queues
        if q.clock.may_define_frame_time
        and now_ns - q.clock.last_message_ns <= q.clock.silence_ns
        and 2 * q.clock.period_ns <= 3 * period_ns
    ]
    offset_ns = reference.clock.offset_ns()
    missing = (q for q in frequent if q.missed_sets >= MISSED_SETS)
    leads_ns = [lead for q in missing if (lead := offset_ns - q.clock.offset_ns()) > MIN_LEAD_NS]
    return min(leads_ns) if 2 * len(leads_ns) > len(frequent) else None
