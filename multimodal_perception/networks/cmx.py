"""CMX (Zhang et al., T-ITS 2023): cross-modal rectification and fusion of two streams, with masks.

Each stream has a mask of valid pixels: a missing sensor is masked everywhere, a thermal camera with a
smaller field of view is masked outside it. Masked features are replaced by a learned token and excluded
from pooling, attention and rectification, so that their values have no effect. Without masked pixels the
equations are those of the paper, with one difference: the attention context is a mean over the pixels
instead of a sum, so that it depends neither on the image size nor on the mask.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Hidden width of CM-FRM's channel MLP is 4C / REDUCTION.
REDUCTION = 4
# Weight of the channel-wise and of the spatial rectification (lambda_C and lambda_S of the paper).
RECTIFICATION_WEIGHT = 0.5

Pair = tuple[Tensor, Tensor]


class MaskToken(nn.Module):
    """Replaces masked features by a learned vector."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (B, C, H, W) where mask (B, 1, H, W) is above 0.5, the token elsewhere."""
        return torch.where(mask > 0.5, x, self.token.to(x.dtype))


class FeatureRectification(nn.Module):
    """CM-FRM: each stream is rectified by the other, weighted per channel and per pixel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        c = channels
        self.pooled_tokens = nn.Parameter(torch.zeros(2, 2 * c))
        self.channel = nn.Sequential(
            nn.Linear(4 * c, 4 * c // REDUCTION),
            nn.ReLU(inplace=True),
            nn.Linear(4 * c // REDUCTION, 2 * c),
        )
        self.spatial = nn.Sequential(
            nn.Conv2d(2 * c, c, 1), nn.ReLU(inplace=True), nn.Conv2d(c, 2, 1)
        )

    def forward(self, features: Pair, masks: Pair) -> Pair:
        """Rectify two streams (B, C, H, W) with masks (B, 1, H, W); same shapes."""
        a, b = features
        pooled = [  # (B, 2C) each
            self._pool(f, m, t) for f, m, t in zip(features, masks, self.pooled_tokens, strict=True)
        ]
        channel_a, channel_b = (
            self.channel(torch.cat(pooled, 1)).sigmoid()[..., None, None].chunk(2, 1)
        )  # (B, C, 1, 1) each
        # (B, 1, H, W) each
        spatial_a, spatial_b = self.spatial(torch.cat([a, b], 1)).sigmoid().chunk(2, 1)
        mask_a, mask_b = (m.to(a.dtype) for m in masks)
        return (
            a + RECTIFICATION_WEIGHT * mask_b * (channel_b * b + spatial_b * b),
            b + RECTIFICATION_WEIGHT * mask_a * (channel_a * a + spatial_a * a),
        )

    @staticmethod
    def _pool(x: Tensor, mask: Tensor, token: Tensor) -> Tensor:
        """Mean and maximum (B, 2C) over the unmasked pixels; the token if all are masked."""
        mask = mask.to(x.dtype)
        count = mask.sum(dim=(2, 3))
        average = (x * mask).sum(dim=(2, 3)) / count.clamp_min(1.0)
        # Features are much smaller than 1e4, which half precision can represent.
        maximum = (x * mask - 1e4 * (1.0 - mask)).amax(dim=(2, 3))
        return torch.where(count > 0, torch.cat([average, maximum], 1), token.to(x.dtype))


class FeatureFusion(nn.Module):
    """FFM: the streams exchange global context by cross-attention, then are merged into one map.

    heads: number of attention heads; a divisor of channels.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        c = channels
        self.heads = heads
        self.split = nn.ModuleList(nn.Linear(c, 2 * c) for _ in range(2))
        self.key_value = nn.ModuleList(nn.Linear(c, 2 * c, bias=False) for _ in range(2))
        self.join = nn.ModuleList(nn.Linear(2 * c, c) for _ in range(2))
        self.norm = nn.ModuleList(nn.LayerNorm(c) for _ in range(2))
        self.residual = nn.Conv2d(2 * c, c, 1, bias=False)
        self.embed = nn.Sequential(
            nn.Conv2d(2 * c, c, 1),
            nn.Conv2d(c, c, 3, padding=1, groups=c),
            nn.ReLU(inplace=True),
            nn.Conv2d(c, c, 1),
            nn.BatchNorm2d(c),
        )
        self.out = nn.BatchNorm2d(c)

    def forward(self, features: Pair, masks: Pair) -> Tensor:
        """Fuse two streams (B, C, H, W) with masks (B, 1, H, W) into one map (B, C, H, W)."""
        size = features[0].shape[-2:]
        tokens = [f.flatten(2).transpose(1, 2) for f in features]  # (B, N, C), N = H * W
        residuals, queries, contexts = [], [], []
        for i, x in enumerate(tokens):
            y, u = self.split[i](x).relu().chunk(2, -1)  # (B, N, C) each
            residuals.append(y)
            queries.append(self._split_heads(u))
            contexts.append(self._context(u, masks[i].flatten(2).transpose(1, 2), i))
        fused = []
        for i, x in enumerate(tokens):
            v = queries[i] @ contexts[1 - i]  # (B, heads, N, d): the other stream's context
            v = v.transpose(1, 2).flatten(2)
            x = self.norm[i](x + self.join[i](torch.cat([residuals[i], v], -1)))
            fused.append(x.transpose(1, 2).unflatten(2, size))
        both = torch.cat(fused, 1)
        out: Tensor = self.out(self.residual(both) + self.embed(both))
        return out

    def _split_heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, N, d)

    def _context(self, u: Tensor, mask: Tensor, stream: int) -> Tensor:
        """Context softmax(K^T V / sqrt(d)) (B, heads, d, d) over the keys, of the unmasked pixels."""
        mask = mask.to(u.dtype)
        weight = mask / mask.sum(dim=1, keepdim=True).clamp_min(1.0)
        k, v = (self._split_heads(t) for t in self.key_value[stream](u).chunk(2, -1))
        weighted = k * weight[:, None]
        d = k.shape[-1]
        return (weighted.transpose(-1, -2) @ v * (d**-0.5)).softmax(dim=-2)
