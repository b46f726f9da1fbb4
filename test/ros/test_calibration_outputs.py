"""The watch's thread: its period, what it passes over, and what diagnostics say."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

from multimodal_perception.calibration_monitor import monitor as watching
from multimodal_perception.calibration_monitor.monitor import WatchConfig
from multimodal_perception.calibration_monitor.sensor_pairs import Look, Pair
from multimodal_perception.frame import SensorFrame
from multimodal_perception.messages.message_types import RclpyTypes
from multimodal_perception.perception import Level
from multimodal_perception.ros.calibration_outputs import RegistrationOutputs

SECOND = 1_000_000_000
PAIR = Pair("camera", "lidar", "camera-lidar")


def frame(seconds: float) -> SensorFrame:
    return SensorFrame(round(seconds * SECOND))


def fail(error: Exception) -> None:
    raise error


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Stamps that were looked at; each look finds the camera turned by 2 degrees."""
    stamps: list[int] = []
    thin, turn = np.full(3, 1e-3), np.radians((0.0, 2.0, 0.0))

    def look(seen: SensorFrame, pair: Pair, _: object) -> Look:
        stamps.append(seen.stamp_ns)
        return Look(pair, seen.stamp_ns, turn, 1e-6 * np.eye(3), thin, np.full(2, 500.0), 0.9, 3.0)

    monkeypatch.setattr(watching, "pairs_of", lambda _: iter([PAIR]))
    monkeypatch.setattr(watching, "look", look)
    return stamps


def wait_for(outputs: RegistrationOutputs) -> None:
    assert outputs._idle.wait(5.0)


def test_looks_are_a_period_apart_by_the_frames_stamps(looks: list[int]) -> None:
    outputs = RegistrationOutputs(RclpyTypes(), WatchConfig(period_s=2.0), fail)
    taken = []
    for tenths in range(0, 50, 5):
        taken.append(outputs.offer(frame(tenths / 10)))
        wait_for(outputs)
    assert looks == [0, 2 * SECOND, 4 * SECOND] and sum(taken) == 3
    # Stamps that jump back, as of a bag that begins again, are no reason to wait.
    assert outputs.offer(frame(1.0))
    wait_for(outputs)
    assert outputs.stop()


def test_diagnostics_say_what_was_found_with_its_uncertainty(looks: list[int]) -> None:
    outputs = RegistrationOutputs(RclpyTypes(), WatchConfig(), fail)
    assert outputs.statuses("/perception") == []
    outputs.offer(frame(0))
    wait_for(outputs)
    (status,) = outputs.statuses("/perception")
    assert status.name == "/perception: registration of camera to lidar"
    assert status.level == bytes([Level.ERROR.value]) and "2.00 deg" in status.message
    values = {v.key: float(v.value) for v in status.values}
    assert values["turn_y_deg"] == pytest.approx(2.0)
    assert values["shift_x_px"] == pytest.approx(500 * np.radians(2.0), rel=1e-3)
    assert values["shift_x_sd_px"] > 0 and values["angle_sd_deg"] > 0 and values["looks"] == 1
    assert outputs.stop()


def test_a_slow_look_blocks_nobody(looks: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(seen: SensorFrame, pair: Pair, _: object) -> None:
        begun.set()
        go_on.wait(10.0)

    monkeypatch.setattr(watching, "look", slow)
    outputs = RegistrationOutputs(RclpyTypes(), WatchConfig(period_s=1.0), fail)
    assert outputs.offer(frame(0)) and begun.wait(5.0)
    start = time.perf_counter()
    assert not any(outputs.offer(frame(k)) for k in range(1, 100))
    assert time.perf_counter() - start < 0.5 and outputs.passed_over == 99
    go_on.set()
    wait_for(outputs)
    assert outputs.offer(frame(200))
    assert outputs.stop()


def test_stopping_ends_a_look_that_goes_on(
    looks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = threading.Event()

    def endless(seen: SensorFrame, pair: Pair, cancelled: Callable[[], bool]) -> None:
        begun.set()
        while not cancelled():
            time.sleep(0.01)

    monkeypatch.setattr(watching, "look", endless)
    outputs = RegistrationOutputs(RclpyTypes(), WatchConfig(), fail)
    assert outputs.offer(frame(0)) and begun.wait(5.0)
    assert outputs.stop()


def test_a_look_that_fails_is_reported_and_the_next_one_goes_on(
    looks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    errors: list[Exception] = []
    outputs = RegistrationOutputs(RclpyTypes(), WatchConfig(period_s=1.0), errors.append)

    def broken(seen: SensorFrame, pair: Pair, _: object) -> None:
        raise RuntimeError("no")

    good = watching.look
    monkeypatch.setattr(watching, "look", broken)
    outputs.offer(frame(0))
    wait_for(outputs)
    monkeypatch.setattr(watching, "look", good)
    assert outputs.offer(frame(2))
    wait_for(outputs)
    assert looks == [2 * SECOND]
    assert outputs.stop() and [str(e) for e in errors] == ["no"]
