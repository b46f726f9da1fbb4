"""Global Fusion (LoGoNet, Li et al. 2023, section 3.2): pillars sample image features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from multimodal_perception.networks.deformable import DeformableAttention


class GlobalFusion(nn.Module):
    """Adds image features to the pillars, sampled around the projected mean of each pillar's points.

    Eq. 2 and 3 of the paper, with layer instead of batch normalisation. Pillars that no image shows stay
    unchanged. The added features are scaled per channel, with scales initialised to zero (Touvron et al.
    2021, section 2), so that a network trained on LiDAR only gives the same outputs at first.
    """

    def __init__(self, channels: int, image_channels: int, heads: int = 4, points: int = 4) -> None:
        super().__init__()
        self.query = nn.Sequential(nn.Linear(channels, channels), nn.LayerNorm(channels))
        self.attention = DeformableAttention(channels, image_channels, channels, heads, points)
        self.drop = nn.Dropout(0.1)
        self.norm = nn.LayerNorm(channels)
        self.pillar_projection = nn.Sequential(
            nn.Linear(channels, channels), nn.LayerNorm(channels)
        )
        self.merge = nn.Sequential(
            nn.ReLU(), nn.Linear(2 * channels, channels), nn.LayerNorm(channels), nn.ReLU()
        )
        self.scale = nn.Parameter(torch.zeros(channels))

    def forward(
        self, pillars: Tensor, feature_map: Tensor, sample_uv: Tensor, valid: Tensor, images: int
    ) -> Tensor:
        """Add image features to the pillar features; returns (B, M, C).

        pillars (B, M, C); feature_map (B, D, images * h, w), images stacked vertically; sample_uv
        (B, M, 2), -1 to 1 in the stacked map; valid (B, M), 1 if an image shows the pillar, else 0.
        """
        query = self.query(pillars)
        sampled = self.attention(query, feature_map, sample_uv, images)  # (B, M, C)
        attended = self.norm(query + self.drop(sampled))
        added = self.merge(torch.cat([self.pillar_projection(pillars), attended], -1))
        return pillars + valid[..., None] * self.scale * added
