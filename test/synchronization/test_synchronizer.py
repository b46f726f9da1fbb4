"""Reading sets: on time, each reading once, whatever fails. Time is simulated."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multimodal_perception.frame import Modality
from multimodal_perception.rig import Sensor
from multimodal_perception.synchronization.synchronizer import ReadingSet, Synchronizer

MS = 1_000_000
SECOND = 1000 * MS


def sensor(name: str, rate_hz: float = 10.0, **more: object) -> Sensor:
    kind = Modality.LIDAR if name.startswith("lidar") else Modality.CAMERA
    info = {} if kind is Modality.LIDAR else {"camera_info_topic": f"/{name}/info"}
    return Sensor(name, kind, f"/{name}", name, rate_hz=rate_hz, **info, **more)  # type: ignore[arg-type]


Event = tuple[int, str, int]  # arrival, sensor, stamp


def stream(
    name: str, rate_hz: float, until_s: float, latency_ms: float = 5.0, start_s: float = 0.0
) -> list[Event]:
    period = SECOND / rate_hz
    count = int((until_s - start_s) * rate_hz)
    stamps = [round(start_s * SECOND + i * period) for i in range(count)]
    return [(s + round(latency_ms * MS), name, s) for s in stamps]


def feed(
    sync: Synchronizer, events: Iterable[Event], tick_ms: int = 5
) -> list[tuple[int, ReadingSet]]:
    """Play events with a ticking clock; returns (time of emission, set)."""
    result: list[tuple[int, ReadingSet]] = []
    clock = None
    for now, name, stamp in sorted(events):
        if clock is not None:
            while clock + tick_ms * MS < now:
                clock += tick_ms * MS
                result += [(clock, s) for s in sync.advance(clock)]
        clock = now
        result += [(now, s) for s in sync.add(name, stamp, (name, stamp), now)]
    result += [(clock or 0, s) for s in sync.flush(clock or 0)]
    return result


def accounted(sync: Synchronizer) -> None:
    """Every reading was used, dropped with a reason, or is still pending."""
    for name, statistics in sync.statistics.items():
        pending = len(sync._queues[name].stamps)
        assert statistics.received == statistics.used + sum(statistics.drops.values()) + pending


def test_sensors_of_one_rate_give_complete_sets_of_one_stamp_at_once() -> None:
    sync = Synchronizer([sensor("camera"), sensor("lidar")])
    sets = feed(sync, stream("lidar", 10, 3) + stream("camera", 10, 3, latency_ms=20))
    assert len(sets) == 30
    for emitted, s in sets:
        assert s.complete
        assert {stamp for stamp, _ in s.readings.values()} == {s.stamp_ns}
        assert emitted == s.stamp_ns + 20 * MS
    accounted(sync)


def test_a_faster_camera_gives_its_nearest_image() -> None:
    sync = Synchronizer([sensor("lidar"), sensor("camera", 30)])
    sets = feed(
        sync, stream("lidar", 10, 3, latency_ms=60) + stream("camera", 30, 3, start_s=0.011)
    )
    assert len(sets) == 30
    for _, s in sets[1:]:
        assert s.complete
        assert abs(s.readings["camera"][0] - s.stamp_ns) <= SECOND / 60 + 1
    accounted(sync)


def test_a_lidar_whose_sweep_arrives_late_still_leads() -> None:
    sync = Synchronizer([sensor("lidar"), sensor("camera", 30)])
    sets = feed(
        sync, stream("lidar", 10, 4, latency_ms=110) + stream("camera", 30, 4, latency_ms=8)
    )
    complete = [s for _, s in sets if s.complete]
    assert len(complete) >= 36
    assert len(sets) - len(complete) <= 2


@pytest.mark.parametrize("dead", ["lidar", "camera", "camera2"])
def test_a_sensor_dead_from_the_start_delays_nothing_for_long(dead: str) -> None:
    names = ["lidar", "camera", "camera2"]
    sync = Synchronizer([sensor(n) for n in names], deadline_s=0.05)
    events = [e for n in names if n != dead for e in stream(n, 10, 4)]
    sets = feed(sync, events)
    assert len(sets) >= 38
    assert all(s.missing == {dead} for _, s in sets)
    late = [emitted - s.stamp_ns for emitted, s in sets if s.stamp_ns > 1.2 * SECOND]
    assert max(late) <= 60 * MS
    accounted(sync)


@pytest.mark.parametrize("dying", ["lidar", "camera"])
def test_a_sensor_that_dies_and_returns_is_back_within_a_second(dying: str) -> None:
    names = ["lidar", "camera"]
    sync = Synchronizer([sensor(n) for n in names], deadline_s=0.05)
    events = [
        e
        for n in names
        for e in stream(n, 10, 9)
        if n != dying or not 3 * SECOND <= e[2] < 6 * SECOND
    ]
    sets = feed(sync, events)
    assert len(sets) >= 85
    gap = [s for _, s in sets if 3.2 * SECOND < s.stamp_ns < 5.9 * SECOND]
    assert len(gap) >= 24
    assert all(s.missing == {dying} for s in gap)
    assert all(s.complete for _, s in sets if s.stamp_ns >= 7 * SECOND)
    accounted(sync)


def test_a_frozen_stamp_is_counted_and_stalls_nobody() -> None:
    sync = Synchronizer([sensor("lidar"), sensor("camera")])
    frozen = [(a, n, min(s, SECOND)) for a, n, s in stream("camera", 10, 5)]
    sets = feed(sync, stream("lidar", 10, 5) + frozen)
    assert len(sets) >= 48
    drops = sync.statistics["camera"].drops
    assert drops["duplicate"] + drops["late"] + drops["stamp_behind"] >= 37
    accounted(sync)


def test_half_a_second_of_latency_is_late_and_says_by_how_much() -> None:
    sync = Synchronizer([sensor("lidar"), sensor("camera")])
    sets = feed(sync, stream("lidar", 10, 5) + stream("camera", 10, 5, latency_ms=500))
    assert len(sets) >= 48
    statistics = sync.statistics["camera"]
    assert statistics.drops["late"] >= 35
    assert 0.2 < statistics.worst_lateness_s < 0.6
    accounted(sync)


def test_ten_times_the_rate_neither_grows_memory_nor_the_rate_of_sets() -> None:
    sync = Synchronizer([sensor("lidar"), sensor("camera")])
    sets = feed(sync, stream("lidar", 10, 5) + stream("camera", 100, 5))
    assert 48 <= len(sets) <= 52
    assert max(len(q.stamps) for q in sync._queues.values()) <= 10
    accounted(sync)


def test_one_clock_far_ahead_is_not_believed() -> None:
    sync = Synchronizer([sensor("lidar"), sensor("camera"), sensor("camera2")])
    wrong = [(a, n, s + 3600 * SECOND) for a, n, s in stream("camera2", 10, 4)]
    sets = feed(sync, stream("lidar", 10, 4) + stream("camera", 10, 4) + wrong)
    assert len(sets) >= 38
    assert all("camera2" in s.missing for _, s in sets)
    assert sync.statistics["camera2"].drops["stamp_ahead"] >= 38
    assert sync.clock_jumps == 0


@pytest.mark.parametrize("jump_s", [-100, 100])
def test_when_every_clock_jumps_sets_go_on_within_a_second(jump_s: int) -> None:
    sync = Synchronizer([sensor("lidar"), sensor("camera"), sensor("camera2")])
    names = ("lidar", "camera", "camera2")
    before = [e for n in names for e in stream(n, 10, 3)]
    after = [(a, n, s + jump_s * SECOND) for n in names for a, n, s in stream(n, 10, 6, start_s=3)]
    sets = feed(sync, before + after)
    assert sync.clock_jumps == 1
    assert len([s for emitted, s in sets if emitted > 4 * SECOND and s.complete]) >= 19
    accounted(sync)


def test_a_slow_sensor_serves_again_where_it_may() -> None:
    slow = sensor("camera", 2.0, reuse_s=0.6, tolerance_s=0.05)
    sync = Synchronizer([sensor("lidar"), slow])
    sets = feed(sync, stream("lidar", 10, 4) + stream("camera", 2, 4))
    assert all(s.complete for _, s in sets[2:])
    used = [s.readings["camera"][0] for _, s in sets[2:]]
    assert len(set(used)) < len(used)


def test_a_known_offset_is_taken_off_the_stamps() -> None:
    sync = Synchronizer([sensor("lidar"), sensor("camera", time_offset_s=0.2)])
    shifted = [(a, n, s + 200 * MS) for a, n, s in stream("camera", 10, 3)]
    sets = feed(sync, stream("lidar", 10, 3) + shifted)
    assert all(s.complete and s.readings["camera"][0] == s.stamp_ns for _, s in sets[1:])


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.floats(0, 60), st.floats(0, 0.4), st.floats(0, 0.2))
def test_any_order_of_arrival(seed: int, jitter_ms: float, loss: float, doubled: float) -> None:
    rng = random.Random(seed)
    names = {"lidar": 10.0, "camera": 30.0, "camera2": 7.0}
    events = []
    for name, rate in names.items():
        for arrival, _, stamp in stream(name, rate, 4):
            if rng.random() < loss:
                continue
            for _ in range(2 if rng.random() < doubled else 1):
                events.append((arrival + round(rng.uniform(0, jitter_ms) * MS), name, stamp))
    sync = Synchronizer([sensor(n, r) for n, r in names.items()])
    sets = feed(sync, events)
    references = [s.stamp_ns for _, s in sets]
    assert references == sorted(set(references))
    used = [(n, stamp) for _, s in sets for n, (stamp, _) in s.readings.items()]
    assert len(used) == len(set(used))
    for _, s in sets:
        assert s.missing == names.keys() - s.readings.keys()
        assert all(abs(stamp - s.stamp_ns) <= 60 * MS for stamp, _ in s.readings.values())
    accounted(sync)


def test_the_same_events_give_the_same_sets() -> None:
    events = stream("lidar", 10, 3, latency_ms=30) + stream("camera", 25, 3)
    first, second = (
        feed(Synchronizer([sensor("lidar"), sensor("camera", 25)]), events) for _ in range(2)
    )
    assert first == second


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="no sensors"):
        Synchronizer([])
    with pytest.raises(ValueError, match="positive"):
        Synchronizer([sensor("lidar")], deadline_s=0.0)
    with pytest.raises(KeyError):
        Synchronizer([sensor("lidar")]).add("radar", 0, None, 0)


def test_when_the_receivers_clock_goes_back_too_sets_go_on() -> None:
    """A bag that is played again with simulated time: stamps and clock both start anew."""
    sync = Synchronizer([sensor("lidar"), sensor("camera")])
    first = stream("lidar", 10, 3, start_s=1) + stream("camera", 10, 3, start_s=1)
    later = [(a + 100 * SECOND, n, s + 100 * SECOND) for a, n, s in first]
    feed(sync, later)
    again = feed(sync, first)
    assert sync.clock_jumps == 1
    assert len(again) == 20 and all(s.complete for _, s in again)
    accounted(sync)


def test_a_faster_sensor_that_leads_keeps_the_frames_rate() -> None:
    """The LiDAR is dead; at 25 Hz every third image would be 8.3, every second 12.5 a second."""
    sync = Synchronizer([sensor("lidar"), sensor("camera", 25)])
    sets = feed(sync, stream("camera", 25, 20))
    assert 195 <= len(sets) <= 202


def test_frames_may_be_slower_or_faster_than_the_first_sensor() -> None:
    events = stream("lidar", 10, 5) + stream("camera", 20, 5)
    rig = [sensor("lidar"), sensor("camera", 20)]
    slow = feed(Synchronizer(rig, frame_rate_hz=5), events)
    fast = feed(Synchronizer(rig, frame_rate_hz=20), events)
    assert 24 <= len(slow) <= 26 and all(s.complete for _, s in slow)
    assert 98 <= len(fast) <= 101


def test_a_leader_that_returns_out_of_phase_leads_again() -> None:
    """While it was away the others' frames lay half a period off its stamps."""
    sync = Synchronizer([sensor("lidar"), sensor("camera", 30)])
    lidar = [
        e for e in stream("lidar", 10, 8, latency_ms=60, start_s=0.05) if not 2 <= e[2] / SECOND < 5
    ]
    sets = feed(sync, lidar + stream("camera", 30, 8))
    assert all(s.complete for _, s in sets if 6 * SECOND <= s.stamp_ns < 7.8 * SECOND)


@pytest.mark.parametrize("rate", [1, 1000])
def test_rates_from_one_to_a_thousand(rate: float) -> None:
    sync = Synchronizer([sensor("lidar", rate), sensor("camera", rate)], deadline_s=0.5 / rate)
    count = 20 if rate == 1 else 2000
    sets = feed(
        sync, stream("lidar", rate, count / rate, 0.1) + stream("camera", rate, count / rate, 0.2)
    )
    assert len(sets) == count and all(s.complete for _, s in sets)


@pytest.mark.parametrize("microseconds", [0, 300, -500])
def test_a_clock_that_drifts_is_measured(microseconds: float) -> None:
    rng = random.Random(1)
    sync = Synchronizer([sensor("lidar"), sensor("camera")])
    drifting = [
        (a + round(rng.expovariate(1 / (5 * MS))), n, s + round(s * microseconds * 1e-6))
        for a, n, s in stream("camera", 10, 60)
    ]
    feed(sync, stream("lidar", 10, 60) + drifting)
    assert sync.statistics["camera"].clock_drift == pytest.approx(microseconds * 1e-6, abs=40e-6)
    assert sync.statistics["lidar"].clock_drift == pytest.approx(0.0, abs=1e-9)


def test_a_set_says_how_stale_each_reading_is() -> None:
    sync = Synchronizer([sensor("lidar"), sensor("camera")])
    _, last = feed(sync, stream("lidar", 10, 2) + stream("camera", 10, 2, start_s=-0.02))[-1]
    assert last.staleness_s == pytest.approx({"lidar": 0.0, "camera": 0.02})


def test_a_burst_of_delayed_readings_is_sorted_out() -> None:
    """A camera whose driver hands over five images at once, in the wrong order."""
    sync = Synchronizer([sensor("lidar"), sensor("camera", 50)])
    burst = []
    for i, (a, n, s) in enumerate(stream("camera", 50, 5)):
        burst.append((a - a % (100 * MS) + 100 * MS - i % 5, n, s))
    sets = feed(sync, stream("lidar", 10, 5, latency_ms=90) + burst)
    assert sum(s.complete for _, s in sets) >= 45
    accounted(sync)


@pytest.mark.parametrize("first", ["lidar", "camera"])
def test_after_a_pause_of_all_the_first_set_waits_for_every_sensor(first: str) -> None:
    sync = Synchronizer([sensor("camera"), sensor("lidar"), sensor("camera_dead")])
    delays = {"lidar": 20, "camera": 20, first: 2}
    events = []
    for begin_s, end_s in ((0.0, 2.0), (5.0, 7.0), (7.6, 9.0)):
        for name, delay_ms in delays.items():
            events += stream(name, 10, end_s, delay_ms, begin_s)
    sets = feed(sync, events)
    assert len(sets) == 54
    for emitted, s in sets:
        assert s.missing == {"camera_dead"} and emitted - s.stamp_ns <= 75 * MS
    assert not any(statistics.drops for statistics in sync.statistics.values())
    accounted(sync)
