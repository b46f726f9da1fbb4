"""Wrong clocks of single sensors and pairs, with and without gaps. Time is simulated."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multimodal_perception.perception import Level
from multimodal_perception.synchronization.sensor_health import sensor_health
from multimodal_perception.synchronization.synchronizer import Synchronizer
from test.synchronization.clock_faults import (
    LATENCIES_MS,
    MS,
    SECOND,
    Played,
    Stream,
    make_sensor,
    play,
)

SENSORS = tuple(LATENCIES_MS)
PAIRS = tuple(combinations(SENSORS, 2))
OFFSETS_S = (0.05, 0.07, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0)
GAPS_S = (0.0, 0.2, 0.7, 1.5)
END_S = 6.6  # of the measurement; the streams end at 7 s


def assert_others_are_used(played: Played, culprits: tuple[str, ...], start_s: float) -> None:
    """Assert that every honest sensor is in the sets at the full rate from a time on."""
    rate = len(played.between(start_s, END_S)) / (END_S - start_s)
    assert rate >= 9.0, (culprits, rate)
    for name in SENSORS:
        used = played.used(name, start_s, END_S)
        assert name in culprits or used >= 0.9, (culprits, name, used)
    assert played.synchronizer.clock_jumps == 0


@pytest.mark.parametrize("gap_s", GAPS_S)
@pytest.mark.parametrize("culprit", SENSORS)
def test_one_wrong_clock_mutes_no_other_sensor(culprit: str, gap_s: float) -> None:
    for offset_s in (*OFFSETS_S, *(-s for s in OFFSETS_S)):
        for fault_start_s in (0.0, 2.0):
            stream = Stream(
                faults={culprit: offset_s},
                fault_start_s=fault_start_s,
                gaps=("lidar",),
                gap_s=gap_s,
                until_s=7.0,
            )
            assert_others_are_used(play(stream), (culprit,), 3.0 + gap_s + 1.0)


@pytest.mark.parametrize("base_s", [0.0, -1e6, 0.2])
@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(PAIRS),
    st.sampled_from(SENSORS),
    st.sampled_from([-1.0, 1.0]),
    st.floats(0.05, 5.0),
    st.sampled_from(GAPS_S),
    st.sampled_from([0.0, 2.0]),
)
def test_two_equally_wrong_clocks_mute_no_other_sensor(
    base_s: float,
    pair: tuple[str, str],
    gapped: str,
    sign: float,
    offset_s: float,
    gap_s: float,
    fault_start_s: float,
) -> None:
    """base_s: all sensors have a clock of their own, as in a bag that is played without /clock."""
    stream = Stream(
        faults=dict.fromkeys(pair, sign * offset_s),
        fault_start_s=fault_start_s,
        gaps=(gapped,),
        gap_s=gap_s,
        base_s=base_s,
        until_s=7.0,
    )
    played = play(stream)
    rate = len(played.between(5.5, END_S)) / (END_S - 5.5)
    assert rate >= 8.9
    for name in SENSORS:
        assert name in pair or played.used(name, 5.5, END_S) >= 0.9, name


def test_time_of_sets_is_not_ahead_of_the_majority() -> None:
    """A camera is 0.3 s ahead while the LiDAR, which defines the time otherwise, is silent."""
    stream = Stream(faults={"camera": 0.3}, fault_start_s=2.0, gaps=("lidar",), gap_s=1.0)
    played = play(stream)
    ahead_s = [s.stamp_ns / SECOND - 100 - at for at, s in played.sets]
    assert max(ahead_s) <= 0.0
    drops = played.synchronizer.statistics["camera"].drops
    assert drops["stamp_ahead"] >= 55
    assert {n for n in SENSORS if played.synchronizer.statistics[n].drops["stamp_ahead"]} == {
        "camera"
    }


def test_lidar_ahead_from_the_start_restarts_the_time_of_sets() -> None:
    """The LiDAR publishes alone first, so that its clock is that of the sets at first."""
    stream = Stream(faults={"lidar": 0.5})
    alone = list(Stream(sensors=("lidar",), faults={"lidar": 0.5}, until_s=1.0))
    later = [e for e in stream if e[0] >= 101 * SECOND]

    synchronizer = Synchronizer([make_sensor(n) for n in SENSORS])
    played = Played(synchronizer)
    for now_ns, name, stamp_ns in [*alone, *later]:
        for emitted in synchronizer.add(name, stamp_ns, None, now_ns):
            played.sets.append((now_ns / SECOND - 100, emitted))
    assert synchronizer.time_restarts == 1
    for name in SENSORS[1:]:
        assert played.used(name, 2.0, END_S) == 1.0
    assert played.used("lidar", 2.0, END_S) == 0.0


@pytest.mark.parametrize("offset_s", [0.07, 0.3, 5.0, -0.3, -5.0])
def test_sensor_is_used_again_within_a_second_after_its_clock_is_corrected(offset_s: float) -> None:
    for name in SENSORS:
        played = play(Stream(faults={name: offset_s}, fault_start_s=2.0, fault_end_s=5.0))
        for other in SENSORS:
            assert played.used(other, 6.0, 7.6) >= 0.9, (name, other)


@pytest.mark.parametrize("latency_ms", [60, 110, 200, 300])
@pytest.mark.parametrize("gap_s", [0.3, 1.0])
def test_lidar_with_latency_is_the_reference_again_after_a_gap(
    latency_ms: int, gap_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LATENCIES_MS, "lidar", latency_ms)
    played = play(Stream(gaps=("lidar",), gap_s=gap_s))
    start_s = 3.0 + gap_s + 1.0
    assert played.used("lidar", start_s, 7.5) == 1.0
    assert all(s.stamp_ns % (100 * MS) == 0 for s in played.between(start_s, 7.5))


def test_diagnostics_name_the_sensor_with_the_wrong_clock_only() -> None:
    for offset_s, text in ((0.5, "ahead of the clock of most"), (-2.0, "behind the clock of most")):
        stream = Stream(faults={"camera": offset_s}, gaps=("lidar",), gap_s=0.7)
        played = play(stream)
        now_ns = round(107.9 * SECOND)
        for name, statistics in played.synchronizer.statistics.items():
            drops = dict(statistics.drops)
            health = sensor_health(make_sensor(name), statistics, drops, drops, now_ns)
            if name == "camera":
                assert health.level is Level.ERROR and text in health.message
                error_s = float(health.message.split("stamps are ")[1].split()[0])
                assert error_s == pytest.approx(abs(offset_s), abs=0.03)
            else:
                assert (health.level, health.message) == (Level.OK, "ok"), name


def test_lag_of_a_late_sensor_is_reported() -> None:
    played = play(Stream(faults={"thermal": -0.5}))
    statistics = played.synchronizer.statistics["thermal"]
    drops = dict(statistics.drops)
    health = sensor_health(make_sensor("thermal"), statistics, drops, {}, round(107.9 * SECOND))
    assert health.level is Level.ERROR
    assert "behind those of most sensors" in health.message and "late" in health.message


@pytest.mark.parametrize("stall_s", [0.5, 1.5, 4.0])
def test_late_arrival_of_all_messages_is_not_a_jump_of_the_clock(stall_s: float) -> None:
    """A busy computer delivers the messages of some seconds at once."""
    start_ns, end_ns = 104 * SECOND, round((104 + stall_s) * SECOND)
    events = []
    for at, (now_ns, name, stamp_ns) in enumerate(Stream(until_s=12.0)):
        delayed_ns = end_ns + at * 1000 if start_ns <= now_ns < end_ns else now_ns
        events.append((delayed_ns, name, stamp_ns))
    synchronizer = Synchronizer([make_sensor(n) for n in SENSORS])
    sets = []
    for now_ns, name, stamp_ns in sorted(events):
        sets += [(now_ns, s) for s in synchronizer.add(name, stamp_ns, None, now_ns)]
    assert synchronizer.clock_jumps == 0
    after = [s for now_ns, s in sets if now_ns > end_ns + SECOND]
    assert len(after) >= 9.5 * (12 - 4 - stall_s - 1) - 3
    assert all(s.complete for s in after)


@pytest.mark.parametrize("offset_s", [-0.5, 30.0, 86400.0])
def test_single_wrong_stamps_are_dropped_one_by_one(offset_s: float) -> None:
    synchronizer = Synchronizer([make_sensor(n) for n in SENSORS])
    sets = []
    for at, (now_ns, name, stamp_ns) in enumerate(Stream()):
        wrong_ns = round(offset_s * SECOND) if at % 50 == 49 else 0
        sets += synchronizer.add(name, stamp_ns + wrong_ns, None, now_ns)
    assert len(sets) >= 76
    assert sum(len(s.missing) for s in sets) <= 3 * len(sets) / 8
    assert synchronizer.clock_jumps == synchronizer.time_restarts == 0


@pytest.mark.parametrize("rate_hz", [0.5, 1.0, 2.0, 2.5, 3.0, 5.0, 10.0])
@pytest.mark.parametrize("spread_ms", [40, 120])
def test_all_sets_are_complete_at_every_playback_rate(rate_hz: float, spread_ms: int) -> None:
    """Frames of a rig of 10 Hz are published more slowly; their messages arrive one by one."""
    if spread_ms > 0.5e3 / rate_hz or (rate_hz > 4 and spread_ms > 50):
        pytest.skip("the messages of a frame arrive within the deadline")
    synchronizer = Synchronizer([make_sensor(n) for n in SENSORS])
    sets = []
    now_ns = 100 * SECOND
    for frame in range(30):
        stamp_ns = 100 * SECOND + round(frame * SECOND / rate_hz)
        for at, name in enumerate(("camera", "camera2", "thermal", "lidar", *SENSORS[4:])):
            arrival_ns = stamp_ns + (at + 1) * spread_ms * MS // len(SENSORS)
            while now_ns + 10 * MS < arrival_ns:
                now_ns += 10 * MS
                sets += synchronizer.advance(now_ns)
            now_ns = arrival_ns
            sets += synchronizer.add(name, stamp_ns, None, now_ns)
    # The rate is unknown at the first frames.
    assert len(sets) == 30
    assert sum(not s.complete for s in sets[:1]) <= (spread_ms > 50)
    assert all(s.complete for s in sets[1:])


def test_silence_of_a_slow_sensor_is_measured_in_its_own_periods() -> None:
    synchronizer = Synchronizer([make_sensor("lidar"), make_sensor("camera")])
    sets = []
    for i in range(200):
        now_ns = 100 * SECOND + i * 100 * MS
        sets += synchronizer.advance(now_ns)
        sets += synchronizer.add("lidar", now_ns - 5 * MS, None, now_ns)
        if i % 5 == 0 and i < 150:
            sets += synchronizer.add("camera", now_ns - 5 * MS, None, now_ns)
    with_camera = [s for s in sets if "camera" in s.readings]
    assert len(sets) >= 198 and len(with_camera) >= 29
    assert synchronizer.statistics["camera"].clock.silence_ns == 1500 * MS  # type: ignore[union-attr]


def test_sensor_that_died_in_a_pause_delays_one_set_only() -> None:
    stream = [e for e in Stream(until_s=5.0) if not 102 * SECOND <= e[0] < 103 * SECOND]
    synchronizer = Synchronizer([make_sensor(n) for n in SENSORS])
    delays = []
    now_ns = 100 * SECOND
    for arrival_ns, name, stamp_ns in stream:
        if name == "thermal" and arrival_ns >= 103 * SECOND:
            continue
        while now_ns + 10 * MS < arrival_ns:
            now_ns += 10 * MS
            delays += [(now_ns - s.stamp_ns) / SECOND for s in synchronizer.advance(now_ns)]
        now_ns = arrival_ns
        delays += [
            (now_ns - s.stamp_ns) / SECOND
            for s in synchronizer.add(name, stamp_ns, None, arrival_ns)
        ]
    assert sum(d > 0.3 for d in delays) <= 8
    assert max(delays) <= 1.0 and max(delays[-2:]) <= 0.3
