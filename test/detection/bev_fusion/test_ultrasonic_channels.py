"""Rasterised ultrasonic ranges."""

from __future__ import annotations

import numpy as np
import pytest

from multimodal_perception.detection.bev_fusion.ultrasonic_channels import (
    rasterise_ultrasonic_ranges,
)


def row(distance: float, yaw: float = 0.0) -> list[float]:
    return [0.0, 0.0, 0.5, yaw, distance, 0.15, 5.0, 1.0]


def test_range_becomes_an_arc_that_sums_to_one_with_free_space_in_front() -> None:
    arc, free = rasterise_ultrasonic_ranges(np.array([row(3.0)], np.float32), 8.0, 0.2)
    assert arc.sum() == pytest.approx(1.0, abs=1e-5)
    i, j = np.nonzero(arc)
    distance = np.hypot((j + 0.5) * 0.2 - 8.0, (i + 0.5) * 0.2 - 8.0)
    assert np.abs(distance - 3.0).max() < 0.15
    assert free[40, 45] == 1.0 and free[40, 60] == 0.0 and free[40, 35] == 0.0


def test_infinite_range_means_free_space_and_invalid_ranges_are_ignored() -> None:
    arc, free = rasterise_ultrasonic_ranges(np.array([row(np.inf)], np.float32), 8.0, 0.2)
    assert not arc.any() and free[40, 60] == 1.0
    invalid = rasterise_ultrasonic_ranges(
        np.array([row(np.nan), row(-np.inf), row(-1.0)], np.float32), 8.0, 0.2
    )
    assert not invalid.any()
    assert not rasterise_ultrasonic_ranges(np.zeros((0, 8), np.float32), 8.0, 0.2).any()
