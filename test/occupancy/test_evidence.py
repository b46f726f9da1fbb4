"""Evidential grid: combination rules in closed form, ageing, shifting, valid masses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from multimodal_perception.geometry import poses
from multimodal_perception.geometry.stamps import NANOSECONDS_PER_SECOND
from multimodal_perception.occupancy.evidence import EvidentialGrid, GridConfig, shift_layer

SIZE = 8
FIRST = (0.6, 0.1)
SECOND = (0.2, 0.5)


def grid_of(rule: str = "yager", resolution: float = 1.0, **values: float) -> EvidentialGrid:
    return EvidentialGrid(SIZE, resolution, GridConfig(rule=rule, **values))  # type: ignore[arg-type]


def layers(free: float, occupied: float) -> tuple[np.ndarray, np.ndarray]:
    return np.full((SIZE, SIZE), free, np.float32), np.full((SIZE, SIZE), occupied, np.float32)


def masses(grid: EvidentialGrid, row: int = 3, column: int = 3) -> np.ndarray:
    """free, occupied, conflict, unknown of one cell."""
    all_layers = grid.free, grid.occupied, grid.conflict, grid.unknown()
    return np.array([layer[row, column] for layer in all_layers], np.float64)


def pose(x: float, y: float = 0.0, yaw: float = 0.0) -> np.ndarray:
    return poses.from_xyz_rpy((x, y, 0.0), (0.0, 0.0, yaw))


def seconds(value: float) -> int:
    return round(value * NANOSECONDS_PER_SECOND)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        # Contradiction 0.6 * 0.5 + 0.1 * 0.2 = 0.32.
        ("yager", (0.36, 0.23, 0.32, 0.09)),
        ("dempster", (0.36 / 0.68, 0.23 / 0.68, 0.0, 0.09 / 0.68)),
        # Odds 1/3 and 13/7 multiply to 13/21: probability 13/34 of occupied.
        ("log_odds", (1 - 26 / 34, 0.0, 0.0, 26 / 34)),
    ],
)
def test_two_sources_combine_in_closed_form(rule: str, expected: tuple[float, ...]) -> None:
    grid = grid_of(rule)
    if rule == "log_odds":
        # (0.6, 0.1) is a probability of 1/4; the first source is copied.
        grid.combine(*layers(*FIRST))
        np.testing.assert_allclose(masses(grid), (0.5, 0, 0, 0.5), atol=1e-6)
    else:
        grid.combine(*layers(*FIRST))
        np.testing.assert_allclose(masses(grid), (0.6, 0.1, 0, 0.3), atol=1e-6)
    grid.combine(*layers(*SECOND))
    np.testing.assert_allclose(masses(grid), expected, atol=1e-6)


def test_dempster_does_not_depend_on_the_order() -> None:
    sources = [FIRST, SECOND, (0.05, 0.7), (0.3, 0.3)]
    results = []
    for order in (sources, sources[::-1]):
        grid = grid_of("dempster")
        for source in order:
            grid.combine(*layers(*source))
        results.append(masses(grid))
    np.testing.assert_allclose(*results, atol=1e-6)


def test_yager_conflict_is_resolved_by_new_evidence() -> None:
    grid = grid_of()
    grid.combine(*layers(0.9, 0.0))
    grid.combine(*layers(0.0, 0.9))
    np.testing.assert_allclose(masses(grid), (0.09, 0.09, 0.81, 0.01), atol=1e-6)
    grid.combine(*layers(0.0, 0.8))
    # Yager's rule on (0.09, 0.09, rest 0.82): occupied 0.09 + 0.82 * 0.8, free 0.09 * 0.2.
    np.testing.assert_allclose(masses(grid)[:2], (0.018, 0.746), atol=1e-6)
    assert masses(grid)[2] == pytest.approx(0.81 * 0.2 + 0.09 * 0.8, abs=1e-6)


def test_total_contradiction_gives_unknown_with_dempster() -> None:
    grid = grid_of("dempster")
    grid.combine(*layers(1.0, 0.0))
    grid.combine(*layers(0.0, 1.0))
    np.testing.assert_allclose(masses(grid), (0, 0, 0, 1), atol=1e-6)


@pytest.mark.parametrize("rule", ["yager", "dempster", "log_odds"])
def test_source_without_mass_changes_nothing(rule: str) -> None:
    grid = grid_of(rule)
    grid.combine(*layers(*FIRST))
    before = masses(grid)
    grid.combine(*layers(0.0, 0.0))
    grid.combine(*layers(np.nan, -1.0))
    np.testing.assert_array_equal(masses(grid), before)


def test_log_odds_are_clamped() -> None:
    grid = grid_of("log_odds")
    for _ in range(50):
        grid.combine(*layers(0.0, 0.9))
    assert masses(grid)[1] == pytest.approx(1 - 2 * 0.018, abs=1e-5)


def test_evidence_of_wrong_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="evidence must be"):
        grid_of().combine(np.zeros((3, 3), np.float32), np.zeros((3, 3), np.float32))


def test_only_the_window_is_combined() -> None:
    grid = grid_of()
    grid.combine(*layers(0.5, 0.0), window=(2, 4, 0, 3))
    assert grid.free[2:4, :3].min() == 0.5 and grid.free.sum() == pytest.approx(3.0)


def test_evidence_halves_in_a_half_life_and_conflict_decays_faster() -> None:
    grid = grid_of(half_life_s=2.0, moving_half_life_s=0.5)
    grid.advance(0, pose(0.0))
    grid.combine(*layers(0.8, 0.1))
    grid.advance(seconds(2.0), pose(0.0))
    np.testing.assert_allclose(masses(grid), (0.4, 0.05, 0, 0.55), atol=1e-6)
    fresh = grid_of(half_life_s=2.0, moving_half_life_s=0.5)
    fresh.advance(0, pose(0.0))
    fresh.combine(*layers(0.9, 0.0))
    fresh.combine(*layers(0.0, 0.9))
    fresh.advance(seconds(2.0), pose(0.0))
    keep = 0.5 + 0.81 * (0.5**4 - 0.5)
    np.testing.assert_allclose(masses(fresh)[2], 0.81 * keep, atol=1e-6)


@settings(max_examples=60)
@given(st.integers(-10, 10), st.integers(-10, 10))
def test_shifting_keeps_cells_inside_the_grid(rows: int, columns: int) -> None:
    layer = np.arange(1, SIZE * SIZE + 1, dtype=np.float32).reshape(SIZE, SIZE)
    moved = shift_layer(layer, rows, columns)
    for i in range(SIZE):
        for j in range(SIZE):
            inside = 0 <= i + rows < SIZE and 0 <= j + columns < SIZE
            assert moved[i, j] == (layer[i + rows, j + columns] if inside else 0)


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.floats(-0.4, 0.4), st.floats(-0.4, 0.4), st.floats(-0.3, 0.3)),
        min_size=1,
        max_size=8,
    )
)
@example([(-0.25, 0.0, 0.0)] * 3 + [(-0.375, 0.0, 0.0)] * 3 + [(0.25, 0.0, 0.0)])
def test_static_object_stays_in_its_odom_cell(steps: list[tuple[float, float, float]]) -> None:
    grid = grid_of(resolution=0.5, half_life_s=600.0)
    position = np.array([1000.3, -20.2, 0.1])
    grid.advance(0, pose(*position))
    # The cell under the vehicle, in odom.
    target = position[:2].copy()
    column, row = np.floor((target - grid.corner) / 0.5).astype(int)
    mark = np.zeros((SIZE, SIZE), np.float32)
    mark[row, column] = 0.9
    grid.combine(np.zeros_like(mark), mark)
    for k, step in enumerate(steps, 1):
        position = position + step
        cells = grid.advance(seconds(0.1 * k), pose(*position))
        column, row = np.floor((target - grid.corner) / 0.5).astype(int)
        assert grid.counts.total() == 0
        if not (0 <= row < SIZE and 0 <= column < SIZE):
            # Cells that leave the grid are cleared, also if the vehicle comes back.
            assert not grid.occupied.any()
            break
        assert grid.occupied[row, column] > 0.8
        # The same cell in base_link: its centre is within half a diagonal of the mark.
        centre = np.array([float(v) for v in cells.centres(np.array(row), np.array(column))])
        expected = poses.inverse(pose(*position)) @ np.array([*target, 0.0, 1.0])
        assert np.hypot(*(centre - expected[:2])) <= 0.36
        assert np.count_nonzero(grid.occupied) == 1


@pytest.mark.parametrize(
    ("stamp", "where", "reason"),
    [
        (seconds(0.9), pose(0.1), "time_back"),
        (seconds(1.1), pose(50.0), "odometry_jump"),
        (seconds(1.1), pose(0.0, 0.0, 2.5), "odometry_jump"),
        (seconds(1.1), np.full((4, 4), np.nan), "bad_pose"),
        (seconds(1.1), np.diag([1.0, 2.0, 1.0, 1.0]), "bad_pose"),
        (seconds(1.1), pose(1e12), "outside_map"),
    ],
)
def test_invalid_odometry_clears_the_grid_and_is_counted(
    stamp: int, where: np.ndarray, reason: str
) -> None:
    grid = grid_of()
    grid.advance(seconds(1.0), pose(0.0))
    grid.combine(*layers(*FIRST))
    grid.advance(stamp, where)
    assert grid.counts == {reason: 1}
    assert (grid.unknown() == 1).all()
    # Accumulation continues with the next pose.
    if reason in ("time_back", "odometry_jump"):
        grid.combine(*layers(*FIRST))
        grid.advance(stamp + seconds(0.1), where)
        assert grid.free.min() > 0.5 and grid.counts == {reason: 1}


def test_without_odometry_no_evidence_is_kept() -> None:
    grid = grid_of()
    for k in range(2):
        cells = grid.advance(seconds(0.1 * k), None)
        assert (grid.unknown() == 1).all()
        grid.combine(*layers(*FIRST))
    assert (cells.origin_x, cells.origin_y) == (-SIZE / 2, -SIZE / 2)
    assert not grid.counts


VALUES = st.floats(width=32, allow_nan=True, allow_infinity=True) | st.floats(0, 1, width=32)
STEPS = st.tuples(
    VALUES, VALUES, st.floats(-0.05, 2.0), st.floats(-4, 4), st.floats(-4, 4), st.floats(-1, 1)
)


@settings(max_examples=150)
@given(st.sampled_from(["yager", "dempster", "log_odds"]), st.lists(STEPS, max_size=12))
def test_masses_sum_to_one_for_any_input(rule: str, steps: list[tuple[float, ...]]) -> None:
    grid = grid_of(rule)
    stamp, position = 0.0, np.zeros(3)
    rng = np.random.default_rng(len(steps))
    for free, occupied, later, x, y, yaw in steps:
        stamp, position = stamp + later, position + np.array([x, y, yaw])
        grid.advance(seconds(stamp), pose(*position))
        source = layers(free, occupied)
        source[0][:4] = rng.random((4, SIZE))
        source[1][2:6] = rng.random((4, SIZE))
        grid.combine(*source)
        all_layers = np.stack([grid.free, grid.occupied, grid.conflict, grid.unknown()])
        assert np.isfinite(all_layers).all() and all_layers.min() >= 0
        np.testing.assert_allclose(all_layers.astype(np.float64).sum(axis=0), 1.0, atol=1e-6)


@pytest.mark.parametrize("rule", ["yager", "dempster", "log_odds"])
def test_masses_sum_to_one_after_thousands_of_frames(rule: str) -> None:
    grid, rng = grid_of(rule), np.random.default_rng(0)
    for k in range(3000):
        grid.advance(seconds(0.1 * k), pose(0.3 * k))
        free = rng.random((SIZE, SIZE), np.float32)
        grid.combine(free, (1 - free) * rng.random((SIZE, SIZE), np.float32))
    all_layers = np.stack([grid.free, grid.occupied, grid.conflict, grid.unknown()])
    np.testing.assert_allclose(all_layers.astype(np.float64).sum(axis=0), 1.0, atol=1e-6)
