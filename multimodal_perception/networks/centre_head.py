"""Centre heatmaps and what is regressed there (CenterPoint, Yin et al. 2021, section 4)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from multimodal_perception.networks.bev_backbone import convolution

# Regressed at a centre: offset in the cell (2), z, log size (3), sine and cosine of the yaw and of
# twice the yaw. The latter tell the axis, as shape does; the former only which of its ends is the
# front: alone, where that is in doubt, they would settle between both, across the axis.
CODE = 10


class CentreHead(nn.Module):
    """One heatmap a class and one box a cell."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.shared = convolution(channels, channels)
        self.heat = nn.Conv2d(channels, classes, 1)
        self.code = nn.Conv2d(channels, CODE, 1)
        nn.init.constant_(self.heat.bias, -2.19)  # type: ignore[arg-type]  # a probability of 0.1

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> logits (B, classes, H, W), codes (B, 10, H, W)."""
        shared = self.shared(features)
        return self.heat(shared), self.code(shared)


def best_centres(
    heat: Tensor, code: Tensor, count: int, least: Sequence[float]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The `count` highest peaks of all classes.

    heat: logits (B, K, H, W); code (B, 10, H, W). least: (K,), share of the highest score about a cell
    that it needs to be a peak. Returns scores (B, R), labels (B, R) from 0, cells (B, R)
    row * W + column, codes (B, R, 10).
    """
    batch, classes, height, width = heat.shape
    score = heat.sigmoid()
    # A peak is no lower than its neighbours: NMS by max pooling (Zhou et al. 2019, section 3). People
    # stand closer together than a cell and its neighbours are, so theirs may be (TransFusion, Bai et
    # al. 2022, pools them not at all); the shoulder of a single one's Gaussian is 0.14 of it.
    bar = F.max_pool2d(score, 3, 1, 1) * score.new_tensor(least)[:, None, None]
    peak = (score >= bar).to(score.dtype)
    flat = (score * peak).reshape(batch, classes * height * width)
    best, index = flat.topk(count, dim=1)
    label, cell = index // (height * width), index % (height * width)
    codes = code.reshape(batch, CODE, height * width)
    codes = codes.gather(2, cell[:, None].expand(-1, CODE, -1)).transpose(1, 2)
    return best, label, cell, codes


def boxes_of(cells: Tensor, codes: Tensor, width: int, step: float, extent: float) -> Tensor:
    """Boxes (..., 7) of codes (..., 10) at cells (...): x y z length width height yaw."""
    row, column = cells // width, cells % width
    x = (column.to(codes.dtype) + codes[..., 0]) * step - extent
    y = (row.to(codes.dtype) + codes[..., 1]) * step - extent
    size = codes[..., 3:6].clamp(-3.0, 3.5).exp()
    axis = torch.atan2(codes[..., 8], codes[..., 9]) / 2
    sine, cosine = axis.sin(), axis.cos()
    ahead = torch.where(sine * codes[..., 6] + cosine * codes[..., 7] < 0, -1.0, 1.0).to(sine.dtype)
    yaw = torch.atan2(ahead * sine, ahead * cosine)
    return torch.cat([torch.stack([x, y, codes[..., 2]], -1), size, yaw[..., None]], -1)
