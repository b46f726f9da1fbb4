"""SSMA (self-supervised model adaptation; Valada et al., IJCV 2020): gated fusion of two streams."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Reduction of the gates' hidden channels (eta of the paper).
REDUCTION = 8


class GatedFusion(nn.Module):
    """Gates each channel and pixel of both streams, computed from both, and merges them."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        both, hidden = 2 * channels, max(2 * channels // REDUCTION, 8)
        self.gate = nn.Sequential(
            nn.Conv2d(both, hidden, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, both, 3, padding=1),
            nn.Sigmoid(),
        )
        self.out = nn.Sequential(
            nn.Conv2d(both, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)
        )

    def forward(self, features: tuple[Tensor, Tensor]) -> Tensor:
        """Two streams (B, C, H, W) -> one map (B, outputs, H, W)."""
        both = torch.cat(features, 1)
        out: Tensor = self.out(both * self.gate(both))
        return out
