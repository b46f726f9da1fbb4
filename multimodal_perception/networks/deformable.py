"""Deformable attention at given places of one feature map (Zhu et al. 2021, eq. 2), one level."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Beyond every image: where the side of an image is no bound.
FAR = 1e4


class DeformableAttention(nn.Module):
    """Each query looks at `points` places a head about its own place in an atlas of images.

    The atlas holds `images` feature maps one below the other; a query never looks into the next one.
    """

    def __init__(
        self, queries: int, values: int, channels: int, heads: int = 4, points: int = 4
    ) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"{channels} channels do not part into {heads} heads")
        self.heads, self.points = heads, points
        self.value = nn.Conv2d(values, channels, 1)
        self.offsets = nn.Linear(queries, heads * points * 2)
        self.weights = nn.Linear(queries, heads * points)
        self.out = nn.Linear(channels, channels)
        nn.init.zeros_(self.offsets.weight)
        nn.init.zeros_(self.weights.weight)
        nn.init.zeros_(self.weights.bias)
        # Heads begin in different directions, each point further out, in cells of the feature map.
        angle = torch.arange(heads) * (2 * math.pi / heads)
        way = torch.stack([angle.cos(), angle.sin()], -1)[:, None]
        start = way * torch.arange(points)[None, :, None]
        self.offsets.bias = nn.Parameter(start.flatten())

    def forward(self, query: Tensor, atlas: Tensor, places: Tensor, images: int) -> Tensor:
        """query (B, Q, queries), atlas (B, values, images * h, w), places (B, Q, 2) -> (B, Q, C).

        places: x and y in the atlas, -1 to 1 from edge to edge, as grid_sample takes them.
        """
        batch, count, _ = query.shape
        looks = self.heads * self.points
        # Places are not known finely enough in half precision.
        value = self.value(atlas).float()
        _, channels, height, width = value.shape
        value = value.reshape(batch * self.heads, channels // self.heads, height, width)
        # Looks before queries, so that what follows works on whole rows: ONNX Runtime is slow with sums
        # over two numbers, or with the same two for many.
        cell = places.new_tensor([2.0 / width, 2.0 / height]).repeat(looks)
        offsets = (self.offsets(query).float() * cell).reshape(batch, count, looks, 2)
        grid = places[:, None] + offsets.transpose(1, 2)  # (B, looks, Q, 2)
        top = torch.floor((places[..., 1] + 1) * (images / 2)).clamp(0, images - 1)
        top = (top * (2 / images) - 1)[:, None]
        low = torch.stack([torch.full_like(top, -FAR), top], -1)
        high = torch.stack([torch.full_like(top, FAR), top + 2 / images], -1)
        grid = torch.minimum(torch.maximum(grid, low), high)
        grid = grid.reshape(batch * self.heads, self.points, count, 2)
        # (B * heads, C / heads, points, Q)
        sampled = F.grid_sample(value, grid, align_corners=False)
        weights = self.weights(query).transpose(1, 2)
        weights = weights.reshape(batch * self.heads, 1, self.points, count)
        weights = (weights - weights.amax(2, keepdim=True)).exp()
        weights = weights / weights.sum(2, keepdim=True)
        mixed = (sampled * weights).sum(2).reshape(batch, channels, count)
        return self.out(mixed.transpose(1, 2))
