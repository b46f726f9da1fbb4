"""Images of the grid layers: orientation and colours."""

from __future__ import annotations

import numpy as np

from multimodal_perception.frame import Boxes3D
from multimodal_perception.perception import OccupancyGrid
from multimodal_perception.visualization.occupancy_layers import (
    CLASS_COLOURS,
    GAP,
    TITLE,
    draw_layers,
)
from multimodal_perception.visualization.palette import FREE, OCCUPIED

SIZE = 200


def panel(picture: np.ndarray, row: int, column: int) -> np.ndarray:
    top = 40 + row * (SIZE + TITLE + GAP) + TITLE
    left = column * (SIZE + GAP) + GAP
    return picture[top : top + SIZE, left : left + SIZE]


def grid_with(x: float, y: float) -> OccupancyGrid:
    """A free grid with one occupied 3 m square at (x, y)."""
    centres = np.arange(40) + 0.5 - 20
    square = (np.abs(centres[None] - x) < 1.5) & (np.abs(centres[:, None] - y) < 1.5)
    occupied = square.astype(np.float32)
    return OccupancyGrid(0, "base_link", 1.0, (-20.0, -20.0), 1 - occupied, occupied)


def test_forward_is_up_and_left_is_left() -> None:
    picture = draw_layers(grid_with(12.0, 14.0), size=SIZE)
    blend, occupied = panel(picture, 0, 0), panel(picture, 0, 2)
    # 12 m ahead of 20 is 40 pixels from the top, 14 m left is 30 from the left edge.
    assert tuple(blend[40, 30]) == OCCUPIED and tuple(blend[160, 170]) == FREE
    assert tuple(occupied[40, 30]) == OCCUPIED
    assert tuple(occupied[160, 170]) != OCCUPIED


def test_each_layer_has_a_panel_and_boxes_are_outlined() -> None:
    grid = grid_with(12.0, 14.0)
    plain = draw_layers(grid, size=SIZE)
    boxes = Boxes3D(
        0,
        "base_link",
        np.array([[5.0, -8.0, 1, 4, 2, 2, 0.3]], np.float32),
        np.ones(1, np.float32),
        np.ones(1, np.int64),
    )
    outlined = draw_layers(grid, boxes, SIZE)
    assert plain.shape == (40 + 2 * (SIZE + TITLE + GAP), 4 * (SIZE + GAP), 3)
    for row in range(2):
        for column in range(4):
            assert (panel(plain, row, column) != panel(outlined, row, column)).any()
    # No cell is unknown or in conflict, and the square is occupied with mass 1.
    assert panel(plain, 1, 1)[40, 30].min() == 255
    assert tuple(panel(plain, 1, 2)[40, 30]) == CLASS_COLOURS["obstacle"]
    assert panel(plain, 1, 3)[40, 30].min() == 255
