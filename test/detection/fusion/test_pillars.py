"""Points to pillars: closed-form moments, none left out, the furthest when there are too many."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from multimodal_perception.detection.fusion.pillars import MOMENTS, PillarConfig, pillarise

CONFIG = PillarConfig(extent=8.0, cell=0.5, most=200)


def test_moments_of_one_pillar() -> None:
    points = np.array([[1.1, 2.1, 0.2, 0.5], [1.3, 2.3, 1.0, 0.1]], np.float32)
    pillars = pillarise(points, CONFIG)
    assert len(pillars.cells) == 1
    row, column = divmod(int(pillars.cells[0]), CONFIG.size)
    assert (row, column) == (int((2.1 + 8) / 0.5), int((1.1 + 8) / 0.5))
    np.testing.assert_allclose(pillars.centroids[0], [1.2, 2.2, 0.6], atol=1e-5)
    f = pillars.features[0]
    np.testing.assert_allclose(f[0], np.log1p(2) / 4, rtol=1e-5)
    np.testing.assert_allclose([f[3], f[8], f[9]], [0.6, 0.2, 1.0], atol=1e-5)
    np.testing.assert_allclose(f[7], 0.4, atol=1e-4)
    np.testing.assert_allclose([f[11], f[12]], [0.5, 0.3], atol=1e-6)
    # z 0.2 and 1.0 over -0.8 in steps of 0.4.
    histogram = f[MOMENTS:]
    assert histogram[2] > 0 and histogram[4] > 0 and np.count_nonzero(histogram) == 2


@settings(max_examples=40)
@given(st.integers(0, 400), st.integers(0, 2**31))
def test_every_point_on_the_grid_is_in_a_pillar(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.uniform(-10, 10, (count, 4)).astype(np.float32)
    points[:, 2] = rng.uniform(-0.5, 3.0, count)
    pillars = pillarise(points, PillarConfig(8.0, 0.5, 1000))
    inside = (np.abs(points[:, :2]) < 8.0).all(axis=1)
    said = np.expm1(pillars.features[:, 0] * 4).sum()
    np.testing.assert_allclose(said, inside.sum(), rtol=1e-3)
    assert len(set(pillars.cells.tolist())) == len(pillars.cells)
    assert np.isfinite(pillars.features).all()


def test_too_many_pillars_leave_out_the_furthest_and_count_them() -> None:
    middles = (np.arange(32) + 0.5) * 0.5 - 8.0
    x, y = (a.ravel() for a in np.meshgrid(middles, middles))
    points = np.column_stack([x, y, np.zeros_like(x), np.zeros_like(x)]).astype(np.float32)
    pillars = pillarise(points, CONFIG)
    assert len(pillars.cells) == CONFIG.most and pillars.overflow == 1024 - CONFIG.most
    away = np.sort(np.hypot(x, y))
    assert np.hypot(*pillars.centroids[:, :2].T).max() <= away[CONFIG.most] + 1e-4
