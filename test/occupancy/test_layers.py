"""Percent, single layers, classes and coarse maps of grids with hand-computed cells."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multimodal_perception.configuration import ConfigurationError, build
from multimodal_perception.frame import Boxes3D
from multimodal_perception.occupancy.layers import (
    SEMANTIC_LAYER,
    OccupancyValuesConfig,
    coarsen,
    layer_percent,
    occupancy_percent,
    semantic_percent,
)
from multimodal_perception.perception import OccupancyGrid


def grid_of(free: list, occupied: list, conflict: list | None = None) -> OccupancyGrid:
    layers = (np.array(v, np.float32) for v in (free, occupied))
    c = None if conflict is None else np.array(conflict, np.float32)
    return OccupancyGrid(7, "base_link", 0.2, (-1.0, 2.0), *layers, c)


def test_percent_is_plausibility_so_conflict_counts_as_occupied() -> None:
    grid = grid_of([[0.9, 0.1, 0.2, 0.0, 0.5]], [[0.0, 0.8, 0.0, 0.0, 0.2]], [[0, 0, 0.6, 0, 0]])
    plain = OccupancyValuesConfig(mode="linear")
    assert occupancy_percent(grid, plain).tolist() == [[10, 90, 80, -1, 50]]
    # Stretched: (1 - free - 0.45) / 0.25, within 0 to 100.
    assert occupancy_percent(grid).tolist() == [[0, 100, 100, -1, 20]]
    trinary = OccupancyValuesConfig(mode="trinary")
    assert occupancy_percent(grid, trinary).tolist() == [[0, 100, 100, -1, -1]]
    careful = OccupancyValuesConfig(mode="linear", unknown_threshold=0.15)
    assert occupancy_percent(grid, careful).tolist() == [[10, 90, -1, -1, -1]]


@given(st.lists(st.tuples(*[st.floats(0, 1, width=32)] * 3), min_size=1, max_size=30))
def test_percent_is_minus_one_or_0_to_100(masses: list[tuple[float, ...]]) -> None:
    parts = np.array(masses, np.float32)
    parts /= np.maximum(parts.sum(axis=1, keepdims=True), 1)
    grid = grid_of(*parts.T[:, None].tolist())
    for mode in ("scale", "linear", "trinary"):
        cells = occupancy_percent(grid, OccupancyValuesConfig(mode=mode))
        assert cells.min() >= -1 and cells.max() <= 100
    total = sum(layer_percent(grid, n).astype(int) for n in ("free", "occupied", "unknown"))
    total = total + layer_percent(grid, "conflict")
    assert np.abs(total - 100).max() <= 2  # each rounded


def test_thresholds_in_wrong_order_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="free_threshold must be below occupied_threshold"):
        build(OccupancyValuesConfig, {"free_threshold": 0.8, "occupied_threshold": 0.6}, "test")


def test_classes_come_from_boxes_and_from_the_grid() -> None:
    free, occupied = np.zeros((20, 20), np.float32), np.zeros((20, 20), np.float32)
    free[:10], occupied[10:] = 0.9, 0.9
    semantic = np.zeros((20, 20), np.uint8)
    semantic[12, 3], semantic[2, 2] = SEMANTIC_LAYER.index("pole"), SEMANTIC_LAYER.index("wall")
    grid = OccupancyGrid(0, "base_link", 0.2, (-2.0, -2.0), free, occupied, semantic=semantic)
    row = np.array([[1.0, 1.0, 0.5, 0.8, 0.8, 1.0, 0.0]], np.float32)
    one = np.ones(1, np.float32)
    boxes = Boxes3D(0, "base_link", row, one, np.array([5]))  # pedestrian
    cells = semantic_percent(grid, boxes)
    assert cells[12, 3] == SEMANTIC_LAYER.index("pole")
    assert cells[15, 15] == SEMANTIC_LAYER.index("person")  # x and y 1.1 m
    assert cells[19, 0] == SEMANTIC_LAYER.index("obstacle")
    assert cells[2, 2] == SEMANTIC_LAYER.index("free")  # a free cell has no other class
    other_frame = Boxes3D(0, "odom", row, one, np.array([5]))
    assert semantic_percent(grid, other_frame)[15, 15] == SEMANTIC_LAYER.index("obstacle")
    unknown = grid_of([[0.0]], [[0.0]])
    assert semantic_percent(unknown).tolist() == [[-1]]


def test_coarse_map_keeps_posts_and_known_free_cells() -> None:
    free, occupied = np.zeros((4, 5), np.float32), np.zeros((4, 5), np.float32)
    free[:2, :2] = 0.8
    free[0, 0], occupied[0, 0] = 0.1, 0.7  # a post in free space
    free[2, 2] = 0.6  # the only cell of its block that is known
    small = coarsen(OccupancyGrid(0, "odom", 0.2, (1.0, 2.0), free, occupied), 2)
    assert small.resolution == 0.4 and small.origin == (1.0, 2.0) and small.free.shape == (2, 2)
    assert small.occupied[0, 0] == np.float32(0.7) and small.free[1, 1] == np.float32(0.6)
    assert small.unknown()[0, 1] == 1
    with pytest.raises(ValueError, match="factor 9"):
        coarsen(small, 9)
