"""Figures of the registration watch on known shifts and turns."""

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
    Trial,
    drift_figures,
    mean_displacement,
    register,
    shifted,
)

SHAPE = (180, 260)
PAIR = Pair("camera", "lidar", "camera-lidar")


def drawn(seed: int) -> np.ndarray:
    """Grey (H, W) uint8: rectangles one over the other."""
    rng = np.random.default_rng(seed)
    image = np.full(SHAPE, 120, np.uint8)
    for _ in range(70):
        x, y = (int(v) for v in rng.integers(0, (SHAPE[1], SHAPE[0])))
        w, h = (int(v) for v in rng.integers(8, 45, 2))
        cv2.rectangle(image, (x, y), (x + w, y + h), int(rng.integers(10, 245)), -1)
    return image


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two pairs; the thermal image is the visible one's negative."""
    for folder in ("visible", "infrared"):
        (tmp_path / folder).mkdir()
    for k in range(2):
        cv2.imwrite(str(tmp_path / "visible" / f"{k}.png"), drawn(k))
        cv2.imwrite(str(tmp_path / "infrared" / f"{k}.png"), 255 - drawn(k))
    return tmp_path


def test_a_known_motion_is_found() -> None:
    image = drawn(3)
    pair = ImagePair("", np.dstack([image] * 3), 255 - image)
    motion = np.array([9.0, -12.0, np.radians(1.5)])
    moved, seen = shifted(pair, motion)
    fit = register(image, moved, seen)
    assert fit is not None and mean_displacement(fit.values, motion, SHAPE) < 0.5
    assert seen.mean() > 0.8 and not seen.all()


def test_mean_displacement_is_that_of_a_shift_or_a_turn() -> None:
    zero = np.zeros(3)
    assert mean_displacement(np.array([3.0, 4.0, 0.0]), zero, SHAPE) == pytest.approx(5.0)
    turn = mean_displacement(np.array([0.0, 0.0, 0.01]), zero, (101, 101))
    # Of a square, the mean distance to its middle is 0.383 of its side; its border counts for more.
    assert 0.383 < turn < 0.5


def test_figures_count_drifts_and_false_alarms() -> None:
    trials = [Trial("a", PAIR, 1.0, 0.1, True), Trial("a", PAIR, 0.6, np.nan, False)]
    trials += [Trial("b", PAIR, 0.0, 0.2, False), Trial("b", PAIR, 0.04, 0.3, True)]
    figures = drift_figures(trials)["camera to lidar"]
    assert figures["noticed"] == 0.5 and figures["false_alarms"] == 0.5
    assert figures["frames"] == 2 and figures["not_judged"] == 0.25
    assert figures["median_error_deg"] == pytest.approx(0.2)


def test_the_command_scores_pairs(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "figures.json"
    assert main(["evaluate", "calibration", "--root", str(root), "--json", str(out)]) == 0
    figures = json.loads(out.read_text())["pairs"]
    assert figures["pairs"] == 2 and figures["median_error_px"] < 0.7
    assert "2 pairs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "nothing to evaluate"),
        (["--root", "nowhere"], "nowhere"),
        (["--seeds", "x"], "--seeds"),
    ],
)
def test_unusable_options_are_refused(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "calibration", *arguments]) == 2
    assert complaint in capsys.readouterr().err
