"""Centre heatmaps and box regression (CenterPoint, Yin et al. 2021, section 4)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

# Box code: offset in the cell (2), z, log size (3), sine and cosine of the yaw (2) and of twice the yaw
# (2). Twice the yaw gives the axis, the yaw only which end is the front: if the front is uncertain, the
# mean of both possible yaws would be perpendicular to the axis.
BOX_CODE_SIZE = 10


def select_peaks(
    heatmap: Tensor, code: Tensor, count: int, peak_ratios: Sequence[float]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Select the `count` highest peaks of all classes.

    heatmap: logits (B, K, H, W). code: (B, D, H, W), of each cell. peak_ratios: (K,), fraction of the
    maximum score in its 3 x 3 neighbourhood that a cell needs to be a peak.

    Returns scores (B, R), labels (B, R) from 0, cells (B, R) row * W + column, and codes (B, R, D).
    """
    batch, classes, height, width = heatmap.shape
    score = heatmap.sigmoid()
    # NMS by max pooling (Zhou et al. 2019, section 3). People may stand in neighbouring cells, so their
    # ratio is below 1 (TransFusion, Bai et al. 2022, does not pool them at all). The neighbours of a
    # single person's peak have 0.14 of its score and stay below the ratio.
    threshold = F.max_pool2d(score, 3, 1, 1) * score.new_tensor(peak_ratios)[:, None, None]
    peak = (score >= threshold).to(score.dtype)
    flat = (score * peak).reshape(batch, classes * height * width)
    best, index = flat.topk(count, dim=1)
    label, cell = index // (height * width), index % (height * width)
    size = code.shape[1]
    codes = code.reshape(batch, size, height * width)
    codes = codes.gather(2, cell[:, None].expand(-1, size, -1)).transpose(1, 2)
    return best, label, cell, codes


def decode_boxes(
    cells: Tensor, codes: Tensor, width: int, step: float, half_extent: float
) -> Tensor:
    """Decode codes (..., 10) at cells (...) to boxes (..., 7): x y z length width height yaw.

    width: cells per row. step: cell size, metres. half_extent: half side of the grid, metres.
    """
    row, column = cells // width, cells % width
    x = (column.to(codes.dtype) + codes[..., 0]) * step - half_extent
    y = (row.to(codes.dtype) + codes[..., 1]) * step - half_extent
    size = codes[..., 3:6].clamp(-3.0, 3.5).exp()
    axis = torch.atan2(codes[..., 8], codes[..., 9]) / 2
    sine, cosine = axis.sin(), axis.cos()
    front = torch.where(sine * codes[..., 6] + cosine * codes[..., 7] < 0, -1.0, 1.0).to(sine.dtype)
    yaw = torch.atan2(front * sine, front * cosine)
    return torch.cat([torch.stack([x, y, codes[..., 2]], -1), size, yaw[..., None]], -1)
