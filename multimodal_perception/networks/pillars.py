"""Pillars to a bird's-eye-view canvas (Lang et al. 2019, section 2.1), of any number up to a fixed M."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PillarEncoder(nn.Module):
    """Moments and histogram of each pillar to C channels.

    Normalised by layer, not by batch: rows that only fill up, and frames without LiDAR, then change
    nothing for the others.
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
    """Pillars (B, M, C) to their cells (B, M) int64 of a canvas (B, C, size, size).

    cells: row * size + column; size * size for rows that only fill up.
    """
    batch, count, channels = pillars.shape
    # Which pillar each cell has, the last one for none: ONNX Runtime gathers rows faster than it
    # scatters them.
    rows = torch.arange(count, device=cells.device).expand(batch, -1)
    index = cells.new_full((batch, size * size + 1), count).scatter(1, cells, rows)[:, :-1]
    index = index + (count + 1) * torch.arange(batch, device=cells.device)[:, None]
    rows_of = torch.cat([pillars, pillars.new_zeros(batch, 1, channels)], 1).flatten(0, 1)
    canvas = rows_of[index.flatten()].reshape(batch, size * size, channels)
    return canvas.transpose(1, 2).reshape(batch, channels, size, size)
