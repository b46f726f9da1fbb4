"""Grid geometry: cell centres and cell indices."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from multimodal_perception.occupancy.cells import GridGeometry, cell_at


@settings(max_examples=80)
@given(st.floats(-3.1, 3.1), st.floats(-50, 50), st.floats(-50, 50), st.integers(0, 19))
def test_cell_centre_is_in_its_cell_and_window(yaw: float, x: float, y: float, row: int) -> None:
    cells = GridGeometry(20, 0.25, float(np.cos(yaw)), float(np.sin(yaw)), x, y)
    column = (7 * row) % 20
    at_x, at_y = (float(v) for v in cells.centres(np.array(row), np.array(column)))
    assert cell_at(cells, at_x, at_y) == (row, column)
    top, bottom, left, right = cells.window(at_x, at_y, 0.6)
    rows, columns = np.mgrid[0:20, 0:20]
    near_x, near_y = cells.centres(rows, columns)
    near = np.hypot(near_x - at_x, near_y - at_y) <= 0.6
    inside = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
    assert inside[near].all()


def test_window_outside_the_grid_is_empty() -> None:
    top, bottom, left, right = GridGeometry.around_base(10, 1.0).window(100.0, 0.0, 3.0)
    assert (bottom - top) * (right - left) == 0
