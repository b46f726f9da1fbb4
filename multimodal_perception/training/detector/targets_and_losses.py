"""What the networks should say of labelled boxes, and how far off they are."""

from __future__ import annotations

import numba
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from multimodal_perception.networks.centre_head import CODE
from multimodal_perception.networks.local_fusion import (
    CAR,
    LONGER,
    Refined,
    end_places,
    far_side,
    refined_boxes,
)

# Heat where nobody has said what is there: no centre, and as little wrong as anything can be.
UNLABELLED = 0.999
# Errors of refined boxes below these (share of the box; metres of a corner) count by their square. Half
# a metre is a small share of a bus: LoGoNet's 1/9 and 1 m would hardly tell it to move.
NEAR, NEAR_M = 0.05, 0.3


def centre_targets(
    boxes: NDArray[np.float32],
    labels: NDArray[np.int64],
    classes: int,
    size: int,
    step: float,
    extent: float,
    most: int = 256,
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
    """Heatmaps (classes, size, size), cells (most,), codes (most, 10) and their weights (most,).

    boxes: (K, 7); labels: (K,) from 0. Gaussians as CenterPoint draws them (Yin et al. 2021, section
    4.1), their radius by the box's size, at least a cell.
    """
    heat = np.zeros((classes, size, size), np.float32)
    cells, codes = np.zeros(most, np.int64), np.zeros((most, CODE), np.float32)
    weights = np.zeros(most, np.float32)
    place = (boxes[:, :2] + extent) / step
    inside = ((place >= 0) & (place < size)).all(axis=1)
    for k, i in enumerate(np.flatnonzero(inside)[:most]):
        column, row = int(place[i, 0]), int(place[i, 1])
        radius = max(1.0, 0.25 * float(min(boxes[i, 3], 1.6 * boxes[i, 4])) / step + 0.5)
        _draw_gaussian(heat[labels[i]], column, row, radius)
        cells[k], weights[k] = row * size + column, 1.0
        codes[k, :2] = place[i] - (column, row)
        codes[k, 2], codes[k, 3:6] = boxes[i, 2], np.log(np.maximum(boxes[i, 3:6], 0.05))
        turns = np.array([boxes[i, 6], 2 * boxes[i, 6]])
        codes[k, 6::2], codes[k, 7::2] = np.sin(turns), np.cos(turns)
    return heat, cells, codes, weights


@numba.njit(cache=True)
def _draw_gaussian(heat, column, row, radius):  # type: ignore[no-untyped-def]
    reach = int(np.ceil(radius))
    sigma = (2 * radius + 1) / 6.0
    for i in range(max(row - reach, 0), min(row + reach + 1, heat.shape[0])):
        for j in range(max(column - reach, 0), min(column + reach + 1, heat.shape[1])):
            away = (i - row) ** 2 + (j - column) ** 2
            heat[i, j] = max(heat[i, j], np.exp(-away / (2 * sigma * sigma)))


def heat_loss(logits: Tensor, target: Tensor, counts: Tensor) -> Tensor:
    """Penalty-reduced focal loss (Law and Deng 2018, eq. 1) of heatmaps (B, K, H, W).

    counts: (B,), how much each frame counts.
    """
    counts = counts[:, None, None, None]
    logits = logits.float()
    score = logits.sigmoid().clamp(1e-4, 1 - 1e-4)
    found = (target > 0.999).float()
    right = F.logsigmoid(logits) * (1 - score) ** 2 * found
    wrong = F.logsigmoid(-logits) * score**2 * (1 - target) ** 4 * (1 - found)
    return -((right + wrong) * counts).sum() / (found * counts).sum().clamp(min=1.0)


def code_loss(code: Tensor, cells: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """L1 of codes (B, 10, H, W) at cells (B, T) against (B, T, 10), weighted (B, T)."""
    batch = code.shape[0]
    flat = code.float().reshape(batch, CODE, -1)
    said = flat.gather(2, cells[:, None].expand(-1, CODE, -1)).transpose(1, 2)
    off = (said - target).abs() * weights[..., None]
    return off.sum() / weights.sum().clamp(min=1.0)


def segment_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy of images' classes (N, C, h, w) against (N, h, w), rare ones counted more; 255 is
    not known."""
    weights = logits.new_ones(logits.shape[1], dtype=torch.float32)
    weights[0] = 0.3
    weights[2:4] = 3.0
    weights[6:] = 2.0
    labels = labels.long()
    if not bool((labels != 255).any()):
        return logits.sum() * 0.0
    return F.cross_entropy(logits.float(), labels, weights, ignore_index=255)


def soft_target(overlap: Tensor) -> Tensor:
    """Confidence that an overlap should have: 0 below 0.25, 1 above 0.75 (LoGoNet, section 3.5)."""
    return ((overlap - 0.25) / 0.5).clamp(0.0, 1.0)


def confidence_loss(logits: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Binary cross entropy of confidences (B, R, K) against soft targets, weighted (B, R)."""
    each = F.binary_cross_entropy_with_logits(logits.float(), target, reduction="none").sum(-1)
    return (each * weights).sum() / weights.sum().clamp(min=1.0)


def residual_loss(
    proposals: Tensor, residuals: Tensor, matched: Tensor, found: Tensor
) -> tuple[Tensor, Tensor]:
    """Smooth L1 of residuals, and of corners, for proposals (B, R, 7) whose box is matched (B, R, 7).

    found: (B, R), 1 where there is a match. A box turned by half a turn has the same corners.
    """
    residuals = residuals.float()
    count = found.sum().clamp(min=1.0)
    off = F.smooth_l1_loss(
        residuals, residual_target(proposals, matched), beta=NEAR, reduction="none"
    )
    loss = (off.sum(-1) * found).sum() / count
    refined = refined_boxes(proposals, residuals)
    flipped = matched.clone()
    flipped[..., 6] += torch.pi
    away = [
        F.smooth_l1_loss(_corners(refined), _corners(b), beta=NEAR_M, reduction="none").mean(
            (-1, -2)
        )
        for b in (matched, flipped)
    ]
    corner = (torch.minimum(away[0], away[1]) * found).sum() / count
    return loss, corner


def ends_loss(refined: Refined, proposals: Tensor, matched: Tensor, found: Tensor) -> Tensor:
    """Cross entropy of where the far ends of proposals (B, R, 7) longer than a car are, for those whose
    box is matched (B, R, 7). found: (B, R), 1 where there is a match."""
    yaw, length = proposals[..., 6], proposals[..., 3]
    side = far_side(-(yaw.cos() * proposals[..., 0] + yaw.sin() * proposals[..., 1]))
    target, said = residual_target(proposals, matched), refined.nearer.detach().float()
    size = length * said[..., 3].clamp(-1.0, 1.0).exp()
    farther = side * (target[..., 0] - said[..., 0]) * length + (matched[..., 3] - size) / 2
    logits = refined.ends.float()
    places = end_places(logits)
    # A place between two is both, and a little of their neighbours.
    away = (places - farther.clamp(-LONGER, LONGER)[..., None]) / (places[1] - places[0])
    wanted = (-0.5 * away**2).softmax(-1)
    each = -(wanted * logits.log_softmax(-1)).sum(-1)
    counted = found * (length > CAR)
    return (each * counted).sum() / counted.sum().clamp(min=1.0)


def residual_target(proposals: Tensor, matched: Tensor) -> Tensor:
    """What refined_boxes needs to turn proposals (..., 7) into the matched boxes (..., 7)."""
    c, s = proposals[..., 6].cos(), proposals[..., 6].sin()
    away = matched[..., :3] - proposals[..., :3]
    x, y = c * away[..., 0] + s * away[..., 1], c * away[..., 1] - s * away[..., 0]
    size = proposals[..., 3:6]
    turn = matched[..., 6] - proposals[..., 6]
    # A box has no front that its shape alone could tell: the nearer of the two headings.
    turn = torch.atan2((2 * turn).sin(), (2 * turn).cos()) / 2
    return torch.cat(
        [
            torch.stack([x, y, away[..., 2]], -1) / size,
            (matched[..., 3:6] / size).clamp(0.1, 10.0).log(),
            turn.sin()[..., None],
            turn.cos()[..., None] - 1.0,
        ],
        -1,
    )


def _corners(boxes: Tensor) -> Tensor:
    """Corners (..., 8, 3) of boxes (..., 7)."""
    signs = torch.tensor(
        [[i, j, k] for i in (-0.5, 0.5) for j in (-0.5, 0.5) for k in (-0.5, 0.5)],
        dtype=boxes.dtype,
        device=boxes.device,
    )
    local = signs * boxes[..., None, 3:6]
    c, s = boxes[..., 6].cos()[..., None], boxes[..., 6].sin()[..., None]
    x, y = local[..., 0], local[..., 1]
    turned = torch.stack([c * x - s * y, s * x + c * y, local[..., 2]], -1)
    return turned + boxes[..., None, :3]
