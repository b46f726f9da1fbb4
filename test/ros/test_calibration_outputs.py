"""The thread of the calibration monitor: period, skipped frames, diagnostics."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

from multimodal_perception.calibration_monitor import monitor as monitor_module
from multimodal_perception.calibration_monitor.monitor import CalibrationMonitorConfig
from multimodal_perception.calibration_monitor.sensor_pairs import Pair, RotationMeasurement
from multimodal_perception.frame import SensorFrame
from multimodal_perception.messages.message_types import RclpyTypes
from multimodal_perception.perception import Level
from multimodal_perception.ros.calibration_outputs import CalibrationOutputs

SECOND = 1_000_000_000
PAIR = Pair("camera", "lidar", "camera-lidar")


def frame(seconds: float) -> SensorFrame:
    return SensorFrame(round(seconds * SECOND))


def fail(error: Exception) -> None:
    raise error


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Stamps of the measured frames; each measurement returns a rotation error of 2 degrees."""
    stamps: list[int] = []
    radians_per_pixel, rotation = np.full(3, 1e-3), np.radians((0.0, 2.0, 0.0))

    def measure_rotation_error(frame: SensorFrame, pair: Pair, _: object) -> RotationMeasurement:
        stamps.append(frame.stamp_ns)
        return RotationMeasurement(
            pair,
            frame.stamp_ns,
            rotation,
            1e-6 * np.eye(3),
            radians_per_pixel,
            np.full(2, 500.0),
            0.9,
            3.0,
        )

    monkeypatch.setattr(monitor_module, "find_pairs", lambda _: iter([PAIR]))
    monkeypatch.setattr(monitor_module, "measure_rotation_error", measure_rotation_error)
    return stamps


def wait_for(outputs: CalibrationOutputs) -> None:
    assert outputs._idle.wait(30.0)


def test_measurements_follow_the_period_of_frame_stamps(measured: list[int]) -> None:
    outputs = CalibrationOutputs(RclpyTypes(), CalibrationMonitorConfig(period_s=2.0), fail)
    taken = []
    for tenths in range(0, 50, 5):
        taken.append(outputs.offer(frame(tenths / 10)))
        wait_for(outputs)
    assert measured == [0, 2 * SECOND, 4 * SECOND] and sum(taken) == 3
    # Stamps that jump back, as when a bag restarts, start a new measurement at once.
    assert outputs.offer(frame(1.0))
    wait_for(outputs)
    assert outputs.stop()


def test_diagnostics_report_drift_and_uncertainty(measured: list[int]) -> None:
    outputs = CalibrationOutputs(RclpyTypes(), CalibrationMonitorConfig(), fail)
    assert outputs.statuses("/perception") == []
    outputs.offer(frame(0))
    wait_for(outputs)
    (status,) = outputs.statuses("/perception")
    assert status.name == "/perception: calibration of camera to lidar"
    assert status.level == bytes([Level.ERROR.value]) and "2.00 deg" in status.message
    values = {v.key: float(v.value) for v in status.values}
    assert values["rotation_y_deg"] == pytest.approx(2.0)
    assert values["shift_x_px"] == pytest.approx(500 * np.radians(2.0), rel=1e-3)
    assert (
        values["shift_x_sd_px"] > 0 and values["angle_sd_deg"] > 0 and values["measurements"] == 1
    )
    assert outputs.stop()


def test_slow_measurement_does_not_block(
    measured: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    started, release = threading.Event(), threading.Event()

    def slow(frame: SensorFrame, pair: Pair, _: object) -> None:
        started.set()
        release.wait(60.0)

    monkeypatch.setattr(monitor_module, "measure_rotation_error", slow)
    outputs = CalibrationOutputs(RclpyTypes(), CalibrationMonitorConfig(period_s=1.0), fail)
    assert outputs.offer(frame(0)) and started.wait(30.0)
    start = time.perf_counter()
    assert not any(outputs.offer(frame(k)) for k in range(1, 100))
    assert time.perf_counter() - start < 10.0 and outputs.skipped_frames == 99
    release.set()
    wait_for(outputs)
    assert outputs.offer(frame(200))
    assert outputs.stop()


def test_stop_cancels_a_running_measurement(
    measured: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    started = threading.Event()

    def endless(frame: SensorFrame, pair: Pair, cancelled: Callable[[], bool]) -> None:
        started.set()
        while not cancelled():
            time.sleep(0.01)

    monkeypatch.setattr(monitor_module, "measure_rotation_error", endless)
    outputs = CalibrationOutputs(RclpyTypes(), CalibrationMonitorConfig(), fail)
    assert outputs.offer(frame(0)) and started.wait(30.0)
    assert outputs.stop()


def test_failed_measurement_is_reported_and_the_next_one_runs(
    measured: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    errors: list[Exception] = []
    outputs = CalibrationOutputs(
        RclpyTypes(), CalibrationMonitorConfig(period_s=1.0), errors.append
    )

    def broken(frame: SensorFrame, pair: Pair, _: object) -> None:
        raise RuntimeError("no")

    good = monitor_module.measure_rotation_error
    monkeypatch.setattr(monitor_module, "measure_rotation_error", broken)
    outputs.offer(frame(0))
    wait_for(outputs)
    monkeypatch.setattr(monitor_module, "measure_rotation_error", good)
    assert outputs.offer(frame(2))
    wait_for(outputs)
    assert measured == [2 * SECOND]
    assert outputs.stop() and [str(e) for e in errors] == ["no"]
