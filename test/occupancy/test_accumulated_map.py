"""The map with a fixed origin: cells at the same place in odom whatever the corner of the grid."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multimodal_perception.geometry import poses
from multimodal_perception.occupancy.accumulated_map import AccumulatedMap, align_and_coarsen
from multimodal_perception.perception import OccupancyGrid

CELL = 0.2


def grid_with_post(
    corner: tuple[int, int], post: tuple[float, float], size: int = 50
) -> OccupancyGrid:
    """A free grid in odom with one occupied cell at a point. corner: in cells."""
    free, occupied = np.full((size, size), 0.9, np.float32), np.zeros((size, size), np.float32)
    column, row = (math.floor(p / CELL) - c for p, c in zip(post, corner, strict=True))
    if 0 <= column < size and 0 <= row < size:
        free[row, column], occupied[row, column] = 0.0, 0.9
    return OccupancyGrid(0, "odom", CELL, (corner[0] * CELL, corner[1] * CELL), free, occupied)


def occupied_at(grid: OccupancyGrid, x: float, y: float) -> float:
    column, row = (
        math.floor((p - o) / grid.resolution) for p, o in zip((x, y), grid.origin, strict=True)
    )
    return float(grid.occupied[row, column])


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(-5000, 5000), st.integers(-5000, 5000)),
    st.integers(1, 7),
    st.tuples(st.floats(2.9, 5.0), st.floats(2.9, 5.0)),
)
def test_coarse_cells_are_at_multiples_of_their_size_and_contain_the_obstacle(
    corner: tuple[int, int], factor: int, offset: tuple[float, float]
) -> None:
    post = corner[0] * CELL + offset[0], corner[1] * CELL + offset[1]
    coarse, used = align_and_coarsen(grid_with_post(corner, post), factor * CELL)
    assert used == factor
    column, row = (
        math.floor(round(p / CELL, 6)) // factor - round(o / coarse.resolution)
        for p, o in zip(post, coarse.origin, strict=True)
    )
    for o in coarse.origin:
        assert o / coarse.resolution == pytest.approx(round(o / coarse.resolution), abs=1e-6)
    ys, xs = np.nonzero(coarse.occupied)
    assert len(xs) == 1 and abs(xs[0] - column) <= 1e-9 + (abs(p_mod(post[0])) < 1e-6)
    assert abs(ys[0] - row) <= (abs(p_mod(post[1])) < 1e-6)


def p_mod(value: float) -> float:
    """Distance of a coordinate from the nearest border of a cell, in cells."""
    return value / CELL - round(value / CELL)


def test_cells_behind_the_vehicle_are_remembered_and_known_ones_are_replaced() -> None:
    grid_map = AccumulatedMap(60.0, 0.4)
    grid_map.add(grid_with_post((0, 0), (3.1, 3.1)))
    first = grid_map.snapshot(0)
    assert first is not None and first.free.shape == (150, 150)
    grid_map.add(grid_with_post((40, 0), (12.1, 3.1)))  # 8 m further
    later = grid_map.snapshot(0)
    assert later is not None and later.origin == first.origin and grid_map.origins == 1
    assert occupied_at(later, 3.1, 3.1) > 0.8 and occupied_at(later, 12.1, 3.1) > 0.8
    grid_map.add(grid_with_post((0, 0), (900.0, 0.0)))  # the post has gone
    gone = grid_map.snapshot(0)
    assert gone is not None and occupied_at(gone, 3.1, 3.1) == 0.0
    unknown = OccupancyGrid(0, "odom", CELL, (0.0, 0.0), *(np.zeros((50, 50), np.float32),) * 2)
    grid_map.add(unknown)
    kept = grid_map.snapshot(0)
    assert kept is not None and (kept.free == gone.free).all()


def test_the_origin_moves_only_when_the_grid_reaches_the_border_and_keeps_the_places() -> None:
    grid_map = AccumulatedMap(30.0, 0.4)
    origins = []
    for k in range(0, 100, 5):  # up to 19 m in steps of 1 m
        grid_map.add(grid_with_post((k, 0), (9.1, 3.1)))
        snapshot = grid_map.snapshot(0)
        assert snapshot is not None
        origins.append(snapshot.origin)
        if k:
            assert occupied_at(snapshot, 9.1, 3.1) > 0.8
    assert grid_map.origins == len(set(origins)) == 2
    for x, y in origins:
        resolution = float(np.float32(0.4))  # as in nav_msgs/MapMetaData
        # Nav2's static layer warns above 1e-5.
        assert max(abs(math.fmod(x, resolution)), abs(math.fmod(y, resolution))) < 1e-5


def test_time_that_goes_back_and_jumps_of_the_odometry_clear_the_map() -> None:
    grid_map = AccumulatedMap(30.0, 0.4)
    for stamp_ns, x in ((10**9, 5.0), (2 * 10**9, 900.0)):
        grid_map.observe_motion(10**9, poses.from_xyz_rpy((0.0, 0.0, 0.0)))
        grid_map.add(grid_with_post((0, 0), (3.1, 3.1)))
        assert not grid_map.observe_motion(10**9 + 10**8, poses.from_xyz_rpy((1.0, 0.0, 0.0)))
        assert grid_map.snapshot(0) is not None
        assert grid_map.observe_motion(stamp_ns, poses.from_xyz_rpy((x, 0.0, 0.0)))
        assert grid_map.snapshot(0) is None
        grid_map = AccumulatedMap(30.0, 0.4)
    assert not grid_map.observe_motion(0, None)
