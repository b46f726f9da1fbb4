"""Local Fusion and Feature Dynamic Aggregation (LoGoNet, Li et al. 2023, sections 3.3 and 3.4)."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from multimodal_perception.networks.deformable import DeformableAttention
from multimodal_perception.networks.dynamic_aggregation import (
    GRID_POINT_FEATURES,
)


class RoiImages(NamedTuple):
    """Images of one modality with the projections of the RoI grid points into them.

    feature_map: (B, D, N * h, w), the features of the N images stacked vertically. sample_uv:
    (B, ..., 2), x and y of each grid point in the stacked map, -1 to 1. valid: (B, ...), 1 if an image
    shows the point, else 0. images: N.
    """

    feature_map: Tensor
    sample_uv: Tensor
    valid: Tensor
    images: int


class LocalFusion(nn.Module):
    """Point and image features of each RoI grid point.

    Position-decorated point features (eq. 4), then image features by deformable attention at the
    projected grid point, as in Global Fusion.
    """

    def __init__(self, channels: int, image_channels: int, samples: int = 4) -> None:
        super().__init__()
        self.position = nn.Sequential(
            nn.Linear(GRID_POINT_FEATURES, 32), nn.LayerNorm(32), nn.ReLU(), nn.Linear(32, channels)
        )
        sizes = channels, image_channels, channels
        self.camera = DeformableAttention(*sizes, points=samples)
        self.thermal = DeformableAttention(*sizes, points=samples)
        self.norm = nn.ModuleList([nn.LayerNorm(channels) for _ in range(2)])
        self.out = nn.Sequential(nn.Linear(channels, channels), nn.ReLU())

    def forward(self, grid: Tensor, camera: RoiImages, thermal: RoiImages) -> Tensor:
        """grid (B, R * 216, 7) -> (B, R * 216, C). camera, thermal: with R * 216 grid points each."""
        local = self.position(grid)  # (B, R * 216, C)
        for attention, norm, rois in zip(
            (self.camera, self.thermal), self.norm, (camera, thermal), strict=True
        ):
            fused = norm(local + attention(local, rois.feature_map, rois.sample_uv, rois.images))
            # Grid points that no image shows keep their features.
            local = local + rois.valid[..., None] * (fused - local)
        return self.out(local)
