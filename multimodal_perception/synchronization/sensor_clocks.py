"""Clock and period of each sensor, and the clock of the majority of the sensors. No ROS imports.

The offset of a reading is its stamp minus its arrival. Latency makes offsets smaller, never larger, so
that an offset above zero is an error of the sensor's clock, unless the receiver's clock is wrong, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from multimodal_perception.geometry.stamps import NANOSECONDS_PER_SECOND
from multimodal_perception.rig import Sensor

# Readings that are older than the majority's clock by more than this are rejected. A change of the
# clock by more than this is a jump, unless latency explains it.
MAX_SKEW_NS = NANOSECONDS_PER_SECOND
# By default a stamp may be ahead of its arrival by this much.
MAX_LEAD_S = 0.05
# If the receiver's clock is not that of the sensors (a bag without /clock), offsets do not show whether
# a clock is wrong or a latency is high: those of one clock differ by up to this and by some periods.
MAX_SPREAD_NS = 3 * NANOSECONDS_PER_SECOND // 10
# Up to this change, later arrival is an explanation if the stamps do not go back.
MAX_LATENCY_NS = 10 * NANOSECONDS_PER_SECOND
# A sensor whose stamps are further behind those of the others than its period, the deadline and this
# does not define the times of frames.
MAX_LAG_NS = NANOSECONDS_PER_SECOND // 5
# After a reading that was ahead, this must pass without another one until the usual limit applies again.
REFUSAL_NS = 3 * NANOSECONDS_PER_SECOND // 4
# Interval between estimates of the majority's clock.
ESTIMATE_INTERVAL_NS = NANOSECONDS_PER_SECOND // 2
# A sensor that has not published for this many periods, and for at least this time, is not awaited.
SILENT_PERIODS = 3.0
SILENT_S = 0.5
# Gaps longer than this many nominal periods belong to a slower rate if two occur in a row; the nominal
# rate applies again after SHORT_GAPS shorter ones in a row.
LONG_GAP = 1.25
SHORT_GAPS = 3
NEVER_NS = -(1 << 62)


def silence_timeout_s(period_s: float) -> float:
    """Return the time without readings after which a sensor counts as silent, seconds."""
    return max(SILENT_PERIODS * period_s, SILENT_S)


class SensorClock:
    """Offsets of one sensor's last readings, and its actual period.

    last_message_ns: arrival of the last message, accepted or not. period_ns: the nominal period, or the
    measured one if the sensor publishes more slowly. silence_ns: time after which it counts as silent.
    min_offset_ns, max_offset_ns: limits of the offset of an acceptable reading; see MajorityClock.
    min_reference_offset_ns: the lower limit for readings whose stamps may be the times of frames.
    may_define_frame_time: whether its stamps may be the times of frames. max_ahead_ns: they may not
    while they are ahead of those of the other sensors by more than this; set if they made the readings
    of most others late. error_ns: offset from the majority's clock while that is not acceptable.
    refused_ns: arrival of the last reading that was ahead. lag_ns: by how much its offset is below the
    median of all sensors.
    """

    __slots__ = (
        "_long_gap_ns",
        "_long_limit_ns",
        "_offsets",
        "_short_gaps",
        "error_ns",
        "lag_ns",
        "last_message_ns",
        "max_ahead_ns",
        "max_offset_ns",
        "may_define_frame_time",
        "min_offset_ns",
        "min_reference_offset_ns",
        "nominal_ns",
        "period_ns",
        "refused_ns",
        "silence_ns",
        "went_back_ns",
    )

    def __init__(self, sensor: Sensor) -> None:
        self.nominal_ns = self.period_ns = round(NANOSECONDS_PER_SECOND / sensor.rate_hz)
        self._update_silence()
        self._long_limit_ns = round(LONG_GAP * self.nominal_ns)
        self._long_gap_ns = 0
        self._short_gaps = 0
        self.last_message_ns = NEVER_NS
        self.restart()

    def restart(self) -> None:
        """Clear all estimates, for example after a jump of a clock."""
        self._offsets: tuple[int, ...] = ()
        self.went_back_ns = self.refused_ns = NEVER_NS
        # No offset is within these limits: the first reading causes an estimate.
        self.min_offset_ns, self.max_offset_ns = 1, 0
        self.min_reference_offset_ns = NEVER_NS
        self.may_define_frame_time = True
        self.error_ns: int | None = None
        self.lag_ns = 0
        self.max_ahead_ns: int | None = None

    def observe(self, offset_ns: int, now_ns: int) -> None:
        """Add the offset of one message, accepted or not."""
        offsets = self._offsets
        gap_ns = now_ns - self.last_message_ns
        self.last_message_ns = now_ns
        if len(offsets) == 3:
            self._offsets = offsets[1], offsets[2], offset_ns
        else:
            self._offsets = (*offsets, offset_ns)
            if not offsets:
                return
        # Stamps that go back are a jump of the clock; later arrival only makes offsets smaller.
        if offset_ns < self.min_offset_ns and offset_ns + gap_ns < offsets[-1]:
            self.went_back_ns = now_ns
        if gap_ns > self._long_limit_ns:
            self._observe_long_gap(gap_ns)
        elif self._long_gap_ns:
            self._short_gaps += 1
            if self._short_gaps >= SHORT_GAPS:
                self._long_gap_ns, self.period_ns = 0, self.nominal_ns
                self._update_silence()

    def offset_ns(self) -> int:
        """Return the median offset of the last three messages, 0 without messages."""
        offsets = self._offsets
        if len(offsets) < 3:
            return min(offsets, default=0)
        return sorted(offsets)[1]

    def _observe_long_gap(self, gap_ns: int) -> None:
        # A single long gap is an outage; two in a row are a slower rate.
        if self._long_gap_ns and not self._short_gaps:
            self.period_ns = max(min(gap_ns, self._long_gap_ns), self.nominal_ns)
            self._update_silence()
        self._long_gap_ns, self._short_gaps = gap_ns, 0

    def _update_silence(self) -> None:
        seconds = silence_timeout_s(self.period_ns / NANOSECONDS_PER_SECOND)
        self.silence_ns = round(seconds * NANOSECONDS_PER_SECOND)


class _Cluster(NamedTuple):
    """Sensors whose clocks agree. centre_ns: their median offset."""

    size: int
    centre_ns: int


class MajorityClock:
    """The clock on which most sensors agree, as an offset from the receiver's clock.

    If at least half of the sensors have plausible latencies against the receiver's clock, that is the
    clock of the sensors: of two groups of equal size, the one that agrees with the receiver's clock is
    used. A stamp may then be
    ahead of its arrival by max_lead_s (and resolution_ns). Otherwise the offset is that of the largest
    group of sensors that agree with each other; groups of equal size: the one nearest to the last
    estimate. Cost: O(n log n) for n sensors, ESTIMATE_INTERVAL_NS apart or after an unacceptable offset.

    offset_ns: the majority's clock minus the receiver's clock, None before the first reading.
    resolution_ns: step of the receiver's clock, for example of /clock. next_ns: time of the next
    estimate. slowdown: actual period divided by the nominal one, of the sensor where that is smallest.
    """

    def __init__(
        self, clocks: Sequence[SensorClock], max_lead_s: float = MAX_LEAD_S, deadline_s: float = 0.0
    ) -> None:
        self._clocks = clocks
        self._max_lead_ns = round(max_lead_s * NANOSECONDS_PER_SECOND)
        self._max_lag_ns = MAX_LAG_NS + round(deadline_s * NANOSECONDS_PER_SECOND)
        self.resolution_ns = 0
        self.slowdown = 1.0
        self.restart()

    def restart(self) -> None:
        """Clear all estimates, for example after a jump of the receiver's clock."""
        self.offset_ns: int | None = None
        self.is_receivers = False
        self.next_ns = NEVER_NS
        self.latest_ns = 0  # limit of the offset of a frame's time
        self._latency_ns = 0  # part of the offset that later arrival explains
        self._agreeing = 0  # sensors that agree with the last estimate
        for clock in self._clocks:
            clock.restart()

    def estimate(self, now_ns: int) -> bool:
        """Estimate the clock and the limits of each sensor; return whether the clock has jumped."""
        self.next_ns = now_ns + ESTIMATE_INTERVAL_NS
        recent = [c for c in self._clocks if 0 <= now_ns - c.last_message_ns <= c.silence_ns]
        if not recent:
            return False
        self.slowdown = min(c.period_ns / c.nominal_ns for c in recent)
        offsets = [c.offset_ns() for c in recent]
        lead_ns = self._max_lead_ns + self.resolution_ns
        plausible = sum(
            -self._max_age_ns(c) <= o <= lead_ns for c, o in zip(recent, offsets, strict=True)
        )
        self.is_receivers = 2 * plausible >= len(recent)
        last_ns = self.offset_ns
        cluster = _Cluster(plausible, 0)
        if not self.is_receivers:
            cluster = _largest_cluster(offsets, last_ns)
        offset_ns = self.offset_ns = cluster.centre_ns
        # The last estimate came from at most half of the sensors, possibly with a wrong clock.
        is_first = 2 * self._agreeing <= len(recent)
        self._agreeing = cluster.size
        has_jumped = last_ns is not None and self._is_jump(offset_ns - last_ns, recent, now_ns)
        has_jumped = has_jumped and not is_first
        if has_jumped:
            self._latency_ns = 0
            for clock in self._clocks:
                clock.max_ahead_ns = None
        self._set_limits(recent, offsets, lead_ns, now_ns)
        return has_jumped

    def _is_jump(self, change_ns: int, recent: Sequence[SensorClock], now_ns: int) -> bool:
        """Return whether a change of the offset is a jump of the clock instead of a change of latency.

        Later arrival makes the offset smaller, for example while the computer is busy, and then larger
        again by as much. Stamps do not go back then.
        """
        if change_ns > 0:
            is_jump = change_ns > self._latency_ns + MAX_SKEW_NS
        else:
            went_back = sum(now_ns - c.went_back_ns <= c.silence_ns for c in recent)
            is_jump = change_ns < -MAX_SKEW_NS and 2 * went_back >= len(recent)
            is_jump = is_jump or change_ns < -MAX_LATENCY_NS
        if not is_jump:
            self._latency_ns = min(max(self._latency_ns - change_ns, 0), MAX_LATENCY_NS)
        return is_jump

    def _set_limits(
        self, recent: Sequence[SensorClock], offsets: Sequence[int], lead_ns: int, now_ns: int
    ) -> None:
        centre_ns = self.offset_ns or 0
        for clock in self._clocks:
            if self.is_receivers:
                clock.max_offset_ns = lead_ns
            else:
                clock.max_offset_ns = centre_ns + MAX_SPREAD_NS + 2 * clock.period_ns
            if now_ns - clock.refused_ns < REFUSAL_NS:
                # Hysteresis: a clock at the limit would alternately be accepted and refused.
                clock.max_offset_ns -= self._max_lead_ns // 2
            clock.min_offset_ns = centre_ns - self._max_age_ns(clock)
        self.latest_ns = max(c.max_offset_ns for c in recent)
        is_acceptable = [
            c.min_offset_ns <= o <= c.max_offset_ns for c, o in zip(recent, offsets, strict=True)
        ]
        acceptable = [
            (c.max_ahead_ns is not None, o)
            for c, o, ok in zip(recent, offsets, is_acceptable, strict=True)
            if ok
        ]
        ordered = sorted(o for was_ahead, o in acceptable if not was_ahead) or sorted(
            o for _, o in acceptable
        )
        median_ns = ordered[len(ordered) // 2] if ordered else centre_ns
        for clock, offset_ns, ok in zip(recent, offsets, is_acceptable, strict=True):
            clock.error_ns = None if ok else offset_ns - centre_ns
            clock.lag_ns = lag_ns = median_ns - offset_ns
            max_lag_ns = clock.period_ns + self._max_lag_ns
            clock.min_reference_offset_ns = median_ns - max_lag_ns
            is_refused = now_ns - clock.refused_ns < REFUSAL_NS
            clock.may_define_frame_time = ok and not is_refused and lag_ns <= max_lag_ns
            if clock.max_ahead_ns is not None and -lag_ns > clock.max_ahead_ns:
                clock.may_define_frame_time = False

    def _max_age_ns(self, clock: SensorClock) -> int:
        return max(MAX_SKEW_NS, 2 * clock.period_ns)


def _largest_cluster(offsets: Sequence[int], near_ns: int | None) -> _Cluster:
    """Return the largest group of offsets that differ by up to 2 * MAX_SPREAD_NS.

    Of groups with equal size, the one nearest to near_ns; the one with the smallest offsets without it.
    """
    ordered = sorted(offsets)
    best: _Cluster | None = None
    last = 0
    for first, low_ns in enumerate(ordered):
        while last < len(ordered) and ordered[last] - low_ns <= 2 * MAX_SPREAD_NS:
            last += 1
        cluster = _Cluster(last - first, ordered[(first + last - 1) // 2])
        if (
            best is None
            or cluster.size > best.size
            or (
                cluster.size == best.size
                and near_ns is not None
                and abs(cluster.centre_ns - near_ns) < abs(best.centre_ns - near_ns)
            )
        ):
            best = cluster
    assert best is not None
    return best
