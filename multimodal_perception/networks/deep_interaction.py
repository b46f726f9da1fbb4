"""Interaction between image and BEV features after DeepInteraction (Yang et al. 2022, section 3.1).

Both representations are kept. BEV to image: each cell of an image
feature map attends to the BEV cells along its ray, and to its neighbours in the image. Image to BEV: the
pillars sample the updated image features by Global Fusion. The paper projects the LiDAR points into the
image to find the BEV cells of a pixel. Sampling along the ray reads the same neighbourhood with static
shapes and without scattering points, which TensorRT's parser does not support.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RayAttention(nn.Module):
    """Image cells attend to the BEV cells along their rays: f(q) = softmax(q k / sqrt(d)) v (eq. 1).

    Samples outside the BEV grid and cells without a pillar are masked. A ray without any valid sample
    gives zeros.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = nn.Linear(channels, channels)
        self.key_value = nn.Conv2d(channels, 2 * channels, 1)

    def forward(self, image: Tensor, bev: Tensor, occupied: Tensor, rays: Tensor) -> Tensor:
        """Returns (B, Q, C).

        image (B, Q, C); bev (B, C, S, S); occupied (B, 1, S, S), 1 in cells with a pillar, else 0; rays
        (B, Q, D, 2), D positions along each ray, -1 to 1 from edge to edge of the BEV grid.
        """
        channels = image.shape[-1]
        maps = torch.cat([self.key_value(bev).float(), occupied.float()], 1)
        sampled = F.grid_sample(maps, rays, mode="nearest", align_corners=False)
        key, value, valid = sampled.split([channels, channels, 1], 1)  # (B, C or 1, Q, D)
        query = self.query(image).float().transpose(1, 2)[..., None]  # (B, C, Q, 1)
        scores = (query * key).sum(1) / channels**0.5 + (valid[:, 0] - 1.0) * 1e4  # (B, Q, D)
        weights = scores.softmax(-1) * valid[:, 0]
        return (value * weights[:, None]).sum(-1).transpose(1, 2)


class LocalAttention(nn.Module):
    """Image cells attend to their 3 x 3 neighbourhood (the intra-modal learning of eq. 2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query_key_value = nn.Conv2d(channels, 3 * channels, 1)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C, h, w)."""
        height, width = images.shape[-2:]
        query, key, value = self.query_key_value(images).float().chunk(3, 1)
        inside = torch.ones_like(query[:, :1])  # becomes 0 in the padding
        padded = F.pad(torch.cat([key, value, inside], 1), (1, 1, 1, 1))
        shifted = [padded[..., i : i + height, j : j + width] for i in range(3) for j in range(3)]
        neighbours = torch.stack(shifted, 1)  # (N, 9, 2 C + 1, h, w)
        channels = query.shape[1]
        key, value, inside = neighbours.split([channels, channels, 1], 2)
        scores = (query[:, None] * key).sum(2, keepdim=True) / channels**0.5
        return ((scores + (inside - 1.0) * 1e4).softmax(1) * value).sum(1)


class BevToImageAttention(nn.Module):
    """Updates image features: FFN(FFN(intra-modal, cross-modal), input), concatenated (eq. 3).

    The result is added to the input. The last layer is initialised to zero, so that a network trained
    without this module gives the same outputs when it is added.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.intra_modal = LocalAttention(channels)
        self.cross_modal = RayAttention(channels)
        self.inner = _feed_forward(2 * channels, channels)
        self.outer = _feed_forward(2 * channels, channels)
        nn.init.zeros_(self.outer[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.outer[-1].bias)  # type: ignore[arg-type]

    def forward(
        self, feature_map: Tensor, bev: Tensor, occupied: Tensor, rays: Tensor, images: int
    ) -> Tensor:
        """Returns the updated feature map (B, C, images * h, w).

        feature_map (B, C, images * h, w), images stacked vertically; bev, occupied: see RayAttention;
        rays (B, images * h * w, D, 2).
        """
        batch, channels, rows, width = feature_map.shape
        parts = feature_map.reshape(batch, channels, images, rows // images, width).transpose(1, 2)
        intra = self.intra_modal(parts.reshape(batch * images, channels, rows // images, width))
        intra = intra.reshape(batch, images, channels, -1).transpose(2, 3)
        intra = intra.reshape(batch, rows * width, channels)  # (B, Q, C), Q = images * h * w
        before = feature_map.flatten(2).transpose(1, 2)  # (B, Q, C)
        cross = self.cross_modal(before, bev, occupied, rays)  # (B, Q, C)
        inner = self.inner(torch.cat([intra, cross], -1).to(before.dtype))
        after = before + self.outer(torch.cat([inner, before], -1))
        return after.transpose(1, 2).reshape(batch, channels, rows, width)


def _feed_forward(inputs: int, channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, channels),
        nn.LayerNorm(channels),
        nn.ReLU(),
        nn.Linear(channels, channels),
    )
