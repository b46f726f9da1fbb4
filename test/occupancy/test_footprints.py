"""Boxes on the ground: area, decay behind moving boxes, invalid boxes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from multimodal_perception.frame import Boxes3D
from multimodal_perception.occupancy.cells import GridGeometry
from multimodal_perception.occupancy.footprints import FootprintConfig, FootprintModel

CELLS = GridGeometry.around_base(200, 0.1)


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
def test_footprint_has_the_area_and_position_of_the_box(yaw: float, x: float, y: float) -> None:
    box = (x, y, 0.8, 4.0, 2.0, 1.6, yaw)
    layer = FootprintModel().occupied_mass(boxes_of(box), CELLS)
    rows, columns = np.nonzero(layer)
    # An edge through cell centres adds half a cell: at most 4.1 m by 2.1 m.
    assert len(rows) * 0.01 == pytest.approx(8.0, abs=4.1 * 2.1 - 8.0 + 1e-6)
    centre_x, centre_y = CELLS.centres(rows, columns)
    assert centre_x.mean() == pytest.approx(x, abs=0.0501)
    assert centre_y.mean() == pytest.approx(y, abs=0.0501)


def test_masses_follow_score_and_reliability() -> None:
    boxes = boxes_of((3, 0, 0.8, 2, 2, 1.6, 0), (-3, 0, 0.8, 2, 2, 1.6, 0), scores=(1.0, 0.5))
    layer = FootprintModel(FootprintConfig(occupied_mass=0.6)).occupied_mass(boxes, CELLS, 0.8)
    assert at(layer, 3, 0) == pytest.approx(0.48)
    assert at(layer, -3, 0) == pytest.approx(0.24)
    assert at(layer, 0, 0) == 0


def test_box_thinner_than_a_cell_occupies_one_cell() -> None:
    layer = FootprintModel().occupied_mass(boxes_of((1.0, 1.0, 0.5, 0.02, 0.02, 1, 0.3)), CELLS)
    assert np.count_nonzero(layer) == 1


def test_invalid_boxes_are_rejected_and_counted() -> None:
    model = FootprintModel()
    boxes = boxes_of(
        (1, 0, 0.8, 2, 2, 1.6, 0),
        (np.nan, 0, 0.8, 2, 2, 1.6, 0),
        (0, 0, 0.8, -2, 2, 1.6, 0),
        (0, 0, 0.8, 2000, 2, 1.6, 0),
        (5, 0, 5.0, 2, 2, 1.6, 0),  # overhead: valid, but no obstacle
    )
    assert len(model.select_usable(boxes, "base_link")) == 1
    assert len(model.select_usable(boxes, "odom")) == 0
    assert model.counts == {"bad_box": 3, "wrong_frame": 5}


def test_moving_box_lowers_the_evidence_behind_it_only() -> None:
    moving = boxes_of(
        (0, 0, 0.8, 2, 1, 1.6, 0),
        (-4.0, 0, 0.8, 1, 1, 1.6, 0),
        velocities=np.array([[5.0, 0], [0, 0]], np.float32),
    )
    keep = FootprintModel().moved_cells_factor(moving, CELLS, 0.25)
    assert keep is not None
    assert at(keep, 0, 0) == 1 and at(keep, 1.5, 0) == 1
    for x in (-1.2, -2.05, -3.0, -5.0):
        assert at(keep, x, 0) == 0.25
    # The trail is one second and half a box long, without the parked box in it.
    assert at(keep, -6.3, 0) == 1 and at(keep, -2.0, 0.8) == 1
    assert at(keep, -4.0, 0) == 1


@pytest.mark.parametrize("velocity", [(0.2, 0.0), (np.nan, 1.0)])
def test_static_box_or_unknown_speed_gives_no_trail(velocity: tuple[float, float]) -> None:
    boxes = boxes_of((0, 0, 0.8, 2, 1, 1.6, 0), velocities=np.array([velocity], np.float32))
    assert FootprintModel().moved_cells_factor(boxes, CELLS, 0.5) is None
    assert FootprintModel().moved_cells_factor(boxes_of((0, 0, 1, 2, 1, 1, 0)), CELLS, 0.5) is None
