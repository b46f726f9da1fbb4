"""Targets of the first stage for labelled boxes, and the losses of the boxes of both stages."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from multimodal_perception.detection.bev_fusion.roi_features import CAR_LENGTH
from multimodal_perception.kernels import njit
from multimodal_perception.networks.box_residuals import (
    MAX_END_SHIFT,
    apply_residuals,
    end_shifts,
    far_end_sign,
)
from multimodal_perception.networks.centre_head import BOX_CODE_SIZE

# Target of the heatmap in cells without a known label: below 1, so that they are no centres, and so
# close to 1 that the focal loss hardly penalises any prediction there.
UNLABELLED = 0.999
# Errors below which the smooth L1 loss is quadratic: of residuals (fraction of the box size) and of
# corners (metres). LoGoNet has 1/9 and 1 m; half a metre is such a small fraction of a bus that its
# gradient would be too small.
RESIDUAL_BETA, CORNER_BETA = 0.05, 0.3
MAX_CENTRES = 256


def centre_targets(
    boxes: NDArray[np.float32],
    labels: NDArray[np.int64],
    classes: int,
    size: int,
    cell_size: float,
    half_extent: float,
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
    """Heatmaps (classes, size, size), and for M = MAX_CENTRES boxes the cells (M,), codes (M, 10) and
    weights (M,), 0 for unused rows.

    boxes: (K, 7); labels: (K,) from 0. Centres are Gaussians as in CenterPoint (Yin et al. 2021, section
    4.1), with a radius that depends on the size of the box, at least one cell.
    """
    heat = np.zeros((classes, size, size), np.float32)
    cells, codes = (
        np.zeros(MAX_CENTRES, np.int64),
        np.zeros((MAX_CENTRES, BOX_CODE_SIZE), np.float32),
    )
    weights = np.zeros(MAX_CENTRES, np.float32)
    position = (boxes[:, :2] + half_extent) / cell_size
    inside = ((position >= 0) & (position < size)).all(axis=1)
    for k, i in enumerate(np.flatnonzero(inside)[:MAX_CENTRES]):
        column, row = int(position[i, 0]), int(position[i, 1])
        radius = max(1.0, 0.25 * float(min(boxes[i, 3], 1.6 * boxes[i, 4])) / cell_size + 0.5)
        _draw_gaussian(heat[labels[i]], column, row, radius)
        cells[k], weights[k] = row * size + column, 1.0
        codes[k, :2] = position[i] - (column, row)
        codes[k, 2], codes[k, 3:6] = boxes[i, 2], np.log(np.maximum(boxes[i, 3:6], 0.05))
        angles = np.array([boxes[i, 6], 2 * boxes[i, 6]])
        codes[k, 6::2], codes[k, 7::2] = np.sin(angles), np.cos(angles)
    return heat, cells, codes, weights


@njit()
def _draw_gaussian(heat, column, row, radius):  # type: ignore[no-untyped-def]
    width = int(np.ceil(radius))
    sigma = (2 * radius + 1) / 6.0
    for i in range(max(row - width, 0), min(row + width + 1, heat.shape[0])):
        for j in range(max(column - width, 0), min(column + width + 1, heat.shape[1])):
            squared_distance = (i - row) ** 2 + (j - column) ** 2
            heat[i, j] = max(heat[i, j], np.exp(-squared_distance / (2 * sigma * sigma)))


def heat_loss(logits: Tensor, target: Tensor, frame_weight: Tensor) -> Tensor:
    """Penalty-reduced focal loss (Law and Deng 2018, eq. 1) of heatmaps (B, K, H, W).

    frame_weight: (B,), weight of each frame.
    """
    weight = frame_weight[:, None, None, None]
    logits = logits.float()
    score = logits.sigmoid().clamp(1e-4, 1 - 1e-4)
    positive = (target > 0.999).float()
    positive_term = F.logsigmoid(logits) * (1 - score) ** 2 * positive
    negative_term = F.logsigmoid(-logits) * score**2 * (1 - target) ** 4 * (1 - positive)
    total = -((positive_term + negative_term) * weight).sum()
    return total / (positive * weight).sum().clamp(min=1.0)


def code_loss(code: Tensor, cells: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """L1 loss of codes (B, 10, H, W) at cells (B, T). target: (B, T, 10); weights: (B, T)."""
    batch = code.shape[0]
    flat = code.float().reshape(batch, BOX_CODE_SIZE, -1)
    predicted = flat.gather(2, cells[:, None].expand(-1, BOX_CODE_SIZE, -1)).transpose(1, 2)
    error = (predicted - target).abs() * weights[..., None]
    return error.sum() / weights.sum().clamp(min=1.0)


def soft_target(overlap: Tensor) -> Tensor:
    """Target score of a box by its IoU: 0 below 0.25, 1 above 0.75, linear between (LoGoNet, section
    3.5)."""
    return ((overlap - 0.25) / 0.5).clamp(0.0, 1.0)


def confidence_loss(logits: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Binary cross entropy of score logits (B, R, K). target: (B, R, K) in [0, 1]; weights: (B, R)."""
    each = F.binary_cross_entropy_with_logits(logits.float(), target, reduction="none").sum(-1)
    return (each * weights).sum() / weights.sum().clamp(min=1.0)


def residual_loss(
    proposals: Tensor, residuals: Tensor, matched_boxes: Tensor, positive_mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Smooth L1 losses of the residuals (B, R, 8) and of the corners of proposals (B, R, 7).

    matched_boxes: (B, R, 7). positive_mask: (B, R), 1 for proposals that count. The corners of a box
    that is rotated by 180 degrees are equivalent.
    """
    residuals = residuals.float()
    count = positive_mask.sum().clamp(min=1.0)
    error = F.smooth_l1_loss(
        residuals, residual_target(proposals, matched_boxes), beta=RESIDUAL_BETA, reduction="none"
    )
    loss = (error.sum(-1) * positive_mask).sum() / count
    refined = _corners(apply_residuals(proposals, residuals))
    flipped = matched_boxes.clone()
    flipped[..., 6] += torch.pi
    errors = [
        F.smooth_l1_loss(refined, _corners(b), beta=CORNER_BETA, reduction="none").mean((-1, -2))
        for b in (matched_boxes, flipped)
    ]
    corner = (torch.minimum(errors[0], errors[1]) * positive_mask).sum() / count
    return loss, corner


class EndOutput(Protocol):
    """The outputs of a refinement that ends_loss needs, see RefinementOutputs."""

    @property
    def residuals_without_end_shift(self) -> Tensor: ...

    @property
    def end_logits(self) -> Tensor: ...


def ends_loss(
    output: EndOutput, proposals: Tensor, matched_boxes: Tensor, positive_mask: Tensor
) -> Tensor:
    """Cross entropy of the position of the far end, of proposals (B, R, 7) that are longer than a car.

    matched_boxes: (B, R, 7). positive_mask: (B, R), 1 for proposals that count.
    """
    yaw, length = proposals[..., 6], proposals[..., 3]
    side = far_end_sign(-(yaw.cos() * proposals[..., 0] + yaw.sin() * proposals[..., 1]))
    target = residual_target(proposals, matched_boxes)
    predicted = output.residuals_without_end_shift.detach().float()
    size = length * predicted[..., 3].clamp(-1.0, 1.0).exp()
    shift = (
        side * (target[..., 0] - predicted[..., 0]) * length + (matched_boxes[..., 3] - size) / 2
    )
    logits = output.end_logits.float()
    shifts = end_shifts(logits)
    # The target is a Gaussian around the shift, because it lies between two of the positions.
    deviation = (shifts - shift.clamp(-MAX_END_SHIFT, MAX_END_SHIFT)[..., None]) / (
        shifts[1] - shifts[0]
    )
    distribution = (-0.5 * deviation**2).softmax(-1)
    entropy = -(distribution * logits.log_softmax(-1)).sum(-1)
    weights = positive_mask * (length > CAR_LENGTH)
    return (entropy * weights).sum() / weights.sum().clamp(min=1.0)


def residual_target(proposals: Tensor, matched_boxes: Tensor) -> Tensor:
    """The residuals (..., 8) with which apply_residuals turns proposals (..., 7) into matched boxes."""
    c, s = proposals[..., 6].cos(), proposals[..., 6].sin()
    offset = matched_boxes[..., :3] - proposals[..., :3]
    x, y = c * offset[..., 0] + s * offset[..., 1], c * offset[..., 1] - s * offset[..., 0]
    size = proposals[..., 3:6]
    rotation = matched_boxes[..., 6] - proposals[..., 6]
    # The shape of a box does not distinguish its front from its rear: take the nearer of both headings.
    rotation = torch.atan2((2 * rotation).sin(), (2 * rotation).cos()) / 2
    return torch.cat(
        [
            torch.stack([x, y, offset[..., 2]], -1) / size,
            (matched_boxes[..., 3:6] / size).clamp(0.1, 10.0).log(),
            rotation.sin()[..., None],
            rotation.cos()[..., None] - 1.0,
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
    rotated = torch.stack([c * x - s * y, s * x + c * y, local[..., 2]], -1)
    return rotated + boxes[..., None, :3]
