"""One sensor's readings that no set has taken yet, and what became of the others. No ROS, no clock."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

from multimodal_perception.geometry.stamps import NANOSECONDS
from multimodal_perception.rig import Sensor

# A sensor that is silent for this many of its periods, and at least so long, is not waited for.
SILENT_PERIODS = 3.0
SILENT_S = 0.5
# Weight of the newest reading in the running figures.
SMOOTHING = 0.1
# Drift is the slope through the best offset of each of so many windows of so many seconds.
DRIFT_WINDOW_NS = 2 * NANOSECONDS
DRIFT_WINDOWS = 30
LEAST_WINDOWS = 5


def silence_s(rate_hz: float) -> float:
    """How long a sensor of a rate may be quiet before it counts as silent, seconds."""
    return max(SILENT_PERIODS / rate_hz, SILENT_S)


class ClockDrift:
    """How fast a sensor's clock runs away from the receiver's.

    Latency has a long tail but a steady floor, so each window keeps the offset of its promptest
    reading alone. Memory and cost are constant.
    """

    __slots__ = ("_best_ns", "_ends_ns", "_points")

    def __init__(self) -> None:
        self._points: deque[tuple[float, float]] = deque(maxlen=DRIFT_WINDOWS)
        self.clear()

    def clear(self) -> None:
        """Forget everything, as after a jump of a clock."""
        self._points.clear()
        self._best_ns: int | None = None
        self._ends_ns = 0

    def observe(self, offset_ns: int, now_ns: int) -> None:
        """Take one reading's stamp minus its arrival."""
        if self._best_ns is None:
            self._best_ns, self._ends_ns = offset_ns, now_ns + DRIFT_WINDOW_NS
        elif now_ns >= self._ends_ns:
            self._points.append((self._ends_ns / NANOSECONDS, self._best_ns / NANOSECONDS))
            self._best_ns, self._ends_ns = offset_ns, now_ns + DRIFT_WINDOW_NS
        elif offset_ns > self._best_ns:
            self._best_ns = offset_ns

    def seconds_per_second(self) -> float | None:
        """Slope of the offset: positive when the sensor's clock is fast. None until it is known.

        The median of the slopes between all pairs of windows (Theil 1950, Sen 1968), which one
        window of congestion does not move.
        """
        points = list(self._points)
        if len(points) < LEAST_WINDOWS:
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
    silence_ns: int = NANOSECONDS
    drift: ClockDrift = field(default_factory=ClockDrift)

    @property
    def clock_drift(self) -> float | None:
        """Seconds that the sensor's clock gains in a second, or None until it is known."""
        return self.drift.seconds_per_second()

    def observe(self, stamp_ns: int, now_ns: int) -> None:
        """Update the running figures with an accepted reading."""
        offset_ns = stamp_ns - now_ns
        last_ns = self.last_stamp_ns
        self.drift.observe(offset_ns, now_ns)
        self.last_arrival_ns = now_ns
        if last_ns is None:
            self.offset_s = offset_ns / NANOSECONDS
            self.last_stamp_ns = stamp_ns
            return
        self.offset_s += SMOOTHING * (offset_ns / NANOSECONDS - self.offset_s)
        interval_ns = stamp_ns - last_ns
        if interval_ns <= 0:
            return
        self.last_stamp_ns = stamp_ns
        if interval_ns > self.silence_ns:
            return  # an outage says nothing about the rate
        interval = interval_ns / NANOSECONDS
        if self.interval_s == 0.0:
            self.interval_s = interval
        deviation = interval - self.interval_s
        self.interval_s += SMOOTHING * deviation
        self.jitter_s += SMOOTHING * (abs(deviation) - self.jitter_s)

    def restart(self) -> None:
        """Forget the running figures, as after a jump of a clock; the counts stay."""
        self.last_arrival_ns = self.last_stamp_ns = None
        self.drift.clear()


class ReadingQueue:
    """Pending readings of one sensor by rising stamp, a bounded number."""

    __slots__ = (
        "clock_ns",
        "half_period_ns",
        "heard_ns",
        "items",
        "last_used",
        "most",
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
        self.offset_ns = round(sensor.time_offset_s * NANOSECONDS)
        self.tolerance_ns = round(sensor.tolerance_s * NANOSECONDS)
        self.reuse_ns = round(sensor.reuse_s * NANOSECONDS)
        self.half_period_ns = round(0.5 * NANOSECONDS / sensor.rate_hz)
        self.silence_ns = round(silence_s(sensor.rate_hz) * NANOSECONDS)
        self.most = min(max(8, math.ceil(3 * sensor.rate_hz / frame_rate_hz)), 1000)
        self.stamps: list[int] = []
        self.items: list[Any] = []
        self.last_used: tuple[int, Any] | None = None
        self.slack_ns = self.half_period_ns  # how early a stamp may set a reference time
        self.clock_ns: int | None = None  # stamp minus arrival, of the last reading, taken or not
        self.heard_ns = 0  # when that was
        self.statistics = SensorStatistics(silence_ns=self.silence_ns)

    def put(self, stamp_ns: int, item: Any) -> None:
        """Add a reading whose stamp is not pending yet; when full, one is counted as overflow."""
        stamps, items = self.stamps, self.items
        if not stamps or stamp_ns > stamps[-1]:
            if len(stamps) >= self.most:
                # One that comes faster than declared is thinned, so that it still reaches back as
                # far as a LiDAR's sweep, which arrives a period after its stamp.
                crowded = stamp_ns - stamps[-1] < self.half_period_ns
                gone = -1 if crowded else 0
                del stamps[gone], items[gone]
                self.statistics.drops["overflow"] += 1
            stamps.append(stamp_ns)
            items.append(item)
            return
        at = bisect_left(stamps, stamp_ns)
        stamps.insert(at, stamp_ns)
        items.insert(at, item)
        if len(stamps) > self.most:
            del stamps[0], items[0]
            self.statistics.drops["overflow"] += 1

    def holds(self, stamp_ns: int) -> bool:
        """Whether a reading of this very stamp is pending or was the last one used."""
        at = bisect_left(self.stamps, stamp_ns)
        if at < len(self.stamps) and self.stamps[at] == stamp_ns:
            return True
        return self.last_used is not None and self.last_used[0] == stamp_ns

    def settled(self, stamp_ns: int) -> bool:
        """Whether no later reading can fit a stamp better than what is here (or may serve again)."""
        newest_ns = self.statistics.last_stamp_ns
        if newest_ns is None:
            return False
        if self.stamps:
            gap = stamp_ns - self.stamps[-1]
            if gap <= 0 or (gap <= self.half_period_ns and gap <= self.tolerance_ns):
                return True
        # Of a slow sensor the next one may be too far away to be of use.
        next_ns = newest_ns + self.half_period_ns + self.half_period_ns // 2
        return next_ns > stamp_ns + self.tolerance_ns or self.reusable(stamp_ns)

    def reusable(self, stamp_ns: int) -> bool:
        """Whether the last reading used may serve this stamp too."""
        last = self.last_used
        return last is not None and self.reuse_ns > 0 and abs(stamp_ns - last[0]) <= self.reuse_ns

    def take(self, stamp_ns: int, horizon_ns: int) -> tuple[int, Any] | None:
        """Remove and return the reading nearest to a stamp, if it is within tolerance.

        Older ones, and those before the horizon, which no later set can use, are let go.
        """
        stamps = self.stamps
        if not stamps:
            return self.last_used if self.reusable(stamp_ns) else None
        at = bisect_left(stamps, stamp_ns)
        if at == len(stamps) or (at and stamp_ns - stamps[at - 1] <= stamps[at] - stamp_ns):
            at -= 1
        nearest = stamps[at]
        if abs(nearest - stamp_ns) > self.tolerance_ns:
            self.let_go(bisect_left(stamps, horizon_ns), "superseded")
            return self.last_used if self.reusable(stamp_ns) else None
        self.last_used = result = (nearest, self.items[at])
        self.statistics.used += 1
        if at:
            self.statistics.drops["superseded"] += at
        del stamps[: at + 1], self.items[: at + 1]
        return result

    def let_go(self, count: int, reason: str) -> None:
        """Drop the oldest readings, counted under a reason."""
        if count:
            self.statistics.drops[reason] += count
            del self.stamps[:count], self.items[:count]

    def restart(self) -> None:
        """Drop everything pending because a clock jumped."""
        self.let_go(len(self.stamps), "clock_jump")
        self.last_used = None
        self.statistics.restart()
