"""Single-scale deformable attention (Zhu et al. 2021, eq. 2) over vertically stacked images."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# No limit of a sampling position, in normalised coordinates.
UNBOUNDED = 1e4


class DeformableAttention(nn.Module):
    """Each query samples `points` positions per head around its reference position.

    The feature map holds the maps of `images` images stacked vertically. Sampling positions are clamped
    to the image that contains the reference position.
    """

    def __init__(
        self, queries: int, values: int, channels: int, heads: int = 4, points: int = 4
    ) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"channels ({channels}) must be a multiple of heads ({heads})")
        self.heads, self.points = heads, points
        self.value = nn.Conv2d(values, channels, 1)
        self.offsets = nn.Linear(queries, heads * points * 2)
        self.weights = nn.Linear(queries, heads * points)
        self.out = nn.Linear(channels, channels)
        nn.init.zeros_(self.offsets.weight)
        nn.init.zeros_(self.weights.weight)
        nn.init.zeros_(self.weights.bias)
        # As in the paper, the heads start in different directions, with each point one cell farther.
        angle = torch.arange(heads) * (2 * math.pi / heads)
        direction = torch.stack([angle.cos(), angle.sin()], -1)[:, None]
        initial = direction * torch.arange(points)[None, :, None]
        self.offsets.bias = nn.Parameter(initial.flatten())

    def forward(self, query: Tensor, feature_map: Tensor, sample_uv: Tensor, images: int) -> Tensor:
        """Returns (B, Q, C).

        query (B, Q, queries); feature_map (B, values, images * h, w); sample_uv (B, Q, 2), reference
        positions x and y in the stacked map, -1 to 1 from edge to edge, as in grid_sample.
        """
        batch, count, _ = query.shape
        samples = self.heads * self.points
        # Positions need single precision.
        value = self.value(feature_map).float()
        _, channels, height, width = value.shape
        value = value.reshape(batch * self.heads, channels // self.heads, height, width)
        # Samples come before queries, so that all operators below work on long rows: ONNX Runtime is
        # slow with reductions or broadcasts over two elements.
        cell = sample_uv.new_tensor([2.0 / width, 2.0 / height]).repeat(samples)
        offsets = (self.offsets(query).float() * cell).reshape(batch, count, samples, 2)
        grid = sample_uv[:, None] + offsets.transpose(1, 2)  # (B, samples, Q, 2)
        # Clamp to the rows of the image that contains the reference position.
        top = torch.floor((sample_uv[..., 1] + 1) * (images / 2)).clamp(0, images - 1)
        top = (top * (2 / images) - 1)[:, None]  # (B, 1, Q)
        low = torch.stack([torch.full_like(top, -UNBOUNDED), top], -1)
        high = torch.stack([torch.full_like(top, UNBOUNDED), top + 2 / images], -1)
        grid = torch.minimum(torch.maximum(grid, low), high)
        grid = grid.reshape(batch * self.heads, self.points, count, 2)
        # (B * heads, C / heads, points, Q)
        sampled = F.grid_sample(value, grid, align_corners=False)
        weights = self.weights(query).transpose(1, 2)
        weights = weights.reshape(batch * self.heads, 1, self.points, count)
        weights = (weights - weights.amax(2, keepdim=True)).exp()
        weights = weights / weights.sum(2, keepdim=True)
        attended = (sampled * weights).sum(2).reshape(batch, channels, count)
        return self.out(attended.transpose(1, 2))
