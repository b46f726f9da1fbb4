"""Boxes on the ground: area, trails, and boxes that cannot be drawn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from multimodal_perception.frame import Boxes3D
from multimodal_perception.occupancy.cells import Cells
from multimodal_perception.occupancy.footprints import FootprintConfig, FootprintModel

CELLS = Cells.around_base(200, 0.1)


def boxes_of(*rows: tuple[float, ...], scores: tuple[float, ...] = (), **more: object) -> Boxes3D:
    n = len(rows)
    return Boxes3D(
        0,
        "base_link",
        np.array(rows, np.float32).reshape(-1, 7),
        np.array(scores or [1.0] * n, np.float32),
        np.ones(n, np.int64),
        **more,  # type: ignore[arg-type]
    )


def at(layer: np.ndarray, x: float, y: float) -> float:
    return float(layer[int((y + 10) / 0.1), int((x + 10) / 0.1)])


@settings(max_examples=40)
@given(st.floats(-3.2, 3.2), st.floats(-4, 4), st.floats(-4, 4))
@example(0.0, 2.65, 0.0)
@example(0.0, 2.65, 1.75)
def test_a_footprint_has_the_box_area_and_place(yaw: float, x: float, y: float) -> None:
    box = (x, y, 0.8, 4.0, 2.0, 1.6, yaw)
    layer = FootprintModel().occupied(boxes_of(box), CELLS)
    rows, columns = np.nonzero(layer)
    # Edges that run through cells' middles take in half a cell each: 4.1 m by 2.1 m at most.
    assert len(rows) * 0.01 == pytest.approx(8.0, abs=4.1 * 2.1 - 8.0 + 1e-6)
    middle_x, middle_y = CELLS.middles(rows, columns)
    assert middle_x.mean() == pytest.approx(x, abs=0.0501)
    assert middle_y.mean() == pytest.approx(y, abs=0.0501)


def test_masses_follow_score_and_reliability() -> None:
    boxes = boxes_of((3, 0, 0.8, 2, 2, 1.6, 0), (-3, 0, 0.8, 2, 2, 1.6, 0), scores=(1.0, 0.5))
    layer = FootprintModel(FootprintConfig(occupied=0.6)).occupied(boxes, CELLS, 0.8)
    assert at(layer, 3, 0) == pytest.approx(0.48)
    assert at(layer, -3, 0) == pytest.approx(0.24)
    assert at(layer, 0, 0) == 0


def test_a_box_thinner_than_a_cell_still_marks_one() -> None:
    layer = FootprintModel().occupied(boxes_of((1.0, 1.0, 0.5, 0.02, 0.02, 1, 0.3)), CELLS)
    assert np.count_nonzero(layer) == 1


def test_boxes_that_cannot_be_drawn_are_left_out_and_counted() -> None:
    model = FootprintModel()
    boxes = boxes_of(
        (1, 0, 0.8, 2, 2, 1.6, 0),
        (np.nan, 0, 0.8, 2, 2, 1.6, 0),
        (0, 0, 0.8, -2, 2, 1.6, 0),
        (0, 0, 0.8, 2000, 2, 1.6, 0),
        (5, 0, 5.0, 2, 2, 1.6, 0),  # overhead: fine, but no obstacle
    )
    assert len(model.usable(boxes, "base_link")) == 1
    assert len(model.usable(boxes, "odom")) == 0
    assert model.counts == {"bad_box": 3, "wrong_frame": 5}


def test_a_moving_box_leaves_a_trail_behind_it_and_none_in_itself() -> None:
    moving = boxes_of(
        (0, 0, 0.8, 2, 1, 1.6, 0),
        (-4.0, 0, 0.8, 1, 1, 1.6, 0),
        velocities=np.array([[5.0, 0], [0, 0]], np.float32),
    )
    keep = FootprintModel().left_behind(moving, CELLS, 0.25)
    assert keep is not None
    assert at(keep, 0, 0) == 1 and at(keep, 1.5, 0) == 1
    for x in (-1.2, -2.05, -3.0, -5.0):
        assert at(keep, x, 0) == 0.25
    # One second back and half a length, the parked box on the way left out.
    assert at(keep, -6.3, 0) == 1 and at(keep, -2.0, 0.8) == 1
    assert at(keep, -4.0, 0) == 1


@pytest.mark.parametrize("velocity", [(0.2, 0.0), (np.nan, 1.0)])
def test_what_stands_or_has_no_speed_leaves_no_trail(velocity: tuple[float, float]) -> None:
    boxes = boxes_of((0, 0, 0.8, 2, 1, 1.6, 0), velocities=np.array([velocity], np.float32))
    assert FootprintModel().left_behind(boxes, CELLS, 0.5) is None
    assert FootprintModel().left_behind(boxes_of((0, 0, 1, 2, 1, 1, 0)), CELLS, 0.5) is None
