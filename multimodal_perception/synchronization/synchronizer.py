"""Synchronise the readings of many sensors into sets, with a deadline. No ROS imports.

Every set has a reference time: the stamp of the first live sensor in the order LiDARs, cameras,
thermal cameras, ultrasonic sensors. A set closes as soon as every live sensor has its best matching
reading, or at its deadline with the readings that have arrived. Stamps must agree with the clock of
the majority of the sensors (sensor_clocks.py); a sensor whose clock is ahead never defines the
reference time. The caller passes the time of arrival, so a recording gives the same sets at any
playback speed. message_filters_policies.py has policies that behave like ROS message_filters.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from multimodal_perception.geometry.stamps import NANOSECONDS_PER_SECOND
from multimodal_perception.rig import Sensor
from multimodal_perception.synchronization.reading_set import MODALITY_PRIORITY, ReadingSet
from multimodal_perception.synchronization.sensor_clocks import (
    MAX_LEAD_S,
    MAX_SKEW_NS,
    NEVER_NS,
    MajorityClock,
)
from multimodal_perception.synchronization.sensor_queue import (
    ReadingQueue,
    SensorStatistics,
    lead_over_missing,
)

# A reference time may come earlier than expected by this fraction of the frame period.
EARLY_FRACTION = 0.3
# A sensor slower than this fraction of the frame rate is a reference sensor only if no other is live.
MIN_REFERENCE_RATE_FRACTION = 0.7
# After the start every sensor is awaited for this long.
STARTUP_WAIT_NS = NANOSECONDS_PER_SECOND
# All sensors have paused if none has published for this many periods of the fastest one, and for at
# least this time.
PAUSE_PERIODS = 1.6
MIN_PAUSE_NS = 3 * NANOSECONDS_PER_SECOND // 20
# The first set after a pause waits for this long for the sensors that published before the pause.
RESUME_WAIT_NS = 3 * NANOSECONDS_PER_SECOND // 4


class Synchronizer:
    """Collects readings and returns ReadingSets. Not thread-safe: use it from one thread at a time.

    Cost per message: logarithmic in the pending readings of its sensor; in addition, every sensor is
    checked once per set. Memory is bounded by the rate of each sensor.
    """

    def __init__(
        self,
        sensors: Iterable[Sensor],
        deadline_s: float = 0.05,
        frame_rate_hz: float | None = None,
        max_lead_s: float = MAX_LEAD_S,
    ) -> None:
        """Create a synchronizer for the sensors of a rig.

        deadline_s: a set closes at the latest this long after its first reading arrived, or in
        proportion later while the sensors publish more slowly than the rig states.
        frame_rate_hz: rate of the sets; defaults to the rate of the sensor with the highest priority.
        max_lead_s: by how much a stamp may be ahead of its arrival; see MajorityClock.

        Raises ValueError without sensors, or if the deadline or the rate is not positive.
        """
        ordered = sorted(sensors, key=lambda s: MODALITY_PRIORITY.index(s.modality))
        if not ordered:
            raise ValueError("no sensors to synchronise")
        rate = ordered[0].rate_hz if frame_rate_hz is None else frame_rate_hz
        if not (deadline_s > 0 and rate > 0):
            raise ValueError("deadline and frame rate must be positive")
        self._nominal_deadline_ns = self._deadline_ns = round(deadline_s * NANOSECONDS_PER_SECOND)
        self._period_ns = round(NANOSECONDS_PER_SECOND / rate)
        self._early_ns = round(EARLY_FRACTION * self._period_ns)
        self._queues = {s.name: ReadingQueue(s, rate) for s in ordered}
        self._queues_by_priority = list(self._queues.values())
        self.clock = MajorityClock(
            [q.clock for q in self._queues_by_priority], max_lead_s, deadline_s
        )
        fast = [
            self._queues[s.name] for s in ordered if s.rate_hz >= MIN_REFERENCE_RATE_FRACTION * rate
        ]
        # Sensors that are fast enough for every frame come first.
        self._reference_candidates = fast + [q for q in self._queues_by_priority if q not in fast]
        for rank, queue in enumerate(self._reference_candidates):
            queue.rank = rank
        # Arrival of the first reading, or of the first one after a pause of all sensors; the one before.
        self._start_ns: int | None = None
        self._last_start_ns: int | None = None
        self._last_arrival_ns = 0  # arrival of the last accepted reading
        self._update_pause()
        self._now_ns = 0
        self._last_ns: int | None = None  # reference time of the last set
        self._leader: ReadingQueue | None = None  # sensor of the last reference time
        self._target_ns: int | None = None  # expected next reference time
        self._closed_ns = NEVER_NS
        self._closes_ns: int | None = None
        # The search for a sensor that must be awaited resumes where it last stopped, so that every
        # sensor is checked once per set, however many messages arrive.
        self._reference_queue: ReadingQueue | None = None
        self._reference_ns: int | None = None
        self._checked_count = 0  # queues, in order, that need not be checked again
        self._awaited_queue: ReadingQueue | None = None
        self._recheck_ns = 0
        self.sets = 0
        self.incomplete = 0
        self.clock_jumps = 0
        self.time_restarts = 0

    @property
    def statistics(self) -> dict[str, SensorStatistics]:
        """Statistics of each sensor's readings."""
        return {name: queue.statistics for name, queue in self._queues.items()}

    def add(self, sensor: str, stamp_ns: int, reading: Any, now_ns: int) -> list[ReadingSet]:
        """Add one reading; return the sets that close because of it or of the time, oldest first.

        stamp_ns: stamp of the message. now_ns: current time of the receiver.

        Raises KeyError for a sensor that is not in the rig.
        """
        queue = self._queues[sensor]
        sets = self.advance(now_ns)
        stamp_ns -= queue.offset_ns
        statistics = queue.statistics
        statistics.received += 1
        reason = self._rejection_reason(queue, stamp_ns, now_ns)
        if reason is not None:
            statistics.drops[reason] += 1
            return sets
        last_ns = statistics.last_arrival_ns
        if self._start_ns is None or now_ns - self._last_arrival_ns > self._pause_ns:
            self._last_start_ns, self._start_ns = self._start_ns, now_ns
        # Messages of different topics are not taken in the order in which they were received.
        self._start_ns = min(self._start_ns, now_ns)
        self._last_arrival_ns = max(self._last_arrival_ns, now_ns)
        resumed = last_ns is None or now_ns - last_ns > queue.clock.silence_ns
        statistics.observe(stamp_ns, now_ns)
        queue.put(stamp_ns, reading)
        if resumed:
            self._reference_queue = None  # this sensor may now be the reference sensor
        is_reference = queue is (
            self._find_reference_queue(now_ns) if resumed else self._reference_queue
        )
        if (
            (is_reference or self._closes_ns is None)
            and queue.clock.may_define_frame_time
            and self._is_due(queue, stamp_ns)
        ):
            self._open(queue, stamp_ns, now_ns)
        elif is_reference and self._closes_ns is not None and stamp_ns > (self._last_ns or 0):
            # Other sensors opened a set between two readings of the reference sensor: the set waits for
            # the next reading of the reference sensor.
            self._await_next(queue, now_ns)
        if self._closes_ns is None:
            return sets
        if is_reference and (self._reference_ns is None or stamp_ns < self._reference_ns):
            self._reference_queue = None
        elif (
            queue is not self._awaited_queue and now_ns < self._recheck_ns and self._reference_queue
        ):
            return sets
        while self._closes_ns is not None and self._can_close(now_ns):
            sets += self._close(now_ns)
        return sets

    def advance(self, now_ns: int) -> list[ReadingSet]:
        """Advance the time; return the sets whose deadline has passed."""
        if now_ns < self._now_ns - MAX_SKEW_NS:
            self.clock.restart()
            self._restart(now_ns)
        self._now_ns = now_ns
        sets: list[ReadingSet] = []
        while self._closes_ns is not None and now_ns >= self._closes_ns:
            sets += self._close(now_ns)
        return sets

    def next_deadline_ns(self) -> int | None:
        """Time at which advance should be called next, or None if no set is open."""
        return self._closes_ns

    def flush(self, now_ns: int) -> list[ReadingSet]:
        """Close all pending sets, for example at the end of a recording."""
        sets: list[ReadingSet] = []
        while self._closes_ns is not None:
            sets += self._close(now_ns)
        return sets

    def pending(self) -> dict[str, int]:
        """Number of pending readings by sensor."""
        return {name: len(queue.stamps) for name, queue in self._queues.items()}

    # Opening and closing of sets -----------------------------------------------------------------

    def _open(self, queue: ReadingQueue, stamp_ns: int, now_ns: int) -> None:
        """Set the deadline of the next set, which a reading of this sensor has opened."""
        closes_ns = now_ns + self._deadline_ns
        lead_ns = stamp_ns - (self.clock.offset_ns or 0) - now_ns
        if lead_ns > 0:
            # The stamp is in the future, within the tolerance; so are the best readings of others.
            closes_ns += lead_ns + self._deadline_ns
        start_ns = now_ns if self._start_ns is None else self._start_ns
        reference = self._find_reference_queue(now_ns)
        if self._last_start_ns is not None and self._closed_ns < start_ns:
            closes_ns = max(closes_ns, start_ns + RESUME_WAIT_NS)
        elif reference is not None and reference is not queue:
            # A LiDAR sweep arrives later after its stamp than an image, so the set waits until the next
            # reading of the reference sensor is due.
            last_ns = reference.statistics.last_arrival_ns
            last_ns = start_ns if last_ns is None else max(last_ns, start_ns)
            next_ns = last_ns + reference.clock.period_ns + self._deadline_ns
            closes_ns = max(closes_ns, next_ns)
        is_ahead = lead_ns > 0 and queue is reference
        if self._closes_ns is None or closes_ns < self._closes_ns or is_ahead:
            self._closes_ns = closes_ns

    def _await_next(self, reference: ReadingQueue, now_ns: int) -> None:
        """Postpone the deadline of the open set until the next reading of the reference sensor."""
        if self._closes_ns is not None:
            next_ns = now_ns + reference.clock.period_ns + self._deadline_ns
            self._closes_ns = max(self._closes_ns, next_ns)

    def _find_reference_queue(self, now_ns: int) -> ReadingQueue | None:
        for queue in self._reference_candidates:
            if queue.clock.may_define_frame_time and now_ns <= self._alive_until(queue):
                return queue
        return None

    def _alive_until(self, queue: ReadingQueue) -> int:
        """Time until which a sensor counts as live.

        It has published recently, or it published before a pause of all sensors; after the start every
        sensor is live for a short time.
        """
        last_ns, start_ns = queue.statistics.last_arrival_ns, self._start_ns or 0
        silence_ns = queue.clock.silence_ns
        if last_ns is None:
            is_first = self._last_start_ns is None
            return start_ns + max(STARTUP_WAIT_NS, silence_ns) if is_first else NEVER_NS
        if (
            last_ns < start_ns
            and self._last_start_ns is not None
            and last_ns >= self._last_start_ns
        ):
            return start_ns + max(RESUME_WAIT_NS, queue.clock.period_ns)
        return last_ns + silence_ns

    def _update_pause(self) -> None:
        fastest_ns = min(q.clock.period_ns for q in self._queues_by_priority)
        self._pause_ns = max(round(PAUSE_PERIODS * fastest_ns), MIN_PAUSE_NS)

    def _is_due(self, queue: ReadingQueue, stamp_ns: int) -> bool:
        """Return whether a stamp is close enough to the next reference time, or after it."""
        return self._target_ns is None or stamp_ns >= self._target_ns - queue.slack_ns

    def _can_close(self, now_ns: int) -> bool:
        """Return whether no live sensor can still contribute a better matching reading."""
        if self._reference_queue is None or now_ns >= self._recheck_ns:
            self._reference_queue = reference = self._find_reference_queue(now_ns)
            self._checked_count, self._awaited_queue, self._reference_ns = 0, None, None
            if reference is None:
                return False
            self._recheck_ns = self._alive_until(reference) + 1
            self._reference_ns = self._first_due_stamp(reference)
        reference_ns = self._reference_ns
        if reference_ns is None:
            return False
        queues = self._queues_by_priority
        for at in range(self._checked_count, len(queues)):
            queue = queues[at]
            if queue.has_best_reading(reference_ns):
                continue
            until_ns = self._alive_until(queue)
            if now_ns <= until_ns:
                self._checked_count, self._awaited_queue = at, queue
                self._recheck_ns = min(self._recheck_ns, until_ns + 1)
                return False
        return True

    def _first_due_stamp(self, queue: ReadingQueue) -> int | None:
        for stamp_ns in queue.stamps:
            if self._is_due(queue, stamp_ns):
                return stamp_ns
        return None

    def _close(self, now_ns: int) -> list[ReadingSet]:
        self._closes_ns = self._reference_queue = None
        for reference in self._reference_candidates:
            reference_ns = (
                self._first_due_stamp(reference) if reference.clock.may_define_frame_time else None
            )
            if reference_ns is not None:
                break
        else:
            return []
        self._leader = reference
        self._schedule_next(reference, reference_ns)
        readings: dict[str, tuple[int, Any]] = {}
        waiting = None
        for queue in self._queues_by_priority:
            early_ns = min(self._period_ns - queue.tolerance_ns, 0)
            reading = queue.take(reference_ns, reference_ns + early_ns)
            if reading is not None:
                readings[queue.name] = reading
                queue.missed_sets = 0
            else:
                queue.missed_sets += 1
            if (
                waiting is None
                and queue.stamps
                and queue.clock.may_define_frame_time
                and self._is_due(queue, queue.stamps[-1])
            ):
                waiting = queue
        self._last_ns, self._closed_ns = reference_ns, now_ns
        self.sets += 1
        missing: frozenset[str] = frozenset()
        if len(readings) < len(self._queues_by_priority):
            missing = frozenset(self._queues) - readings.keys()
            self.incomplete += 1
            if 2 * len(missing) >= len(self._queues) and self._makes_others_late(reference, now_ns):
                self._restart_frame_time(now_ns)
                waiting = None
        if waiting is not None:
            self._open(waiting, waiting.stamps[-1], now_ns)
        return [ReadingSet(reference_ns, readings, missing)]

    def _schedule_next(self, reference: ReadingQueue, reference_ns: int) -> None:
        """Set the next expected reference time, and how early each sensor's reading may be.

        If the reference sensor has the frame rate, each of its stamps is a reference time. If it is
        faster, the reference times keep to a regular grid; otherwise a sensor with 25 Hz would give
        frames at 12.5 Hz instead of 10 Hz.
        """
        last_target_ns, self._target_ns = self._target_ns, reference_ns + self._period_ns
        for queue in self._queues_by_priority:
            interval_ns = (
                int(queue.statistics.interval_s * NANOSECONDS_PER_SECOND) or queue.clock.period_ns
            )
            queue.slack_ns = min(interval_ns // 2, self._early_ns)
        if last_target_ns is not None and reference.slack_ns < self._early_ns:
            error_ns = reference_ns - last_target_ns
            if abs(error_ns) <= self._early_ns:
                self._target_ns -= error_ns

    # Rejection of readings -----------------------------------------------------------------------

    def _rejection_reason(self, queue: ReadingQueue, stamp_ns: int, now_ns: int) -> str | None:
        """Return why a reading is dropped, or None if it is accepted."""
        clock, offset_ns = queue.clock, stamp_ns - now_ns
        clock.observe(offset_ns, now_ns)
        is_acceptable = clock.min_offset_ns <= offset_ns <= clock.max_offset_ns
        if not is_acceptable or now_ns >= self.clock.next_ns:
            self._estimate_clock(now_ns)
            if offset_ns > clock.max_offset_ns:
                queue.remove_after(now_ns + clock.max_offset_ns)
                clock.refused_ns = now_ns
                return "stamp_ahead"
            if offset_ns < clock.min_offset_ns:
                return "stamp_behind"
        last_ns = self._last_ns
        newest_ns = queue.statistics.last_stamp_ns
        if (newest_ns is None or stamp_ns > newest_ns) and (last_ns is None or stamp_ns > last_ns):
            return None
        if queue.contains(stamp_ns):
            return "duplicate"
        if queue.last_used is not None and stamp_ns < queue.last_used[0]:
            return self._reject_late(queue, queue.last_used[0] - stamp_ns, offset_ns, now_ns)
        if last_ns is None or stamp_ns > last_ns:
            return None
        # The set of this reading is closed; the reading may still match the next one.
        if last_ns + self._period_ns - stamp_ns > queue.tolerance_ns:
            return self._reject_late(queue, last_ns - stamp_ns, offset_ns, now_ns)
        return None

    def _reject_late(
        self, queue: ReadingQueue, lateness_ns: int, offset_ns: int, now_ns: int
    ) -> str:
        seconds = lateness_ns / NANOSECONDS_PER_SECOND
        queue.statistics.max_lateness_s = max(queue.statistics.max_lateness_s, seconds)
        # The last set would have had this reading if it had waited.
        nearly = lateness_ns <= queue.tolerance_ns and now_ns - self._closed_ns <= self._deadline_ns
        leads = (
            self._leader is not None
            and queue.rank < self._leader.rank
            and queue.clock.may_define_frame_time
            and offset_ns >= queue.clock.min_reference_offset_ns
        )
        if nearly or leads:
            # The sensor publishes again. A sensor that defines reference times before the present one
            # does so again: the open set waits until its stamps are due.
            queue.statistics.last_arrival_ns = now_ns
            self._reference_queue = None
            if leads:
                self._await_next(queue, now_ns)
        return "late"

    # Clocks of the sensors -----------------------------------------------------------------------

    def _estimate_clock(self, now_ns: int) -> None:
        """Estimate the clock of the majority; restart if it jumped or if the frames' time is ahead."""
        if self.clock.estimate(now_ns):
            self._restart(now_ns)
            return
        slowdown = self.clock.slowdown
        self._deadline_ns = self._nominal_deadline_ns
        if slowdown > 1.0:
            self._deadline_ns = round(slowdown * self._deadline_ns)
        self._update_pause()
        if self._last_ns is not None and self._last_ns > now_ns + self.clock.latest_ns:
            self._restart_frame_time(now_ns)

    def _makes_others_late(self, reference: ReadingQueue, now_ns: int) -> bool:
        """Return whether most sensors miss the sets because of the sensor that defines their times.

        If so, that sensor does not define them any more.
        """
        period_ns = max(self._period_ns, reference.clock.period_ns)
        lead_ns = lead_over_missing(reference, self._queues_by_priority, now_ns, period_ns)
        if lead_ns is None:
            return False
        reference.clock.max_ahead_ns = lead_ns // 2
        reference.clock.may_define_frame_time = False
        return True

    def _restart_frame_time(self, now_ns: int) -> None:
        """Continue with the reference times of the majority: those so far were ahead of it."""
        self.time_restarts += 1
        self._last_ns = self._target_ns = self._closes_ns = None
        self._reference_queue = self._leader = None
        for queue in self._queues_by_priority:
            queue.missed_sets = 0
            queue.remove_after(now_ns + queue.clock.max_offset_ns)

    def _restart(self, now_ns: int) -> None:
        """Start again after a jump of a clock: all pending readings are dropped."""
        self.clock_jumps += 1
        self._start_ns = self._last_arrival_ns = now_ns
        self._last_ns = self._target_ns = self._closes_ns = None
        self._reference_queue = self._leader = None
        for queue in self._queues_by_priority:
            queue.restart()
