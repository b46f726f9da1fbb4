"""Pillars to a bird's-eye-view canvas (Lang et al. 2019, section 2.1), of any number up to a fixed M."""

from __future__ import annotations

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
    batch, _, channels = pillars.shape
    canvas = pillars.new_zeros(batch, size * size + 1, channels)
    canvas = canvas.scatter(1, cells[..., None].expand(-1, -1, channels), pillars)
    return canvas[:, :-1].transpose(1, 2).reshape(batch, channels, size, size)
