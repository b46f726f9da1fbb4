"""Reading sets are on time and use each reading once, also with faults. Time is simulated."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multimodal_perception.frame import Modality
from multimodal_perception.rig import Sensor
from multimodal_perception.synchronization.reading_set import ReadingSet
from multimodal_perception.synchronization.synchronizer import Synchronizer

MS = 1_000_000
SECOND = 1000 * MS


def sensor(name: str, rate_hz: float = 10.0, **more: object) -> Sensor:
    modality = Modality.LIDAR if name.startswith("lidar") else Modality.CAMERA
    info = {} if modality is Modality.LIDAR else {"camera_info_topic": f"/{name}/info"}
    return Sensor(name, modality, f"/{name}", name, rate_hz=rate_hz, **info, **more)  # type: ignore[arg-type]


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


def assert_all_counted(sync: Synchronizer) -> None:
    """Assert that every reading is used, dropped with a reason, or pending."""
    for name, statistics in sync.statistics.items():
        pending = len(sync._queues[name].stamps)
        assert statistics.received == statistics.used + sum(statistics.drops.values()) + pending


def test_equal_rates_give_complete_sets_without_delay() -> None:
    sync = Synchronizer([sensor("camera"), sensor("lidar")])
    sets = feed(sync, stream("lidar", 10, 3) + stream("camera", 10, 3, latency_ms=20))
    assert len(sets) == 30
    for emitted, s in sets:
        assert s.complete
        assert {stamp for stamp, _ in s.readings.values()} == {s.stamp_ns}
        assert emitted == s.stamp_ns + 20 * MS
    assert_all_counted(sync)


def test_faster_camera_contributes_its_nearest_image() -> None:
    sync = Synchronizer([sensor("lidar"), sensor("camera", 30)])
    sets = feed(
        sync, stream("lidar", 10, 3, latency_ms=60) + stream("camera", 30, 3, start_s=0.011)
    )
    assert len(sets) == 30
    for _, s in sets[1:]:
        assert s.complete
        assert abs(s.readings["camera"][0] - s.stamp_ns) <= SECOND / 60 + 1
    assert_all_counted(sync)


def test_lidar_with_high_latency_is_the_reference() -> None:
    sync = Synchronizer([sensor("lidar"), sensor("camera", 30)])
    sets = feed(
        sync, stream("lidar", 10, 4, latency_ms=110) + stream("camera", 30, 4, latency_ms=8)
    )
    complete = [s for _, s in sets if s.complete]
    assert len(complete) >= 36
    assert len(sets) - len(complete) <= 2


@pytest.mark.parametrize("dead", ["lidar", "camera", "camera2"])
def test_sensor_that_never_publishes_causes_no_lasting_delay(dead: str) -> None:
    names = ["lidar", "camera", "camera2"]
    sync = Synchronizer([sensor(n) for n in names], deadline_s=0.05)
    events = [e for n in names if n != dead for e in stream(n, 10, 4)]
    sets = feed(sync, events)
    assert len(sets) >= 38
    assert all(s.missing == {dead} for _, s in sets)
    late = [emitted - s.stamp_ns for emitted, s in sets if s.stamp_ns > 1.2 * SECOND]
    assert max(late) <= 60 * MS
    assert_all_counted(sync)


@pytest.mark.parametrize("dying", ["lidar", "camera"])
def test_sensor_that_resumes_is_used_within_a_second(dying: str) -> None:
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
    assert_all_counted(sync)


def test_frozen_stamp_is_counted_and_does_not_delay_sets() -> None:
    sync = Synchronizer([sensor("lidar"), sensor("camera")])
    frozen = [(a, n, min(s, SECOND)) for a, n, s in stream("camera", 10, 5)]
    sets = feed(sync, stream("lidar", 10, 5) + frozen)
    assert len(sets) >= 48
    drops = sync.statistics["camera"].drops
    assert drops["duplicate"] + drops["late"] + drops["stamp_behind"] >= 37
    assert_all_counted(sync)


def test_high_latency_is_counted_as_late_and_measured() -> None:
    sync = Synchronizer([sensor("lidar"), sensor("camera")])
    sets = feed(sync, stream("lidar", 10, 5) + stream("camera", 10, 5, latency_ms=500))
    assert len(sets) >= 48
    statistics = sync.statistics["camera"]
    assert statistics.drops["late"] >= 35
    assert 0.2 < statistics.max_lateness_s < 0.6
    assert_all_counted(sync)


def test_tenfold_rate_changes_neither_memory_nor_set_rate() -> None:
    sync = Synchronizer([sensor("lidar"), sensor("camera")])
    sets = feed(sync, stream("lidar", 10, 5) + stream("camera", 100, 5))
    assert 48 <= len(sets) <= 52
    assert max(len(q.stamps) for q in sync._queues.values()) <= 10
    assert_all_counted(sync)


def test_single_wrong_clock_is_rejected() -> None:
    sync = Synchronizer([sensor("lidar"), sensor("camera"), sensor("camera2")])
    wrong = [(a, n, s + 3600 * SECOND) for a, n, s in stream("camera2", 10, 4)]
    sets = feed(sync, stream("lidar", 10, 4) + stream("camera", 10, 4) + wrong)
    assert len(sets) >= 38
    assert all("camera2" in s.missing for _, s in sets)
    assert sync.statistics["camera2"].drops["stamp_ahead"] >= 38
    assert sync.clock_jumps == 0


@pytest.mark.parametrize("jump_s", [-100, 100])
def test_sets_continue_within_a_second_after_all_clocks_jump(jump_s: int) -> None:
    sync = Synchronizer([sensor("lidar"), sensor("camera"), sensor("camera2")])
    names = ("lidar", "camera", "camera2")
    before = [e for n in names for e in stream(n, 10, 3)]
    after = [(a, n, s + jump_s * SECOND) for n in names for a, n, s in stream(n, 10, 6, start_s=3)]
    sets = feed(sync, before + after)
    assert sync.clock_jumps == 1
    assert len([s for emitted, s in sets if emitted > 4 * SECOND and s.complete]) >= 19
    assert_all_counted(sync)


def test_readings_of_a_slow_sensor_are_reused() -> None:
    slow = sensor("camera", 2.0, reuse_s=0.6, tolerance_s=0.05)
    sync = Synchronizer([sensor("lidar"), slow])
    sets = feed(sync, stream("lidar", 10, 4) + stream("camera", 2, 4))
    assert all(s.complete for _, s in sets[2:])
    used = [s.readings["camera"][0] for _, s in sets[2:]]
    assert len(set(used)) < len(used)


def test_time_offset_is_subtracted_from_stamps() -> None:
    sync = Synchronizer([sensor("lidar"), sensor("camera", time_offset_s=0.2)])
    shifted = [(a, n, s + 200 * MS) for a, n, s in stream("camera", 10, 3)]
    sets = feed(sync, stream("lidar", 10, 3) + shifted)
    assert all(s.complete and s.readings["camera"][0] == s.stamp_ns for _, s in sets[1:])


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.floats(0, 60), st.floats(0, 0.4), st.floats(0, 0.2))
def test_invariants_hold_for_any_order_of_arrival(
    seed: int, jitter_ms: float, loss: float, duplicated: float
) -> None:
    rng = random.Random(seed)
    names = {"lidar": 10.0, "camera": 30.0, "camera2": 7.0}
    events = []
    for name, rate in names.items():
        for arrival, _, stamp in stream(name, rate, 4):
            if rng.random() < loss:
                continue
            for _ in range(2 if rng.random() < duplicated else 1):
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
    assert_all_counted(sync)


def test_equal_events_give_equal_sets() -> None:
    events = stream("lidar", 10, 3, latency_ms=30) + stream("camera", 25, 3)
    first, second = (
        feed(Synchronizer([sensor("lidar"), sensor("camera", 25)]), events) for _ in range(2)
    )
    assert first == second


def test_invalid_arguments_raise_errors() -> None:
    with pytest.raises(ValueError, match="no sensors"):
        Synchronizer([])
    with pytest.raises(ValueError, match="positive"):
        Synchronizer([sensor("lidar")], deadline_s=0.0)
    with pytest.raises(KeyError):
        Synchronizer([sensor("lidar")]).add("radar", 0, None, 0)


def test_sets_continue_when_stamps_and_clock_go_back() -> None:
    """A bag is played second with simulated time: stamps and clock start second."""
    sync = Synchronizer([sensor("lidar"), sensor("camera")])
    first = stream("lidar", 10, 3, start_s=1) + stream("camera", 10, 3, start_s=1)
    later = [(a + 100 * SECOND, n, s + 100 * SECOND) for a, n, s in first]
    feed(sync, later)
    second = feed(sync, first)
    assert sync.clock_jumps == 1
    assert len(second) == 20 and all(s.complete for _, s in second)
    assert_all_counted(sync)


def test_faster_reference_sensor_keeps_the_frame_rate() -> None:
    """The LiDAR is silent. Every third image of 25 Hz gives 8.3 Hz, every second one 12.5 Hz."""
    sync = Synchronizer([sensor("lidar"), sensor("camera", 25)])
    sets = feed(sync, stream("camera", 25, 20))
    assert 195 <= len(sets) <= 202


def test_frame_rate_can_differ_from_the_reference_sensor_rate() -> None:
    events = stream("lidar", 10, 5) + stream("camera", 20, 5)
    rig = [sensor("lidar"), sensor("camera", 20)]
    slow = feed(Synchronizer(rig, frame_rate_hz=5), events)
    fast = feed(Synchronizer(rig, frame_rate_hz=20), events)
    assert 24 <= len(slow) <= 26 and all(s.complete for _, s in slow)
    assert 98 <= len(fast) <= 101


def test_reference_sensor_that_resumes_out_of_phase_is_the_reference_again() -> None:
    """While the LiDAR is silent, the frames are half a period off its stamps."""
    sync = Synchronizer([sensor("lidar"), sensor("camera", 30)])
    lidar = [
        e for e in stream("lidar", 10, 8, latency_ms=60, start_s=0.05) if not 2 <= e[2] / SECOND < 5
    ]
    sets = feed(sync, lidar + stream("camera", 30, 8))
    assert all(s.complete for _, s in sets if 6 * SECOND <= s.stamp_ns < 7.8 * SECOND)


@pytest.mark.parametrize("rate", [1, 1000])
def test_rates_from_1_to_1000_hz(rate: float) -> None:
    sync = Synchronizer([sensor("lidar", rate), sensor("camera", rate)], deadline_s=0.5 / rate)
    count = 20 if rate == 1 else 2000
    sets = feed(
        sync, stream("lidar", rate, count / rate, 0.1) + stream("camera", rate, count / rate, 0.2)
    )
    assert len(sets) == count and all(s.complete for _, s in sets)


@pytest.mark.parametrize("microseconds", [0, 300, -500])
def test_clock_drift_is_measured(microseconds: float) -> None:
    rng = random.Random(1)
    sync = Synchronizer([sensor("lidar"), sensor("camera")])
    drifting = [
        (a + round(rng.expovariate(1 / (5 * MS))), n, s + round(s * microseconds * 1e-6))
        for a, n, s in stream("camera", 10, 60)
    ]
    feed(sync, stream("lidar", 10, 60) + drifting)
    assert sync.statistics["camera"].clock_drift == pytest.approx(microseconds * 1e-6, abs=40e-6)
    assert sync.statistics["lidar"].clock_drift == pytest.approx(0.0, abs=1e-9)


def test_set_reports_staleness_of_readings() -> None:
    sync = Synchronizer([sensor("lidar"), sensor("camera")])
    _, last = feed(sync, stream("lidar", 10, 2) + stream("camera", 10, 2, start_s=-0.02))[-1]
    assert last.staleness_s == pytest.approx({"lidar": 0.0, "camera": 0.02})


def test_burst_of_unordered_readings_is_synchronized() -> None:
    """A camera whose driver delivers five images at once, in the wrong order."""
    sync = Synchronizer([sensor("lidar"), sensor("camera", 50)])
    burst = []
    for i, (a, n, s) in enumerate(stream("camera", 50, 5)):
        burst.append((a - a % (100 * MS) + 100 * MS - i % 5, n, s))
    sets = feed(sync, stream("lidar", 10, 5, latency_ms=90) + burst)
    assert sum(s.complete for _, s in sets) >= 45
    assert_all_counted(sync)


@pytest.mark.parametrize("first", ["lidar", "camera"])
def test_first_set_after_a_pause_waits_for_all_sensors(first: str) -> None:
    sync = Synchronizer([sensor("camera"), sensor("lidar"), sensor("camera_dead")])
    delays = {"lidar": 20, "camera": 20, first: 2}
    events = []
    for start_s, end_s in ((0.0, 2.0), (5.0, 7.0), (7.6, 9.0)):
        for name, delay_ms in delays.items():
            events += stream(name, 10, end_s, delay_ms, start_s)
    sets = feed(sync, events)
    assert len(sets) == 54
    for emitted, s in sets:
        assert s.missing == {"camera_dead"} and emitted - s.stamp_ns <= 75 * MS
    assert not any(statistics.drops for statistics in sync.statistics.values())
    assert_all_counted(sync)


@pytest.mark.parametrize("rate_hz", [0.5, 1.0, 2.0, 3.0, 5.0, 10.0])
@pytest.mark.parametrize("late_topic", ["lidar", "camera", "camera_rear"])
def test_messages_taken_in_another_order_than_received_are_complete(
    rate_hz: float, late_topic: str
) -> None:
    # A recording is played more slowly than the rig states; the message of one topic is received first
    # and taken last.
    names = ("lidar", "camera", "camera_rear")
    sync = Synchronizer([sensor(name) for name in names])
    sets = []
    for k in range(8):
        stamp = SECOND + round(k / rate_hz * SECOND)
        for name in sorted(names, key=late_topic.__eq__):
            received = stamp + (1 * MS if name == late_topic else 2 * MS)
            sets += sync.add(name, stamp, name, received)
        sets += sync.advance(stamp + 30 * MS)
    assert [s.stamp_ns for s in sets] == [SECOND + round(k / rate_hz * SECOND) for k in range(8)]
    assert all(s.complete for s in sets)
    assert not any(statistics.drops for statistics in sync.statistics.values())
