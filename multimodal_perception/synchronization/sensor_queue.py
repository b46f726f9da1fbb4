"""Queue of one sensor's pending readings, with statistics of its rate, clock and drops. No ROS."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

from multimodal_perception.geometry.stamps import NANOSECONDS_PER_SECOND
from multimodal_perception.rig import Sensor

# A sensor that has not published for this many periods, and for at least this time, is not awaited.
SILENT_PERIODS = 3.0
SILENT_S = 0.5
# Weight of the newest reading in the exponential averages.
SMOOTHING = 0.1
# Clock drift is the slope through the maximum offset in each of DRIFT_WINDOWS time windows.
DRIFT_WINDOW_NS = 2 * NANOSECONDS_PER_SECOND
DRIFT_WINDOWS = 30
MIN_WINDOWS = 5


def silence_timeout_s(rate_hz: float) -> float:
    """Return the time without readings after which a sensor counts as silent, seconds."""
    return max(SILENT_PERIODS / rate_hz, SILENT_S)


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

        It is the median of the slopes between all pairs of windows (Theil 1950, Sen 1968), which is
        robust against single windows with high latency.
        """
        points = list(self._points)
        if len(points) < MIN_WINDOWS:
            return None
        slopes = sorted(
            (b[1] - a[1]) / (b[0] - a[0])
            for i, a in enumerate(points)
            for b in points[i + 1 :]
            if b[0] > a[0]
        )
        return slopes[len(slopes) // 2] if slopes else None


@dataclass(slots=True)
class SensorStatistics:
    """Statistics of one sensor's readings.

    received, used: numbers of readings. drops: numbers of dropped readings by reason: late, duplicate,
    superseded (another reading matched better), overflow, stamp_ahead, stamp_behind, clock_jump.
    max_lateness_s: maximum lateness of readings dropped as late. offset_s: average of stamp minus
    arrival time. interval_s: average interval between stamps. jitter_s: average absolute deviation from
    interval_s.
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
    silence_ns: int = NANOSECONDS_PER_SECOND
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
        if interval_ns > self.silence_ns:
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
        "clock_offset_ns",
        "half_period_ns",
        "items",
        "last_message_ns",
        "last_used",
        "max_size",
        "name",
        "offset_ns",
        "reuse_ns",
        "silence_ns",
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
        self.half_period_ns = round(0.5 * NANOSECONDS_PER_SECOND / sensor.rate_hz)
        self.silence_ns = round(silence_timeout_s(sensor.rate_hz) * NANOSECONDS_PER_SECOND)
        self.max_size = min(max(8, math.ceil(3 * sensor.rate_hz / frame_rate_hz)), 1000)
        self.stamps: list[int] = []
        self.items: list[Any] = []
        self.last_used: tuple[int, Any] | None = None
        self.slack_ns = self.half_period_ns  # how early a reading may define a reference time
        self.clock_offset_ns: int | None = (
            None  # stamp minus arrival of the last message, accepted or not
        )
        self.last_message_ns = 0  # arrival of the last message, accepted or not
        self.statistics = SensorStatistics(silence_ns=self.silence_ns)

    def put(self, stamp_ns: int, item: Any) -> None:
        """Add a reading whose stamp is not pending; if the queue is full, one reading is dropped."""
        stamps, items = self.stamps, self.items
        if not stamps or stamp_ns > stamps[-1]:
            if len(stamps) >= self.max_size:
                # A sensor faster than its nominal rate is thinned out, so that the queue still covers
                # the time back to a LiDAR sweep, which arrives one period after its stamp.
                faster_than_nominal = stamp_ns - stamps[-1] < self.half_period_ns
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
        if self.stamps:
            gap = stamp_ns - self.stamps[-1]
            if gap <= 0 or (gap <= self.half_period_ns and gap <= self.tolerance_ns):
                return True
        # The next reading of a slow sensor may be outside the tolerance.
        next_ns = newest_ns + self.half_period_ns + self.half_period_ns // 2
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

    def restart(self) -> None:
        """Drop all pending readings because a clock jumped."""
        self.drop_oldest(len(self.stamps), "clock_jump")
        self.last_used = None
        self.statistics.restart()
