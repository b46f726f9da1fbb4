"""Many looks to one verdict."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from multimodal_perception.calibration_monitor import monitor as watching
from multimodal_perception.calibration_monitor.monitor import RegistrationWatch, WatchConfig, judge
from multimodal_perception.calibration_monitor.sensor_pairs import Look, Pair
from multimodal_perception.perception import Level
from test.calibration_monitor.painted_street import CAMERA, THERMAL, street, wrong

PIXEL = np.array([1 / 300.0, 1 / 300.0, 1 / 120.0])


def seen(degrees: tuple[float, ...], sd: float = 0.05, **more: float) -> Look:
    covariance = np.diag(np.full(3, np.radians(sd) ** 2))
    focal = np.array([600.0, 620.0])
    values = {"support": 0.7, "distinct": 2.0, **more}
    pair = Pair("camera", "lidar", "camera-lidar")
    return Look(pair, 0, np.radians(degrees), covariance, PIXEL, focal, **values)


def test_drift_is_told_with_its_size_and_level() -> None:
    drift = judge([seen((0.1, 0.8, 0.0))] * 3)
    assert drift is not None and drift.level is Level.WARN and drift.looks == 3
    assert drift.degrees == pytest.approx(np.hypot(0.1, 0.8))
    assert drift.shift == pytest.approx([600 * np.radians(0.8), -620 * np.radians(0.1)])
    # Never surer than the systematic error of 0.7 pixels at a focal length of 300.
    assert np.degrees(0.7 / 300.0) <= drift.degrees_sd < 0.2
    assert "0.81 deg against lidar" in drift.message
    far = judge([seen((0.0, -1.4, 0.0))])
    assert far is not None and far.level is Level.ERROR


@pytest.mark.parametrize("degrees", [(0.0, 0.0, 0.0), (0.1, -0.15, 0.1), (0.0, 0.0, 0.5)])
def test_what_is_within_its_uncertainty_is_no_drift(degrees: tuple[float, ...]) -> None:
    drift = judge([seen(degrees, sd=0.1)])
    assert drift is not None and drift.level is Level.OK and drift.message == "ok"


def test_unsure_looks_raise_no_alarm_however_large() -> None:
    drift = judge([seen((2.0, 0.0, 0.0), sd=1.5)])
    assert drift is not None and drift.level is Level.OK


def test_looks_that_do_not_stand_out_do_not_count() -> None:
    assert judge([seen((2.0, 0, 0), support=0.1), seen((2.0, 0, 0), distinct=0.0)]) is None
    assert judge([]) is None
    config = WatchConfig(least_support=0.0)
    assert judge([seen((2.0, 0, 0), support=0.1)], config) is not None


def test_two_false_matches_of_eight_do_not_sway_the_verdict() -> None:
    rng = np.random.default_rng(0)
    looks = [seen(tuple(rng.normal(0, 0.05, 3))) for _ in range(6)]
    looks += [seen((2.2, -1.9, 1.0)), seen((-1.5, 2.4, -2.0))]
    drift = judge(looks)
    assert drift is not None and drift.level is Level.OK and drift.degrees < 0.15


def test_a_watch_takes_pairs_in_turn_and_finds_what_is_wrong() -> None:
    watch = RegistrationWatch()
    for k in range(4):
        watch.observe(wrong(street(seed=k, stamp_ns=k), "camera", (0.0, 1.2, 0.0)))
    assert {str(p): n for p, n in watch._turns.items()} == {
        "camera to lidar": 2,
        "thermal to camera": 2,
    }
    camera, thermal = watch.drifts[CAMERA], watch.drifts[THERMAL]
    assert camera.level is Level.ERROR and np.degrees(camera.turn[1]) == pytest.approx(
        1.2, abs=0.15
    )
    # The thermal camera's own pose is right; held against a camera that is not, it is off the other way.
    assert np.degrees(thermal.turn[1]) == pytest.approx(-1.2, abs=0.2)


def test_another_recording_begins_anew() -> None:
    watch = RegistrationWatch()
    frame = replace(wrong(street(stamp_ns=10), "camera", (0.0, 1.2, 0.0)), thermals={})
    watch.observe(frame)
    assert watch.drifts[CAMERA].level is Level.ERROR
    watch.observe(replace(street(seed=1, stamp_ns=5), thermals={}))
    assert watch.drifts[CAMERA].level is Level.OK and watch.drifts[CAMERA].looks == 1


def test_frames_without_a_pair_are_passed_over() -> None:
    watch = RegistrationWatch()
    assert watch.observe(replace(street(), lidars={}, thermals={})) is None
    assert not watch.drifts and not watch.counts
    black = replace(street().cameras["camera"], pixels=np.zeros((260, 400, 3), np.uint8))
    assert watch.observe(replace(street(), cameras={"camera": black}, thermals={})) is None
    assert watch.counts["camera to lidar.too_little_in_common"] == 1


def agreement_after(
    monkeypatch: pytest.MonkeyPatch, supports: list[float], thermal: list[float] = ()
) -> dict[str, float]:  # type: ignore[assignment]
    """What a watch says after looks with such shares of agreeing blocks."""
    left = {CAMERA: list(supports), THERMAL: list(thermal)}
    pairs = [p for p, shares in left.items() if shares]
    monkeypatch.setattr(watching, "pairs_of", lambda _: iter(pairs))
    monkeypatch.setattr(
        watching,
        "look",
        lambda frame, pair, _: replace(seen((0.0,) * 3, support=left[pair].pop(0)), pair=pair),
    )
    watch = RegistrationWatch()
    for k in range(len(supports) + len(thermal)):
        watch.observe(replace(street(), stamp_ns=k))
    return watch.agreement


def test_a_sensor_that_no_longer_shows_what_others_see_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert agreement_after(monkeypatch, [0.7] * 5) == {"camera": 1.0}
    assert agreement_after(monkeypatch, [0.7] * 4 + [0.2] * 4) == {"camera": 0.0}
    # Too few looks, and a place where the two never agreed, say nothing against it.
    assert agreement_after(monkeypatch, [0.7] * 3) == {}
    assert agreement_after(monkeypatch, [0.2] * 8) == {}


def test_one_pair_that_agrees_clears_a_sensor(monkeypatch: pytest.MonkeyPatch) -> None:
    told = agreement_after(monkeypatch, [0.7] * 8, [0.7] * 4 + [0.2] * 4)
    assert told == {"camera": 1.0, "thermal": 0.0}
