"""DeepInteraction's exchange between image and BEV streams (Yang et al. 2022, section 3.1).

Both streams are kept, and each takes up the other. BEV to image: every cell of an image attends to the
BEV cells that lie along its ray, and to its neighbours in the image. Image to BEV: the pillars look
into the images so enriched, as Global Fusion does. The paper looks for the LiDAR's points in each
pixel; along the ray the same neighbours are read by sampling alone, of static shapes and without
collecting points by scattering, which TensorRT's parser refuses.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RayAttention(nn.Module):
    """Cells of images attend to BEV cells along their rays: f(q) = softmax(q k / sqrt(d)) v (eq. 1).

    Places off the canvas, and cells without a pillar, are not looked at; a ray without any gives zeros.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = nn.Linear(channels, channels)
        self.key_value = nn.Conv2d(channels, 2 * channels, 1)

    def forward(self, image: Tensor, canvas: Tensor, filled: Tensor, rays: Tensor) -> Tensor:
        """image (B, Q, C); canvas (B, C, S, S) with filled (B, 1, S, S), 1 where a pillar is; rays
        (B, Q, D, 2), -1 to 1 from edge to edge of the canvas -> (B, Q, C)."""
        channels = image.shape[-1]
        maps = torch.cat([self.key_value(canvas).float(), filled.float()], 1)
        seen = F.grid_sample(maps, rays, mode="nearest", align_corners=False)
        key, value, there = seen.split([channels, channels, 1], 1)  # (B, C, Q, D)
        query = self.query(image).float().transpose(1, 2)[..., None]
        scores = (query * key).sum(1) / channels**0.5 + (there[:, 0] - 1.0) * 1e4
        weights = scores.softmax(-1) * there[:, 0]
        return (value * weights[:, None]).sum(-1).transpose(1, 2)


class LocalAttention(nn.Module):
    """Cells of images attend to the 3 x 3 about them (the intra-modal learning of eq. 2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query_key_value = nn.Conv2d(channels, 3 * channels, 1)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C, h, w)."""
        height, width = images.shape[-2:]
        query, key, value = self.query_key_value(images).float().chunk(3, 1)
        inside = torch.ones_like(query[:, :1])
        stack = F.pad(torch.cat([key, value, inside], 1), (1, 1, 1, 1))
        about = [stack[..., i : i + height, j : j + width] for i in range(3) for j in range(3)]
        near = torch.stack(about, 1)  # (N, 9, 2 C + 1, h, w)
        channels = query.shape[1]
        key, value, inside = near.split([channels, channels, 1], 2)
        scores = (query[:, None] * key).sum(2, keepdim=True) / channels**0.5
        return ((scores + (inside - 1.0) * 1e4).softmax(1) * value).sum(1)


class ImageExchange(nn.Module):
    """The image stream after one exchange: FFN(FFN(own, other), before), concatenated (eq. 3).

    The whole is added to what came in, and begins at nothing: a network that was trained without the
    exchange goes on from where it was.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.own = LocalAttention(channels)
        self.other = RayAttention(channels)
        self.inner = _feed_forward(2 * channels, channels)
        self.outer = _feed_forward(2 * channels, channels)
        nn.init.zeros_(self.outer[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.outer[-1].bias)  # type: ignore[arg-type]

    def forward(
        self, atlas: Tensor, canvas: Tensor, filled: Tensor, rays: Tensor, images: int
    ) -> Tensor:
        """atlas (B, C, images * h, w), rays (B, images * h * w, D, 2) -> (B, C, images * h, w)."""
        batch, channels, rows, width = atlas.shape
        parts = atlas.reshape(batch, channels, images, rows // images, width).transpose(1, 2)
        own = self.own(parts.reshape(batch * images, channels, rows // images, width))
        own = own.reshape(batch, images, channels, -1).transpose(2, 3)
        own = own.reshape(batch, rows * width, channels)
        before = atlas.flatten(2).transpose(1, 2)  # (B, Q, C), image after image, row after row
        other = self.other(before, canvas, filled, rays)
        inner = self.inner(torch.cat([own, other], -1).to(before.dtype))
        after = before + self.outer(torch.cat([inner, before], -1))
        return after.transpose(1, 2).reshape(batch, channels, rows, width)


def _feed_forward(inputs: int, channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, channels),
        nn.LayerNorm(channels),
        nn.ReLU(),
        nn.Linear(channels, channels),
    )
