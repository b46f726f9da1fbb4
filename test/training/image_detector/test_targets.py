from __future__ import annotations

import numpy as np
import pytest
import torch

from multimodal_perception.networks.rgb_thermal_detection import cells
from multimodal_perception.training.image_detector.targets import (
    BACKGROUND,
    IGNORED,
    cell_targets,
    detection_losses,
    overlaps,
)

SHAPE = (64, 128)
FINE = 8 * 16  # cells of stride 8


def targets(boxes: list[list[float]], counts: bool = True) -> tuple[np.ndarray, np.ndarray]:
    rows = np.array(boxes, np.float32).reshape(-1, 4)
    labels = np.arange(len(rows)) % 3
    return cell_targets(rows, labels, np.full(len(rows), counts), SHAPE)


def test_cells_near_the_middle_stand_for_a_box_at_the_stride_of_its_size() -> None:
    kinds, boxes = targets([[40, 8, 64, 40]])
    places = 8 * cells(8, 16).numpy()
    found = np.flatnonzero(kinds >= 0)
    assert len(found) and (found < FINE).all()
    away = np.abs(places[found] - (52, 24))
    assert (away < 12).all() and (boxes[found] == (40, 8, 64, 40)).all()
    assert set(kinds[found]) == {0} and (np.delete(kinds, found) == BACKGROUND).all()
    wide = targets([[0, 0, 128, 60]])[0]
    assert (wide[:FINE] == BACKGROUND).all() and (wide[FINE:] >= 0).any()


def test_a_box_smaller_than_a_cell_has_one() -> None:
    kinds, boxes = targets([[41, 17, 43, 22]])
    assert (kinds >= 0).sum() == 1 and boxes[kinds >= 0].tolist() == [[41, 17, 43, 22]]


def test_the_smaller_of_two_boxes_is_meant() -> None:
    kinds, _ = targets([[30, 10, 70, 50], [46, 26, 54, 34]])
    row, column = 30 // 8, 50 // 8
    assert kinds[row * 16 + column] == 1


def test_what_does_not_count_is_left_open_and_nothing_else() -> None:
    kinds, _ = targets([[40, 8, 64, 40]], counts=False)
    assert (kinds == IGNORED).any() and not (kinds >= 0).any()
    places = 8 * cells(8, 16).numpy()
    inside = ((places > (40, 8)) & (places < (64, 40))).all(axis=1)
    np.testing.assert_array_equal(kinds[:FINE] == IGNORED, inside)
    assert (targets([])[0] == BACKGROUND).all()


def test_overlap_and_generalised_overlap_of_known_boxes() -> None:
    a = torch.tensor([[0.0, 0, 4, 4]] * 3)
    b = torch.tensor([[0.0, 0, 4, 4], [2, 0, 6, 4], [6, 0, 8, 4]])
    plain, generalised = overlaps(a, b)
    torch.testing.assert_close(plain, torch.tensor([1.0, 1 / 3, 0.0]))
    # Apart: hull 32, union 24.
    torch.testing.assert_close(generalised, torch.tensor([1.0, 1 / 3, -0.25]))


def test_a_right_answer_costs_nothing_and_open_cells_never() -> None:
    kinds, boxes = (torch.from_numpy(v)[None] for v in targets([[40, 8, 64, 40]]))
    logits = torch.full((1, kinds.shape[1], 3), -20.0)
    logits[kinds == 0, 0] = 20.0
    losses = detection_losses(logits, boxes, kinds, boxes)
    assert losses["total"].item() == pytest.approx(0.0, abs=1e-4)
    wrong = logits.clone()
    wrong[0, 0] = 5.0
    assert detection_losses(wrong, boxes, kinds, boxes)["what"] > 1.0
    opened = kinds.clone()
    opened[0, 0] = IGNORED
    assert detection_losses(wrong, boxes, opened, boxes)["what"] < 1e-4
    moved = detection_losses(logits, boxes + 6.0, kinds, boxes)
    assert moved["where"] > 0.3 and moved["what"] > 0.1  # the score should be the overlap
    empty = detection_losses(logits - 40, boxes, torch.full_like(kinds, BACKGROUND), boxes)
    assert torch.isfinite(empty["total"])
