"""What the cells of the image detector should say, and how far off they are."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from multimodal_perception.geometry.image_boxes import areas
from multimodal_perception.networks.rgb_thermal_detection import STRIDES, cells

# The larger side of a box, pixels, that each stride is for; where they overlap, both are.
SIDES = ((0.0, 64.0), (48.0, 160.0), (112.0, np.inf))
# Cells whose middle is nearer than this to the box's, in strides, stand for it (FCOS's centre sampling).
RADIUS = 1.5
BACKGROUND, IGNORED = -1, -2


def cell_targets(
    boxes: NDArray[np.float32],
    labels: NDArray[np.int64],
    counts: NDArray[np.bool_],
    shape: tuple[int, ...],
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Class (A,) of each cell, BACKGROUND or IGNORED, and box (A, 4) in pixels, of an image's shape.

    boxes: (K, 4); labels: (K,) from 0; counts: (K,), false where a cell may say anything. A cell
    stands for the smallest box whose middle is near and which it lies in; the cell that holds a
    box's middle always does for one.
    """
    places, strides, sides = _grid(shape[0], shape[1])
    kinds = np.full(len(places), BACKGROUND, np.int64)
    targets = np.zeros((len(places), 4), np.float32)
    if not len(boxes):
        return kinds, targets
    x, y = places[:, :1], places[:, 1:]
    inside = (x > boxes[:, 0]) & (x < boxes[:, 2]) & (y > boxes[:, 1]) & (y < boxes[:, 3])
    kinds[(inside & ~counts).any(axis=1)] = IGNORED
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2
    away = np.abs(places[:, None] - middles[None]).max(axis=2) / strides[:, None]
    larger = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
    fits = (larger >= sides[:, :1]) & (larger < sides[:, 1:])
    near = (inside & (away < RADIUS)) | (away <= 0.5)
    cost = np.where(near & fits & counts, areas(boxes)[None], np.inf)
    best = cost.argmin(axis=1)
    found = np.isfinite(cost[np.arange(len(places)), best])
    kinds[found], targets[found] = labels[best[found]], boxes[best[found]]
    return kinds, targets


def _grid(rows: int, columns: int) -> tuple[NDArray, NDArray, NDArray]:
    """Of all cells: middles (A, 2) in pixels, strides (A,) and sides of their boxes (A, 2)."""
    places = [s * cells(rows // s, columns // s).numpy() for s in STRIDES]
    counts = [len(p) for p in places]
    return np.concatenate(places), np.repeat(STRIDES, counts), np.repeat(SIDES, counts, axis=0)


def detection_losses(
    logits: Tensor, boxes: Tensor, kinds: Tensor, targets: Tensor
) -> dict[str, Tensor]:
    """Losses of logits (B, A, classes) and boxes (B, A, 4) against cell_targets' two, by batch."""
    logits, boxes = logits.float(), boxes.float()
    found = kinds >= 0
    count = found.sum().clamp(min=1)
    overlap, generalised = overlaps(boxes[found], targets[found])
    where = (1.0 - generalised).sum() / count
    quality = torch.zeros_like(logits)
    quality[found] = F.one_hot(kinds[found], logits.shape[-1]) * overlap.detach()[:, None]
    told = (kinds != IGNORED)[..., None]
    # Quality focal loss (Li et al. 2020, eq. 3): the score should be the overlap of the box.
    weight = (quality - logits.sigmoid()).abs() ** 2
    each = F.binary_cross_entropy_with_logits(logits, quality, reduction="none")
    what = (weight * each * told).sum() / count
    return {"what": what, "where": where, "total": what + 2.0 * where}


def overlaps(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """IoU (N,) and generalised IoU (N,) (Rezatofighi et al. 2019) of boxes (N, 4), pair by pair."""
    low, high = torch.maximum(a[:, :2], b[:, :2]), torch.minimum(a[:, 2:], b[:, 2:])
    common = (high - low).clamp(min=0).prod(-1)
    union = (a[:, 2:] - a[:, :2]).prod(-1) + (b[:, 2:] - b[:, :2]).prod(-1) - common
    around = torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])
    hull = around.prod(-1).clamp(min=1e-6)
    overlap = common / union.clamp(min=1e-6)
    return overlap, overlap - (hull - union) / hull
