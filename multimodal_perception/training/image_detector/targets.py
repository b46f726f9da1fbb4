"""Training targets of the cells of the image detector, and its losses."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from multimodal_perception.geometry.image_boxes import areas
from multimodal_perception.networks.rgb_thermal_detection import STRIDES, cell_centres

# Range of the larger side of a box, pixels, by stride. In the overlap a box is assigned to both strides.
SIDE_RANGES = ((0.0, 64.0), (48.0, 160.0), (112.0, np.inf))
# Cells whose centre is nearer than this to the centre of a box, in strides, are positive (centre
# sampling of FCOS, Tian et al. 2019).
CENTRE_RADIUS = 1.5
BACKGROUND, IGNORED = -1, -2


def cell_targets(
    boxes: NDArray[np.float32],
    labels: NDArray[np.int64],
    valid: NDArray[np.bool_],
    shape: tuple[int, ...],
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Target class (A,) of each cell, or BACKGROUND or IGNORED, and target box (A, 4) in pixels.

    boxes: (K, 4) pixels; labels: (K,) from 0; valid: (K,), false for boxes whose cells are ignored;
    shape: rows and columns of the image. A cell is assigned to the smallest box that contains it
    and whose centre is near. The cell that contains the centre of a box is always a candidate for
    it.
    """
    centres, strides, sides = _grid(shape[0], shape[1])
    target_labels = np.full(len(centres), BACKGROUND, np.int64)
    target_boxes = np.zeros((len(centres), 4), np.float32)
    if not len(boxes):
        return target_labels, target_boxes
    x, y = centres[:, :1], centres[:, 1:]
    inside = (x > boxes[:, 0]) & (x < boxes[:, 2]) & (y > boxes[:, 1]) & (y < boxes[:, 3])
    target_labels[(inside & ~valid).any(axis=1)] = IGNORED
    box_centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    distance = np.abs(centres[:, None] - box_centres[None]).max(axis=2) / strides[:, None]
    larger_side = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
    fits = (larger_side >= sides[:, :1]) & (larger_side < sides[:, 1:])
    near = (inside & (distance < CENTRE_RADIUS)) | (distance <= 0.5)
    cost = np.where(near & fits & valid, areas(boxes)[None], np.inf)
    best = cost.argmin(axis=1)
    positive = np.isfinite(cost[np.arange(len(centres)), best])
    target_labels[positive] = labels[best[positive]]
    target_boxes[positive] = boxes[best[positive]]
    return target_labels, target_boxes


def _grid(rows: int, columns: int) -> tuple[NDArray, NDArray, NDArray]:
    """Of all cells: centres (A, 2) in pixels, strides (A,) and ranges of the box side (A, 2)."""
    centres = [s * cell_centres(rows // s, columns // s).numpy() for s in STRIDES]
    counts = [len(c) for c in centres]
    return (
        np.concatenate(centres),
        np.repeat(STRIDES, counts),
        np.repeat(SIDE_RANGES, counts, axis=0),
    )


def detection_losses(
    logits: Tensor, boxes: Tensor, target_labels: Tensor, target_boxes: Tensor
) -> dict[str, Tensor]:
    """Losses of logits (B, A, classes) and boxes (B, A, 4) for targets of cell_targets with a batch
    axis."""
    logits, boxes = logits.float(), boxes.float()
    positive = target_labels >= 0
    count = positive.sum().clamp(min=1)
    overlap, generalised = overlaps(boxes[positive], target_boxes[positive])
    localisation = (1.0 - generalised).sum() / count
    quality = torch.zeros_like(logits)
    one_hot = F.one_hot(target_labels[positive], logits.shape[-1])
    quality[positive] = one_hot * overlap.detach()[:, None]
    supervised = (target_labels != IGNORED)[..., None]
    # Quality focal loss (Li et al. 2020, eq. 3): the target of the score is the IoU of the box.
    weight = (quality - logits.sigmoid()).abs() ** 2
    cross_entropy = F.binary_cross_entropy_with_logits(logits, quality, reduction="none")
    classification = (weight * cross_entropy * supervised).sum() / count
    total = classification + 2.0 * localisation
    return {"classification": classification, "localisation": localisation, "total": total}


def overlaps(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """IoU (N,) and generalised IoU (N,) (Rezatofighi et al. 2019) of N pairs of boxes (N, 4)."""
    low, high = torch.maximum(a[:, :2], b[:, :2]), torch.minimum(a[:, 2:], b[:, 2:])
    common = (high - low).clamp(min=0).prod(-1)
    union = (a[:, 2:] - a[:, :2]).prod(-1) + (b[:, 2:] - b[:, :2]).prod(-1) - common
    extent = torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])
    hull = extent.prod(-1).clamp(min=1e-6)
    overlap = common / union.clamp(min=1e-6)
    return overlap, overlap - (hull - union) / hull
