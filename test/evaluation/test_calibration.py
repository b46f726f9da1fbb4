"""Evaluation of the calibration monitor with known shifts and rotations."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from multimodal_perception.calibration_monitor.sensor_pairs import Pair
from multimodal_perception.cli.main import main
from multimodal_perception.datasets.visible_thermal_pairs import ImagePair
from multimodal_perception.evaluation.calibration import (
    RotationTrial,
    drift_metrics,
    estimate_motion,
    mean_displacement,
    move_thermal_image,
)

SHAPE = (180, 260)
PAIR = Pair("camera", "lidar", "camera-lidar")


def drawn(seed: int) -> np.ndarray:
    """Grey image (H, W) uint8 of overlapping rectangles."""
    rng = np.random.default_rng(seed)
    image = np.full(SHAPE, 120, np.uint8)
    for _ in range(70):
        x, y = (int(v) for v in rng.integers(0, (SHAPE[1], SHAPE[0])))
        w, h = (int(v) for v in rng.integers(8, 45, 2))
        cv2.rectangle(image, (x, y), (x + w, y + h), int(rng.integers(10, 245)), -1)
    return image


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two pairs; the thermal image is the negative of the visible image."""
    for folder in ("visible", "infrared"):
        (tmp_path / folder).mkdir()
    for k in range(2):
        cv2.imwrite(str(tmp_path / "visible" / f"{k}.png"), drawn(k))
        cv2.imwrite(str(tmp_path / "infrared" / f"{k}.png"), 255 - drawn(k))
    return tmp_path


def test_known_motion_is_estimated() -> None:
    image = drawn(3)
    pair = ImagePair("", np.dstack([image] * 3), 255 - image)
    motion = np.array([9.0, -12.0, np.radians(1.5)])
    moved, valid = move_thermal_image(pair, motion)
    fit = estimate_motion(image, moved, valid)
    assert fit is not None and mean_displacement(fit.values, motion, SHAPE) < 0.5
    assert valid.mean() > 0.8 and not valid.all()


def test_mean_displacement_of_a_shift_and_of_a_rotation() -> None:
    zero = np.zeros(3)
    assert mean_displacement(np.array([3.0, 4.0, 0.0]), zero, SHAPE) == pytest.approx(5.0)
    rotation = mean_displacement(np.array([0.0, 0.0, 0.01]), zero, (101, 101))
    # In a square the mean distance to the centre is 0.383 of the side; the grid emphasises the border.
    assert 0.383 < rotation < 0.5


def test_detection_rate_and_false_alarm_rate() -> None:
    trials = [
        RotationTrial("a", PAIR, 1.0, 0.1, True),
        RotationTrial("a", PAIR, 0.6, np.nan, False),
        RotationTrial("b", PAIR, 0.0, 0.2, False),
        RotationTrial("b", PAIR, 0.04, 0.3, True),
    ]
    metrics = drift_metrics(trials)["camera to lidar"]
    assert metrics["detection_rate"] == 0.5 and metrics["false_alarm_rate"] == 0.5
    assert metrics["frames"] == 2 and metrics["no_estimate_rate"] == 0.25
    assert metrics["median_error_deg"] == pytest.approx(0.2)


def test_command_evaluates_pairs(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "metrics.json"
    assert main(["evaluate", "calibration", "--root", str(root), "--json", str(out)]) == 0
    metrics = json.loads(out.read_text())["pairs"]
    assert metrics["pairs"] == 2 and metrics["median_error_px"] < 0.7
    assert "2 pairs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to evaluate"),
        (["--root", "nowhere"], "nowhere"),
        (["--seeds", "x"], "--seeds"),
    ],
)
def test_invalid_options_are_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "calibration", *arguments]) == 2
    assert message in capsys.readouterr().err
