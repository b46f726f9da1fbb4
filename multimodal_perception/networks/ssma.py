"""SSMA (Valada et al., IJCV 2020): gated fusion of two streams, self-supervised model adaptation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# The bottleneck of the gates (eta of the paper).
BOTTLENECK = 8


class GatedFusion(nn.Module):
    """Both streams together decide a gate of each channel and pixel, then become one map."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        both, narrow = 2 * channels, max(2 * channels // BOTTLENECK, 8)
        self.gate = nn.Sequential(
            nn.Conv2d(both, narrow, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(narrow, both, 3, padding=1),
            nn.Sigmoid(),
        )
        self.out = nn.Sequential(
            nn.Conv2d(both, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)
        )

    def forward(self, features: tuple[Tensor, Tensor]) -> Tensor:
        """Two streams (B, C, H, W) to one map (B, outputs, H, W)."""
        both = torch.cat(features, 1)
        out: Tensor = self.out(both * self.gate(both))
        return out
