"""Readings of many sensors to sets of one moment, on time whatever fails. No ROS, no clock of its own.

A set belongs to a reference time: the stamp of the first sensor in line (LiDARs, then cameras, thermal
cameras, ultrasonics) that is alive. It closes as soon as every living sensor has the reading that fits
best, or at its deadline with what has come. The caller says what time it is, so a recording gives the
same sets at any speed. The policies that behave as message_filters do are in message_matching.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from multimodal_perception.frame import Modality
from multimodal_perception.geometry.stamps import NANOSECONDS
from multimodal_perception.rig import Sensor
from multimodal_perception.synchronization.sensor_queue import ReadingQueue, SensorStatistics

# Share of the frame period by which a reference time may come early.
EARLY = 0.3
# A sensor slower than this share of the frame rate does not set reference times.
SLOW_TO_LEAD = 0.7
# At the start, and when all begin again after a pause, every sensor is waited for this long.
START_NS = NANOSECONDS
# Stamps further from the other sensors' than this are wrong, unless most sensors agree with them;
# a clock that goes back by more has been set anew.
MAX_SKEW_NS = NANOSECONDS
LINE = (Modality.LIDAR, Modality.CAMERA, Modality.THERMAL, Modality.ULTRASONIC)
NOTHING: frozenset[str] = frozenset()


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

    @property
    def staleness_s(self) -> dict[str, float]:
        """Seconds by which each reading is older than the reference time (negative: newer)."""
        return {n: (self.stamp_ns - r[0]) / NANOSECONDS for n, r in self.readings.items()}


class Synchronizer:
    """Collects readings and hands out ReadingSets; one thread at a time.

    Cost a message: logarithmic in the pending readings of its sensor and, shared out over the messages
    of a set, one look at each sensor. Memory is bounded by each sensor's rate.
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
        self._early_ns = round(EARLY * self._period_ns)
        self._queues = {s.name: ReadingQueue(s, rate) for s in line}
        self._line = list(self._queues.values())
        fast = [self._queues[s.name] for s in line if s.rate_hz >= SLOW_TO_LEAD * rate]
        # By rank: those fast enough for every frame, then the others.
        self._leaders = fast + [q for q in self._line if q not in fast]
        self._start_ns: int | None = None  # of the first reading, or the first after a pause of all
        self._heard_ns = 0  # when the last reading was taken
        self._pause_ns = max(q.silence_ns for q in self._line)
        self._now_ns = 0
        self._last_ns: int | None = None  # reference time of the last set
        self._target_ns: int | None = None  # where the next reference time should be
        self._closed_ns = 0
        self._closes_ns: int | None = None
        self._clock_ns: int | None = None  # stamps minus arrivals, most sensors' opinion
        # The search for a sensor worth waiting for goes on where it last had to stop, so that a set
        # costs one look at each sensor however many messages come.
        self._leading: ReadingQueue | None = None
        self._reference_ns: int | None = None
        self._settled = 0  # how many of the line need not be looked at again
        self._blocker: ReadingQueue | None = None
        self._look_again_ns = 0
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
        sets = self.advance(now_ns)
        if self._start_ns is None or now_ns - self._heard_ns > self._pause_ns:
            self._start_ns = now_ns
        stamp_ns -= queue.offset_ns
        statistics = queue.statistics
        statistics.received += 1
        reason = self._refusal(queue, stamp_ns, now_ns)
        if reason is not None:
            statistics.drops[reason] += 1
            return sets
        last_ns = statistics.last_arrival_ns
        self._heard_ns = now_ns
        back = last_ns is None or now_ns - last_ns > queue.silence_ns
        statistics.observe(stamp_ns, now_ns)
        queue.put(stamp_ns, reading)
        if back:
            self._leading = None  # perhaps it is its turn to lead
        leads = queue is (self._leader(now_ns) if back else self._leading)
        if (leads or self._closes_ns is None) and self._due(queue, stamp_ns):
            self._open(queue, now_ns)
        elif leads and self._closes_ns is not None and stamp_ns > (self._last_ns or 0):
            # Others have begun a set in the middle of the leader's period: it waits for his next.
            next_ns = now_ns + 2 * queue.half_period_ns + self._deadline_ns
            self._closes_ns = max(self._closes_ns, next_ns)
        if self._closes_ns is None:
            return sets
        if leads and (self._reference_ns is None or stamp_ns < self._reference_ns):
            self._leading = None
        elif queue is not self._blocker and now_ns < self._look_again_ns and self._leading:
            return sets
        while self._closes_ns is not None and self._may_close(now_ns):
            sets += self._close(now_ns)
        return sets

    def advance(self, now_ns: int) -> list[ReadingSet]:
        """Let time pass; returns the sets whose deadline has come."""
        if now_ns < self._now_ns - MAX_SKEW_NS:
            self._restart(now_ns)
        self._now_ns = now_ns
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

    def pending(self) -> dict[str, int]:
        """How many readings of each sensor wait for their set."""
        return {name: len(queue.stamps) for name, queue in self._queues.items()}

    # When a set opens and closes -----------------------------------------------------------------

    def _open(self, queue: ReadingQueue, now_ns: int) -> None:
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

    def _leader(self, now_ns: int) -> ReadingQueue | None:
        for queue in self._leaders:
            if now_ns <= self._expected_until(queue):
                return queue
        return None

    def _expected_until(self, queue: ReadingQueue) -> int:
        """Until when a sensor may be expected to speak: it has of late, or all have just begun."""
        last_ns, start_ns = queue.statistics.last_arrival_ns, self._start_ns or 0
        if last_ns is None or last_ns < start_ns:
            return start_ns + max(START_NS, queue.silence_ns)
        return last_ns + queue.silence_ns

    def _due(self, queue: ReadingQueue, stamp_ns: int) -> bool:
        """Whether a sensor's stamp is near enough to the next reference time, or past it."""
        return self._target_ns is None or stamp_ns >= self._target_ns - queue.slack_ns

    def _may_close(self, now_ns: int) -> bool:
        """Whether no living sensor is worth waiting for."""
        if self._leading is None or now_ns >= self._look_again_ns:
            self._leading = leader = self._leader(now_ns)
            self._settled, self._blocker, self._reference_ns = 0, None, None
            if leader is None:
                return False
            self._look_again_ns = self._expected_until(leader) + 1
            self._reference_ns = self._first_due(leader)
        reference_ns = self._reference_ns
        if reference_ns is None:
            return False
        line = self._line
        for at in range(self._settled, len(line)):
            queue = line[at]
            if queue.settled(reference_ns):
                continue
            until_ns = self._expected_until(queue)
            if now_ns <= until_ns:
                self._settled, self._blocker = at, queue
                self._look_again_ns = min(self._look_again_ns, until_ns + 1)
                return False
        return True

    def _first_due(self, queue: ReadingQueue) -> int | None:
        for stamp_ns in queue.stamps:
            if self._due(queue, stamp_ns):
                return stamp_ns
        return None

    def _close(self, now_ns: int) -> list[ReadingSet]:
        self._closes_ns = self._leading = None
        for leader in self._leaders:
            reference_ns = self._first_due(leader)
            if reference_ns is not None:
                break
        else:
            return []
        self._aim(leader, reference_ns)
        readings: dict[str, tuple[int, Any]] = {}
        waiting = None
        for queue in self._line:
            early_ns = min(self._period_ns - queue.tolerance_ns, 0)
            reading = queue.take(reference_ns, reference_ns + early_ns)
            if reading is not None:
                readings[queue.name] = reading
            if waiting is None and queue.stamps and self._due(queue, queue.stamps[-1]):
                waiting = queue
        self._last_ns, self._closed_ns = reference_ns, now_ns
        self.sets += 1
        missing = NOTHING
        if len(readings) < len(self._line):
            missing = frozenset(self._queues) - readings.keys()
            self.incomplete += 1
        if waiting is not None:
            self._open(waiting, now_ns)
        return [ReadingSet(reference_ns, readings, missing)]

    def _aim(self, leader: ReadingQueue, reference_ns: int) -> None:
        """Say where the next reference time should be, and how far each sensor may be from there.

        A sensor of the frames' own rate leads from stamp to stamp. Of a faster one the frames keep to
        a steady grid, or else 25 Hz would give frames of 12.5 Hz instead of 10.
        """
        last_target_ns, self._target_ns = self._target_ns, reference_ns + self._period_ns
        for queue in self._line:
            interval_ns = int(queue.statistics.interval_s * NANOSECONDS) or 2 * queue.half_period_ns
            queue.slack_ns = min(interval_ns // 2, self._early_ns)
        if last_target_ns is not None and leader.slack_ns < self._early_ns:
            error_ns = reference_ns - last_target_ns
            if abs(error_ns) <= self._early_ns:
                self._target_ns -= error_ns

    # What is refused -----------------------------------------------------------------------------

    def _refusal(self, queue: ReadingQueue, stamp_ns: int, now_ns: int) -> str | None:
        clock_ns = queue.clock_ns = stamp_ns - now_ns
        queue.heard_ns = now_ns
        if self._clock_ns is None or abs(clock_ns - self._clock_ns) > MAX_SKEW_NS:
            self._clock_ns = self._agree_on_clock(now_ns)
            if abs(clock_ns - self._clock_ns) > MAX_SKEW_NS:
                return "stamp_ahead" if clock_ns > self._clock_ns else "stamp_behind"
        last_ns = self._last_ns
        newest_ns = queue.statistics.last_stamp_ns
        if (newest_ns is None or stamp_ns > newest_ns) and (last_ns is None or stamp_ns > last_ns):
            return None
        if queue.holds(stamp_ns):
            return "duplicate"
        if queue.last_used is not None and stamp_ns < queue.last_used[0]:
            return self._late(queue, queue.last_used[0] - stamp_ns, now_ns)
        if last_ns is None or stamp_ns > last_ns:
            return None
        # Its set has gone; it may still fit the next one.
        if last_ns + self._period_ns - stamp_ns > queue.tolerance_ns:
            return self._late(queue, last_ns - stamp_ns, now_ns)
        return None

    def _late(self, queue: ReadingQueue, lateness_ns: int, now_ns: int) -> str:
        if lateness_ns <= queue.tolerance_ns and now_ns - self._closed_ns <= self._deadline_ns:
            # It has come back: had the last set waited for it, it would have been in time.
            queue.statistics.last_arrival_ns = now_ns
            self._leading = None
        seconds = lateness_ns / NANOSECONDS
        queue.statistics.worst_lateness_s = max(queue.statistics.worst_lateness_s, seconds)
        return "late"

    def _agree_on_clock(self, now_ns: int) -> int:
        """The middle of the sensors' opinions on what their stamps are ahead of the clock."""
        heard = [q for q in self._line if 0 <= now_ns - q.heard_ns <= q.silence_ns]
        # One whose readings were refused of late has no say while others' are taken.
        trusted = [
            q
            for q in heard
            if q.statistics.last_arrival_ns is None or now_ns <= self._expected_until(q)
        ]
        opinions = sorted(q.clock_ns for q in trusted or heard if q.clock_ns is not None)
        middle = opinions[(len(opinions) - 1) // 2]
        if self._clock_ns is not None and abs(middle - self._clock_ns) > MAX_SKEW_NS:
            self._restart(now_ns)
        return middle

    def _restart(self, now_ns: int) -> None:
        """Begin anew after a clock jumped: what is pending belongs to another time."""
        self.clock_jumps += 1
        self._start_ns = now_ns
        self._last_ns = self._target_ns = self._closes_ns = None
        self._leading = self._clock_ns = None
        for queue in self._line:
            queue.restart()
