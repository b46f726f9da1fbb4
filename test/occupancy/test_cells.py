"""Cells over base_link: there and back, and the fast angle."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from multimodal_perception.occupancy.cells import Cells, azimuth, cell_at


@settings(max_examples=80)
@given(st.floats(-3.1, 3.1), st.floats(-50, 50), st.floats(-50, 50), st.integers(0, 19))
def test_a_middle_lies_in_its_cell_and_in_its_window(
    turn: float, x: float, y: float, row: int
) -> None:
    cells = Cells(20, 0.25, float(np.cos(turn)), float(np.sin(turn)), x, y)
    column = (7 * row) % 20
    at_x, at_y = (float(v) for v in cells.middles(np.array(row), np.array(column)))
    assert cell_at(cells, at_x, at_y) == (row, column)
    top, bottom, left, right = cells.window(at_x, at_y, 0.6)
    rows, columns = np.mgrid[0:20, 0:20]
    near_x, near_y = cells.middles(rows, columns)
    near = np.hypot(near_x - at_x, near_y - at_y) <= 0.6
    inside = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
    assert inside[near].all()


def test_a_window_off_the_grid_is_empty() -> None:
    top, bottom, left, right = Cells.around_base(10, 1.0).window(100.0, 0.0, 3.0)
    assert (bottom - top) * (right - left) == 0


def test_azimuth_is_the_arctangent() -> None:
    angles = np.linspace(-np.pi, np.pi, 2001)
    for radius in (1e-3, 1.0, 80.0):
        x, y = (radius * np.cos(angles)).tolist(), (radius * np.sin(angles)).tolist()
        fast = np.array([azimuth(a, b) for a, b in zip(x, y, strict=True)])
        exact = np.arctan2(y, x)
        np.testing.assert_allclose(np.cos(fast - exact), 1.0, atol=1e-9)
        np.testing.assert_allclose(np.sin(fast - exact), 0.0, atol=5e-6)
