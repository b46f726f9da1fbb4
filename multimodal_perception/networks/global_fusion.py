"""Global Fusion (LoGoNet, Li et al. 2023, section 3.2): pillars look at images at their centroids."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from multimodal_perception.networks.deformable import DeformableAttention


class GlobalFusion(nn.Module):
    """Every pillar that an image sees takes up what is seen at its points' mean; the rest stay.

    Eq. 2 and 3 of the paper, with layer instead of batch normalisation. What images add is scaled by
    channel, from zero on (Touvron et al. 2021, section 2): trained on LiDAR alone, it begins as it was.
    """

    def __init__(self, channels: int, image_channels: int, heads: int = 4, points: int = 4) -> None:
        super().__init__()
        self.query = nn.Sequential(nn.Linear(channels, channels), nn.LayerNorm(channels))
        self.attention = DeformableAttention(channels, image_channels, channels, heads, points)
        self.drop = nn.Dropout(0.1)
        self.norm = nn.LayerNorm(channels)
        self.own = nn.Sequential(nn.Linear(channels, channels), nn.LayerNorm(channels))
        self.merge = nn.Sequential(
            nn.ReLU(), nn.Linear(2 * channels, channels), nn.LayerNorm(channels), nn.ReLU()
        )
        self.scale = nn.Parameter(torch.zeros(channels))

    def forward(
        self, pillars: Tensor, atlas: Tensor, places: Tensor, seen: Tensor, images: int
    ) -> Tensor:
        """pillars (B, M, C), atlas (B, D, images * h, w), places (B, M, 2), seen (B, M) -> (B, M, C)."""
        query = self.query(pillars)
        attended = self.norm(query + self.drop(self.attention(query, atlas, places, images)))
        added = self.merge(torch.cat([self.own(pillars), attended], -1))
        return pillars + seen[..., None] * self.scale * added
