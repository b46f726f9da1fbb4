"""Pillar features: closed-form moments, completeness, and the limit on the number of pillars."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from multimodal_perception.detection.bev_fusion.pillars import (
    MOMENT_CHANNELS,
    PillarConfig,
    build_pillars,
)

CONFIG = PillarConfig(half_extent=8.0, cell=0.5, max_pillars=200)


def test_moments_of_one_pillar_match_closed_form_values() -> None:
    points = np.array([[1.1, 2.1, 0.2, 0.5], [1.3, 2.3, 1.0, 0.1]], np.float32)
    pillars = build_pillars(points, CONFIG)
    assert len(pillars.cells) == 1
    row, column = divmod(int(pillars.cells[0]), CONFIG.size)
    assert (row, column) == (int((2.1 + 8) / 0.5), int((1.1 + 8) / 0.5))
    np.testing.assert_allclose(pillars.centroids[0], [1.2, 2.2, 0.6], atol=1e-5)
    f = pillars.features[0]
    np.testing.assert_allclose(f[0], np.log1p(2) / 4, rtol=1e-5)
    np.testing.assert_allclose([f[3], f[8], f[9]], [0.6, 0.2, 1.0], atol=1e-5)
    np.testing.assert_allclose(f[7], 0.4, atol=1e-4)
    np.testing.assert_allclose([f[11], f[12]], [0.5, 0.3], atol=1e-6)
    # z = 0.2 and 1.0; the histogram starts at -0.8 with bins of 0.4 m.
    histogram = f[MOMENT_CHANNELS:]
    assert histogram[2] > 0 and histogram[4] > 0 and np.count_nonzero(histogram) == 2


@settings(max_examples=40)
@given(st.integers(0, 400), st.integers(0, 2**31))
def test_every_point_on_the_grid_is_counted_in_a_pillar(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.uniform(-10, 10, (count, 4)).astype(np.float32)
    points[:, 2] = rng.uniform(-0.5, 3.0, count)
    pillars = build_pillars(points, PillarConfig(8.0, 0.5, 1000))
    on_grid = (np.abs(points[:, :2]) < 8.0).all(axis=1)
    counted = np.expm1(pillars.features[:, 0] * 4).sum()
    np.testing.assert_allclose(counted, on_grid.sum(), rtol=1e-3)
    assert len(set(pillars.cells.tolist())) == len(pillars.cells)
    assert np.isfinite(pillars.features).all()


def test_most_distant_pillars_beyond_the_limit_are_dropped_and_counted() -> None:
    centres = (np.arange(32) + 0.5) * 0.5 - 8.0
    x, y = (a.ravel() for a in np.meshgrid(centres, centres))
    points = np.column_stack([x, y, np.zeros_like(x), np.zeros_like(x)]).astype(np.float32)
    pillars = build_pillars(points, CONFIG)
    assert (
        len(pillars.cells) == CONFIG.max_pillars and pillars.overflow == 1024 - CONFIG.max_pillars
    )
    distances = np.sort(np.hypot(x, y))
    assert np.hypot(*pillars.centroids[:, :2].T).max() <= distances[CONFIG.max_pillars] + 1e-4
