from __future__ import annotations

import numpy as np
import pytest
import torch

from multimodal_perception.networks.rgb_thermal_detection import cell_centres
from multimodal_perception.training.image_detector.targets import (
    BACKGROUND,
    IGNORED,
    cell_targets,
    detection_losses,
    overlaps,
)

SHAPE = (64, 128)
FINE = 8 * 16  # cells of stride 8


def targets(boxes: list[list[float]], valid: bool = True) -> tuple[np.ndarray, np.ndarray]:
    rows = np.array(boxes, np.float32).reshape(-1, 4)
    labels = np.arange(len(rows)) % 3
    return cell_targets(rows, labels, np.full(len(rows), valid), SHAPE)


def test_cells_near_the_centre_are_positive_at_the_stride_of_the_box_size() -> None:
    labels, boxes = targets([[40, 8, 64, 40]])
    centres = 8 * cell_centres(8, 16).numpy()
    positive = np.flatnonzero(labels >= 0)
    assert len(positive) and (positive < FINE).all()
    distance = np.abs(centres[positive] - (52, 24))
    assert (distance < 12).all() and (boxes[positive] == (40, 8, 64, 40)).all()
    assert set(labels[positive]) == {0} and (np.delete(labels, positive) == BACKGROUND).all()
    wide = targets([[0, 0, 128, 60]])[0]
    assert (wide[:FINE] == BACKGROUND).all() and (wide[FINE:] >= 0).any()


def test_box_smaller_than_a_cell_has_one_positive_cell() -> None:
    labels, boxes = targets([[41, 17, 43, 22]])
    assert (labels >= 0).sum() == 1 and boxes[labels >= 0].tolist() == [[41, 17, 43, 22]]


def test_cell_in_two_boxes_is_assigned_to_the_smaller_one() -> None:
    labels, _ = targets([[30, 10, 70, 50], [46, 26, 54, 34]])
    row, column = 30 // 8, 50 // 8
    assert labels[row * 16 + column] == 1


def test_only_cells_of_invalid_boxes_are_ignored() -> None:
    labels, _ = targets([[40, 8, 64, 40]], valid=False)
    assert (labels == IGNORED).any() and not (labels >= 0).any()
    centres = 8 * cell_centres(8, 16).numpy()
    inside = ((centres > (40, 8)) & (centres < (64, 40))).all(axis=1)
    np.testing.assert_array_equal(labels[:FINE] == IGNORED, inside)
    assert (targets([])[0] == BACKGROUND).all()


def test_overlap_and_generalised_overlap_of_known_boxes() -> None:
    a = torch.tensor([[0.0, 0, 4, 4]] * 3)
    b = torch.tensor([[0.0, 0, 4, 4], [2, 0, 6, 4], [6, 0, 8, 4]])
    iou, generalised = overlaps(a, b)
    torch.testing.assert_close(iou, torch.tensor([1.0, 1 / 3, 0.0]))
    # Third pair, disjoint boxes: hull 32, union 24.
    torch.testing.assert_close(generalised, torch.tensor([1.0, 1 / 3, -0.25]))


def test_perfect_predictions_and_ignored_cells_have_no_loss() -> None:
    labels, boxes = (torch.from_numpy(v)[None] for v in targets([[40, 8, 64, 40]]))
    logits = torch.full((1, labels.shape[1], 3), -20.0)
    logits[labels == 0, 0] = 20.0
    losses = detection_losses(logits, boxes, labels, boxes)
    assert losses["total"].item() == pytest.approx(0.0, abs=1e-4)
    wrong = logits.clone()
    wrong[0, 0] = 5.0
    assert detection_losses(wrong, boxes, labels, boxes)["classification"] > 1.0
    ignored = labels.clone()
    ignored[0, 0] = IGNORED
    assert detection_losses(wrong, boxes, ignored, boxes)["classification"] < 1e-4
    shifted = detection_losses(logits, boxes + 6.0, labels, boxes)
    assert shifted["localisation"] > 0.3
    assert shifted["classification"] > 0.1  # the target of the score is the IoU
    empty = detection_losses(logits - 40, boxes, torch.full_like(labels, BACKGROUND), boxes)
    assert torch.isfinite(empty["total"])
