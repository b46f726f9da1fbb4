"""Drift estimation from several measurements."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from multimodal_perception.calibration_monitor import monitor as monitor_module
from multimodal_perception.calibration_monitor.monitor import (
    CalibrationMonitor,
    CalibrationMonitorConfig,
    estimate_drift,
)
from multimodal_perception.calibration_monitor.sensor_pairs import Pair, RotationMeasurement
from multimodal_perception.perception import Level
from test.calibration_monitor.painted_street import CAMERA, THERMAL, street, wrong

RADIANS_PER_PIXEL = np.array([1 / 300.0, 1 / 300.0, 1 / 120.0])


def measurement(degrees: tuple[float, ...], sd: float = 0.05, **more: float) -> RotationMeasurement:
    covariance = np.diag(np.full(3, np.radians(sd) ** 2))
    focal = np.array([600.0, 620.0])
    values = {"inlier_fraction": 0.7, "peak_margin": 2.0, **more}
    pair = Pair("camera", "lidar", "camera-lidar")
    return RotationMeasurement(
        pair, 0, np.radians(degrees), covariance, RADIANS_PER_PIXEL, focal, **values
    )


def test_drift_reports_size_and_level() -> None:
    drift = estimate_drift([measurement((0.1, 0.8, 0.0))] * 3)
    assert drift is not None and drift.level is Level.WARN and drift.measurements == 3
    assert drift.degrees == pytest.approx(np.hypot(0.1, 0.8))
    assert drift.shift == pytest.approx([600 * np.radians(0.8), -620 * np.radians(0.1)])
    # The uncertainty is never below the systematic error of 0.7 pixels at a focal length of 300.
    assert np.degrees(0.7 / 300.0) <= drift.degrees_sd < 0.2
    assert "0.81 deg relative to lidar" in drift.message
    far = estimate_drift([measurement((0.0, -1.4, 0.0))])
    assert far is not None and far.level is Level.ERROR


@pytest.mark.parametrize("degrees", [(0.0, 0.0, 0.0), (0.1, -0.15, 0.1), (0.0, 0.0, 0.5)])
def test_offset_within_its_uncertainty_is_no_drift(degrees: tuple[float, ...]) -> None:
    drift = estimate_drift([measurement(degrees, sd=0.1)])
    assert drift is not None and drift.level is Level.OK and drift.message == "ok"


def test_large_but_uncertain_measurement_gives_no_warning() -> None:
    drift = estimate_drift([measurement((2.0, 0.0, 0.0), sd=1.5)])
    assert drift is not None and drift.level is Level.OK


def test_measurements_with_low_support_or_distinctness_are_rejected() -> None:
    assert (
        estimate_drift(
            [
                measurement((2.0, 0, 0), inlier_fraction=0.1),
                measurement((2.0, 0, 0), peak_margin=0.0),
            ]
        )
        is None
    )
    assert estimate_drift([]) is None
    config = CalibrationMonitorConfig(min_inlier_fraction=0.0)
    assert estimate_drift([measurement((2.0, 0, 0), inlier_fraction=0.1)], config) is not None


def test_two_false_matches_of_eight_do_not_bias_the_drift() -> None:
    rng = np.random.default_rng(0)
    measurements = [measurement(tuple(rng.normal(0, 0.05, 3))) for _ in range(6)]
    measurements += [measurement((2.2, -1.9, 1.0)), measurement((-1.5, 2.4, -2.0))]
    drift = estimate_drift(measurements)
    assert drift is not None and drift.level is Level.OK and drift.degrees < 0.15


def test_monitor_measures_pairs_in_rotation_and_detects_drift() -> None:
    monitor = CalibrationMonitor()
    for k in range(4):
        monitor.observe(wrong(street(seed=k, stamp_ns=k), "camera", (0.0, 1.2, 0.0)))
    assert {str(p): n for p, n in monitor._measured.items()} == {
        "camera to lidar": 2,
        "thermal to camera": 2,
    }
    camera, thermal = monitor.drifts[CAMERA], monitor.drifts[THERMAL]
    assert camera.level is Level.ERROR and np.degrees(camera.rotation[1]) == pytest.approx(
        1.2, abs=0.15
    )
    # The thermal camera's pose is correct. Relative to the wrong camera, it has the opposite error.
    assert np.degrees(thermal.rotation[1]) == pytest.approx(-1.2, abs=0.2)


def test_stamps_that_jump_back_reset_the_monitor() -> None:
    monitor = CalibrationMonitor()
    frame = replace(wrong(street(stamp_ns=10), "camera", (0.0, 1.2, 0.0)), thermals={})
    monitor.observe(frame)
    assert monitor.drifts[CAMERA].level is Level.ERROR
    monitor.observe(replace(street(seed=1, stamp_ns=5), thermals={}))
    assert monitor.drifts[CAMERA].level is Level.OK and monitor.drifts[CAMERA].measurements == 1


def test_frame_without_a_pair_gives_no_measurement() -> None:
    monitor = CalibrationMonitor()
    assert monitor.observe(replace(street(), lidars={}, thermals={})) is None
    assert not monitor.drifts and not monitor.counts
    black = replace(street().cameras["camera"], pixels=np.zeros((260, 400, 3), np.uint8))
    assert monitor.observe(replace(street(), cameras={"camera": black}, thermals={})) is None
    assert monitor.counts["camera to lidar.too_few_common_edges"] == 1


def agreement_after(
    monkeypatch: pytest.MonkeyPatch, inlier_fractions: list[float], thermal: list[float] = ()
) -> dict[str, float]:  # type: ignore[assignment]
    """Agreement after measurements with given inlier fractions of both image sensors."""
    remaining = {CAMERA: list(inlier_fractions), THERMAL: list(thermal)}
    pairs = [p for p, shares in remaining.items() if shares]
    monkeypatch.setattr(monitor_module, "find_pairs", lambda _: iter(pairs))
    monkeypatch.setattr(
        monitor_module,
        "measure_rotation_error",
        lambda frame, pair, _: replace(
            measurement((0.0,) * 3, inlier_fraction=remaining[pair].pop(0)), pair=pair
        ),
    )
    monitor = CalibrationMonitor()
    for k in range(len(inlier_fractions) + len(thermal)):
        monitor.observe(replace(street(), stamp_ns=k))
    return monitor.agreement


def test_agreement_drops_when_a_sensor_shows_another_scene(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert agreement_after(monkeypatch, [0.7] * 5) == {"camera": 1.0}
    assert agreement_after(monkeypatch, [0.7] * 4 + [0.2] * 4) == {"camera": 0.0}
    # No value after too few measurements, or if the sensors have never agreed.
    assert agreement_after(monkeypatch, [0.7] * 3) == {}
    assert agreement_after(monkeypatch, [0.2] * 8) == {}


def test_one_agreeing_pair_is_sufficient(monkeypatch: pytest.MonkeyPatch) -> None:
    agreement = agreement_after(monkeypatch, [0.7] * 8, [0.7] * 4 + [0.2] * 4)
    assert agreement == {"camera": 1.0, "thermal": 0.0}
