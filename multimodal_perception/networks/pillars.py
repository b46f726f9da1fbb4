"""Pillar encoding and the BEV canvas (PointPillars, Lang et al. 2019, section 2.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PillarEncoder(nn.Module):
    """Encodes the moments and histogram of each pillar's points in C channels.

    Layer normalisation instead of batch normalisation, so that padding rows and frames without LiDAR do
    not affect the other pillars.
    """

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(inputs, 2 * channels),
            nn.LayerNorm(2 * channels),
            nn.ReLU(),
            nn.Linear(2 * channels, channels),
            nn.LayerNorm(channels),
            nn.ReLU(),
        )

    def forward(self, features: Tensor) -> Tensor:
        """(B, M, inputs) -> (B, M, C)."""
        return self.layers(features)


def scatter_to_canvas(pillars: Tensor, cells: Tensor, size: int) -> Tensor:
    """Write pillars (B, M, C) into their cells (B, M) int64 of a canvas (B, C, size, size).

    cells: row * size + column; size * size for padding rows.
    """
    batch, count, channels = pillars.shape
    # Index of the pillar in each cell, then one gather, because ONNX Runtime gathers faster than it
    # scatters. Empty cells get index `count`, a row of zeros.
    rows = torch.arange(count, device=cells.device).expand(batch, -1)
    index = cells.new_full((batch, size * size + 1), count).scatter(1, cells, rows)[:, :-1]
    index = index + (count + 1) * torch.arange(batch, device=cells.device)[:, None]
    padded = torch.cat([pillars, pillars.new_zeros(batch, 1, channels)], 1).flatten(0, 1)
    canvas = padded[index.flatten()].reshape(batch, size * size, channels)
    return canvas.transpose(1, 2).reshape(batch, channels, size, size)
