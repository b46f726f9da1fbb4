"""Ultrasonic readings drawn from above."""

from __future__ import annotations

import numpy as np
import pytest

from multimodal_perception.detection.fusion.ultrasonic_channels import draw_echoes


def row(reading: float, yaw: float = 0.0) -> list[float]:
    return [0.0, 0.0, 0.5, yaw, reading, 0.15, 5.0, 1.0]


def test_an_echo_is_an_arc_that_sums_to_one_with_free_space_before_it() -> None:
    arc, free = draw_echoes(np.array([row(3.0)], np.float32), 8.0, 0.2)
    assert arc.sum() == pytest.approx(1.0, abs=1e-5)
    i, j = np.nonzero(arc)
    away = np.hypot((j + 0.5) * 0.2 - 8.0, (i + 0.5) * 0.2 - 8.0)
    assert np.abs(away - 3.0).max() < 0.15
    assert free[40, 45] == 1.0 and free[40, 60] == 0.0 and free[40, 35] == 0.0


def test_nothing_heard_is_free_and_nothing_told_is_nothing() -> None:
    arc, free = draw_echoes(np.array([row(np.inf)], np.float32), 8.0, 0.2)
    assert not arc.any() and free[40, 60] == 1.0
    silent = draw_echoes(np.array([row(np.nan), row(-np.inf), row(-1.0)], np.float32), 8.0, 0.2)
    assert not silent.any()
    assert not draw_echoes(np.zeros((0, 8), np.float32), 8.0, 0.2).any()
