"""The node's time without /clock, with a stopped /clock and with a paused simulation."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from multimodal_perception.ros import clock
from multimodal_perception.ros.clock import NodeClock

SECOND = 1_000_000_000


class Times:
    """Simulated ROS time and steady time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, is_simulated: bool = True) -> None:
        self.ros_ns = 0
        self.steady_ns = 50 * SECOND
        self.ros_time_is_active = is_simulated
        monkeypatch.setattr(clock, "time", SimpleNamespace(monotonic_ns=lambda: self.steady_ns))
        self.clock = NodeClock(SimpleNamespace(get_clock=lambda: self))

    def now(self) -> SimpleNamespace:
        return SimpleNamespace(nanoseconds=self.ros_ns)

    def elapse(self, seconds: float, ros: bool) -> None:
        self.steady_ns += round(seconds * SECOND)
        self.ros_ns += round(seconds * SECOND) if ros else 0


def test_ros_time_is_used_without_simulation(monkeypatch: pytest.MonkeyPatch) -> None:
    times = Times(monkeypatch, is_simulated=False)
    times.ros_ns = 7 * SECOND
    times.elapse(10.0, ros=False)
    times.clock.on_message()
    assert times.clock.now_ns() == 7 * SECOND
    assert not times.clock.problem


def test_steady_time_is_used_until_the_first_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    times = Times(monkeypatch)
    assert not times.clock.problem
    before = times.clock.now_ns()
    times.elapse(2.0, ros=False)
    assert times.clock.now_ns() - before == 2 * SECOND
    assert "no /clock" in times.clock.problem
    times.ros_ns = 1_000 * SECOND
    assert times.clock.now_ns() == 1_000 * SECOND
    assert not times.clock.problem


def test_time_continues_if_sensors_publish_after_the_clock_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    times = Times(monkeypatch)
    times.ros_ns = 1_000 * SECOND
    times.clock.now_ns()
    times.elapse(3.0, ros=False)
    times.clock.on_message()
    assert times.clock.now_ns() == 1_003 * SECOND
    assert "no /clock for 3.0 s" in times.clock.problem
    times.elapse(1.0, ros=True)
    assert times.clock.now_ns() == 1_001 * SECOND
    assert not times.clock.problem


def test_time_stands_still_while_a_simulation_is_paused(monkeypatch: pytest.MonkeyPatch) -> None:
    times = Times(monkeypatch)
    times.ros_ns = 1_000 * SECOND
    times.clock.now_ns()
    times.elapse(0.2, ros=False)
    times.clock.on_message()  # still under way
    times.elapse(600.0, ros=False)
    assert times.clock.now_ns() == 1_000 * SECOND
    assert not times.clock.problem


def test_arrival_is_the_time_of_reception_if_it_is_plausible(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    times = Times(monkeypatch, is_simulated=False)
    times.ros_ns = 1_000 * SECOND
    for received_ns, expected_ns in (
        (999 * SECOND, 999 * SECOND),
        (0, 1_000 * SECOND),  # not filled in by the middleware
        (1_001 * SECOND, 1_000 * SECOND),  # the clock was set back
    ):
        assert times.clock.arrival_ns({"received_timestamp": received_ns}) == expected_ns
    assert times.clock.arrival_ns(None) == 1_000 * SECOND


def test_arrival_is_now_and_the_step_of_the_clock_is_measured_with_simulated_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    times = Times(monkeypatch)
    times.ros_ns = 1_000 * SECOND
    assert times.clock.arrival_ns({"received_timestamp": 5}) == 1_000 * SECOND
    for _ in range(50):
        times.elapse(0.1, ros=True)
        times.clock.now_ns()
    assert times.clock.resolution_ns == SECOND // 10
    times.ros_ns += 100 * SECOND  # a jump
    times.clock.now_ns()
    assert times.clock.resolution_ns == SECOND // 10
    for _ in range(500):
        times.elapse(0.01, ros=True)
        times.clock.now_ns()
    assert times.clock.resolution_ns == SECOND // 100
