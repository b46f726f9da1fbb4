"""Pillars on the canvas, boxes as peaks and codes of a map, and residuals of proposals."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from multimodal_perception.networks.bev_fusion import PEAK_RATIOS
from multimodal_perception.networks.box_residuals import (
    END_BINS,
    apply_residuals,
    end_shifts,
    expected_shift,
    shift_far_end,
)
from multimodal_perception.networks.centre_head import BOX_CODE_SIZE, decode_boxes, select_peaks
from multimodal_perception.networks.pillars import scatter_to_canvas
from multimodal_perception.training.bev_fusion.box_losses import centre_targets, residual_target


def test_scatter_writes_pillars_to_their_cells_and_drops_padding() -> None:
    pillars = torch.arange(6.0).reshape(1, 3, 2) + 1
    canvas = scatter_to_canvas(pillars, torch.tensor([[5, 0, 16]]), 4)
    assert canvas.shape == (1, 2, 4, 4)
    assert canvas[0, :, 1, 1].tolist() == [1, 2] and canvas[0, :, 0, 0].tolist() == [3, 4]
    assert float(canvas.sum()) == 10.0
    # The frames of a batch are independent.
    both = scatter_to_canvas(
        torch.cat([pillars, -pillars]), torch.tensor([[5, 0, 16], [16, 16, 2]]), 4
    )
    assert torch.equal(both[:1], canvas)
    assert both[1, :, 0, 2].tolist() == [-5, -6] and float(both[1].sum()) == -11.0


def test_scatter_propagates_gradients() -> None:
    pillars = torch.randn(1, 3, 2, requires_grad=True)
    scatter_to_canvas(pillars, torch.tensor([[5, 0, 16]]), 4).sum().backward()
    assert pillars.grad is not None
    assert pillars.grad.tolist() == [[[1, 1], [1, 1], [0, 0]]]


def test_decoding_inverts_the_targets() -> None:
    boxes = np.array(
        [[3.3, -7.1, 0.9, 4.2, 1.8, 1.5, 2.5], [-10.0, 5.5, 0.8, 0.6, 0.7, 1.7, -1.0]], np.float32
    )
    heat, cells, codes, weights = centre_targets(boxes, np.array([0, 7]), 10, 32, 0.8, 12.8)
    assert weights.sum() == 2 and (heat.max(axis=(1, 2))[[0, 7]] == 1.0).all()
    logits = torch.full((1, 10, 32, 32), -9.0) + 14.0 * torch.from_numpy(heat)[None]
    dense = torch.zeros(1, BOX_CODE_SIZE, 32 * 32)
    for k in range(2):
        dense[0, :, cells[k]] = torch.from_numpy(codes[k])
    scores, labels, peaks, codes_at_peaks = select_peaks(
        logits, dense.reshape(1, BOX_CODE_SIZE, 32, 32), 2, PEAK_RATIOS
    )
    decoded = decode_boxes(peaks, codes_at_peaks, 32, 0.8, 12.8)[0].numpy()
    order = np.argsort(labels[0].numpy())
    np.testing.assert_allclose(decoded[order], boxes, atol=1e-4)
    assert (scores > 0.9).all() and labels[0, order].tolist() == [0, 7]


def test_adjacent_people_are_two_peaks_and_adjacent_cars_one() -> None:
    # Two people and two cars in neighbouring cells, which is impossible for cars.
    centres = np.array([[0.1, 0.1], [0.9, 0.1], [-8.0, 3.0], [-7.1, 3.0]])
    sizes = np.array([[0.6, 0.6, 1.7], [0.6, 0.6, 1.7], [4.2, 1.8, 1.5], [4.2, 1.8, 1.5]])
    boxes = np.column_stack([centres, np.ones(4), sizes, np.zeros(4)]).astype(np.float32)
    heat, *_ = centre_targets(boxes, np.array([7, 7, 0, 0]), 10, 32, 0.8, 12.8)
    heat[:, :, :] = np.clip(heat, 1e-4, 0.9)
    heat[7][heat[7] > 0.89] = [0.9, 0.6]  # one of them has a lower score
    heat[0][heat[0] > 0.89] = [0.9, 0.6]
    logits = torch.logit(torch.from_numpy(heat))[None]
    scores, labels, cells, _ = select_peaks(
        logits, torch.zeros(1, BOX_CODE_SIZE, 32, 32), 6, PEAK_RATIOS
    )
    confident = scores[0] > 0.3
    assert sorted(labels[0, confident].tolist()) == [0, 7, 7]
    people = cells[0, confident & (labels[0] == 7)]
    assert abs(int(people[0]) - int(people[1])) == 1
    # The cells around the peaks are not peaks.
    assert not ((scores[0] > 0.01) & ~confident).any()


@pytest.mark.parametrize("yaw", [0.0, 1.2, 1.5707, -2.9])
def test_uncertain_front_keeps_the_axis(yaw: float) -> None:
    # The output of a network that is sure of the axis, but not of which end is the front.
    codes = torch.zeros(1, BOX_CODE_SIZE)
    codes[0, 6], codes[0, 7] = 0.05 * np.cos(yaw), -0.05 * np.sin(yaw)  # perpendicular to the axis
    codes[0, 8], codes[0, 9] = 0.9 * np.sin(2 * yaw), 0.9 * np.cos(2 * yaw)
    decoded = decode_boxes(torch.zeros(1, dtype=torch.int64), codes, 32, 0.8, 12.8)[0, 6].item()
    assert abs(np.sin(decoded - yaw)) < 1e-5


def test_residual_targets_move_proposals_to_their_boxes() -> None:
    rng = np.random.default_rng(0)
    boxes = rng.uniform(0.5, 4.0, (20, 7)).astype(np.float32)
    proposals = boxes + rng.normal(0, 0.1, boxes.shape).astype(np.float32)
    residuals = residual_target(torch.from_numpy(proposals), torch.from_numpy(boxes))
    refined = apply_residuals(torch.from_numpy(proposals), residuals).numpy()
    np.testing.assert_allclose(refined, boxes, atol=1e-4)


@pytest.mark.parametrize("towards", [1.0, -1.0])
def test_likelier_far_end_is_chosen_and_near_end_is_kept(towards: float) -> None:
    logits = torch.full((1, 1, END_BINS), -20.0)
    shifts = end_shifts(logits)
    logits[..., shifts == 0.0], logits[..., shifts == 3.0] = 3.0, 5.0
    box = torch.tensor([[[20.0, 1.0, 1.5, 9.0, 2.5, 3.0, 0.0]]])
    profile = torch.tensor([[[towards]]])
    residuals = shift_far_end(torch.zeros(1, 1, 8), expected_shift(logits), box[..., 3:4], profile)
    result = apply_residuals(box, residuals)[0, 0].numpy()
    # The end towards the sensor, in front or behind, is not moved.
    expected = [20.0 - towards * 1.5, 1.0, 1.5, 12.0, 2.5, 3.0, 0.0]
    np.testing.assert_allclose(result, expected, atol=0.02)
    nothing = shift_far_end(torch.zeros(1, 1, 8), torch.zeros(1, 1, 1), box[..., 3:4], profile)
    assert torch.equal(nothing, torch.zeros(1, 1, 8))
