"""Pillars with past sweeps and painting."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from multimodal_perception.detection.bev_fusion.network_config import (
    PAINT_CHANNELS,
    BevFusionNetworkConfig,
)
from multimodal_perception.detection.bev_fusion.pillars import (
    PILLAR_CHANNELS,
    PillarConfig,
    build_pillars,
)
from multimodal_perception.detection.bev_fusion.sweep_pillars import PastSweep, build_sweep_pillars
from test.detection.bev_fusion.small_images import SMALL

POINTS = np.array([[1.0, 2.0, 0.5, 0.1], [1.1, 2.1, 1.0, 0.3], [-3.0, 4.0, 0.2, 0.2]], np.float32)
AGES = PILLAR_CHANNELS + 3 * SMALL.past_sweeps


def past(*points: tuple[float, float, float], age_s: float = 0.1) -> PastSweep:
    return PastSweep(np.array(points, np.float32).reshape(-1, 3), age_s)


def cell_of(x: float, y: float) -> int:
    size, p = SMALL.pillars.size, SMALL.pillars
    return int((y + p.half_extent) / p.cell) * size + int((x + p.half_extent) / p.cell)


def test_current_sweep_has_the_channels_of_pillars() -> None:
    alone = build_pillars(POINTS, SMALL.pillars)
    pillars = build_sweep_pillars(POINTS, [], None, SMALL)
    np.testing.assert_array_equal(pillars.features[:, :PILLAR_CHANNELS], alone.features)
    np.testing.assert_array_equal(pillars.cells, alone.cells)
    np.testing.assert_array_equal(pillars.centroids, alone.centroids)
    assert pillars.features.shape[1] == SMALL.pillar_channels
    assert not pillars.features[:, PILLAR_CHANNELS:].any()


def test_past_sweeps_add_offsets_and_ages() -> None:
    # Two points of the second sweep in the cell of the first two points, from 1.0 to 1.2 along x.
    sweeps = [
        past((5.0, 5.0, 1.0), age_s=0.1),
        past((1.1, 2.1, 0.5), (1.15, 2.15, 0.5), age_s=0.25),
    ]
    pillars = build_sweep_pillars(POINTS, sweeps, None, SMALL)
    row = pillars.features[list(pillars.cells).index(cell_of(1.1, 2.1))]
    second = row[PILLAR_CHANNELS + 3 : PILLAR_CHANNELS + 6]
    p = SMALL.pillars
    column = int((1.1 + p.half_extent) / p.cell)
    centre_x = (column + 0.5) * p.cell - p.half_extent
    assert second[0] == pytest.approx(np.log1p(2) / 4)
    assert second[1] == pytest.approx((1.125 - centre_x) / p.cell, abs=1e-4)
    assert not row[PILLAR_CHANNELS : PILLAR_CHANNELS + 3].any()
    np.testing.assert_allclose(
        pillars.features[:, AGES : AGES + SMALL.past_sweeps],
        np.tile([0.1, 0.25, 0, 0, 0], (len(pillars.cells), 1)),
        atol=1e-6,
    )


def test_cells_with_past_points_only_are_pillars() -> None:
    pillars = build_sweep_pillars(
        POINTS, [past((6.0, 5.0, 1.0)), past((6.05, 5.05, 2.0))], None, SMALL
    )
    k = list(pillars.cells).index(cell_of(6.0, 5.0))
    np.testing.assert_allclose(pillars.centroids[k], (6.025, 5.025, 1.5), atol=1e-4)
    row = pillars.features[k]
    distance = np.hypot(6.025, 5.025) / SMALL.pillars.half_extent
    assert np.flatnonzero(row[:PILLAR_CHANNELS]).tolist() == [10]
    assert row[10] == pytest.approx(distance, abs=1e-4)
    assert build_sweep_pillars(POINTS[:0], [past((6.0, 5.0, 1.0))], None, SMALL).cells.size == 1


def test_only_obstacles_of_the_configured_number_of_sweeps_count() -> None:
    ground, high, outside = (6.0, 5.0, 0.05), (6.0, 5.0, 9.0), (60.0, 5.0, 1.0)
    invalid = (np.nan, 5.0, 1.0)
    pillars = build_sweep_pillars(POINTS, [past(ground, high, outside, invalid)], None, SMALL)
    assert len(pillars.cells) == len(build_pillars(POINTS, SMALL.pillars).cells)
    one = dataclasses.replace(SMALL, past_sweeps=1)
    sweeps = [past((6.0, 5.0, 1.0)), past((7.0, 5.0, 1.0))]
    assert len(build_sweep_pillars(POINTS, sweeps, None, one).cells) == len(pillars.cells) + 1
    none = dataclasses.replace(SMALL, past_sweeps=0)
    assert len(build_sweep_pillars(POINTS, sweeps, None, none).cells) == len(pillars.cells)


def test_painting_is_the_mean_of_the_painted_points() -> None:
    painting = np.zeros((3, PAINT_CHANNELS), np.float32)
    painting[0] = (0.8, 0, 0, 0, 0, 0.2, 1)
    pillars = build_sweep_pillars(POINTS, [], painting, SMALL)
    painted = pillars.features[:, -PAINT_CHANNELS:]
    k = list(pillars.cells).index(cell_of(1.0, 2.0))
    count = 2 if cell_of(1.0, 2.0) == cell_of(1.1, 2.1) else 1
    np.testing.assert_allclose(painted[k], (0.8, 0, 0, 0, 0, 0.2, 1 / count), atol=1e-6)
    assert not np.delete(painted, k, axis=0).any()
    without = dataclasses.replace(SMALL, painting=False)
    assert (
        build_sweep_pillars(POINTS, [], painting, without).features.shape[1]
        == without.pillar_channels
    )


def test_most_distant_pillars_are_dropped_and_counted() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(-12, 12, (3000, 4)).astype(np.float32)
    points[:, 2] = 1.0
    config = BevFusionNetworkConfig(
        pillars=PillarConfig(half_extent=12.8, cell=0.4, max_pillars=200)
    )
    sweep = PastSweep(
        rng.uniform(-12, 12, (500, 3)).astype(np.float32) * (1, 1, 0) + (0, 0, 1), 0.1
    )
    sweep = dataclasses.replace(sweep, points=sweep.points.astype(np.float32))
    pillars = build_sweep_pillars(points, [sweep], None, config)
    unlimited = build_sweep_pillars(points, [sweep], None, SMALL)
    assert len(pillars.cells) == 200
    everything = len(unlimited.cells) + unlimited.overflow
    assert pillars.overflow == everything - 200
    kept, all_ = (np.hypot(*p.centroids[:, :2].T) for p in (pillars, unlimited))
    assert kept.max() <= np.sort(all_)[200]
