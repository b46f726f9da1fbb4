"""Feature Dynamic Aggregation of RoI grid points (LoGoNet, Li et al. 2023, section 3.4)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from multimodal_perception.detection.bev_fusion.roi_features import GRID

GRID_POINTS = GRID**3
# Features of a RoI grid point: its position in the box (3), log10(n + 0.5) of the n points in its cell,
# and their mean position in the box (3); see compute_roi_features.
GRID_POINT_FEATURES = 7


class DynamicAggregation(nn.Module):
    """Self-attention over the RoI grid of globally and locally fused features (eq. 6 to 8).

    Grid points without points or image features are masked. The output norm is initialised to zero, so
    that a network trained without this module gives the same outputs when it is added.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.position = nn.Sequential(
            nn.Linear(4, channels // 2), nn.ReLU(), nn.Linear(channels // 2, channels)
        )
        self.query_key_value = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        self.norms = nn.ModuleList([nn.LayerNorm(channels) for _ in range(2)])
        self.feed_forward = nn.Sequential(
            nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, channels)
        )
        nn.init.zeros_(self.norms[1].weight)  # type: ignore[arg-type]

    def forward(self, tokens: Tensor, grid: Tensor, valid_mask: Tensor) -> Tensor:
        """Attend within each proposal.

        tokens (R, 216, C), grid (R, 216, 7), valid_mask (R, 216), 1 for grid points with points or image
        features, else 0 -> (R, 216, C).
        """
        x = tokens + self.position(grid[..., :4])
        # The weights are one layer, but three products: splitting its output would copy it.
        layer, count = self.query_key_value, tokens.shape[-1]
        query, key, value = (
            F.linear(x, layer.weight[k : k + count], layer.bias[k : k + count])
            for k in range(0, 3 * count, count)
        )  # (R, 216, C) each
        scores = query @ key.transpose(1, 2) / query.shape[-1] ** 0.5  # (R, 216, 216)
        scores = scores + (valid_mask[:, None] - 1.0) * 1e4
        x = self.norms[0](x + self.out(scores.softmax(-1) @ value))
        return tokens + self.norms[1](x + self.feed_forward(x))
