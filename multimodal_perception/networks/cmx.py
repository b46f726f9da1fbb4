"""CMX (Zhang et al., T-ITS 2023): rectification and fusion of two streams, with masks.

Each stream has a mask of where it says anything: a missing sensor is masked everywhere, a thermal
camera with a smaller field of view outside it. What is masked is replaced by a learnt token and counts
in no pooling, no attention and no rectification, so the values there never matter. With everything
unmasked the equations are the paper's, but for one thing: the attention's context is a mean over the
pixels where the paper sums, so that it depends neither on the image's size nor on the masks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Hidden width of CM-FRM's channel MLP is 4C / REDUCTION.
REDUCTION = 4
# What each part of the rectification adds (lambda_C and lambda_S of the paper).
SHARE = 0.5

Pair = tuple[Tensor, Tensor]


class MaskToken(nn.Module):
    """Replaces what is masked by a learnt vector."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (B, C, H, W) where mask (B, 1, H, W) is above a half, the token elsewhere."""
        return torch.where(mask > 0.5, x, self.token.to(x.dtype))


class FeatureRectification(nn.Module):
    """CM-FRM: each stream is corrected by what the other one weighs as reliable."""

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
        """Two streams (B, C, H, W) with masks (B, 1, H, W), rectified."""
        a, b = features
        pooled = [
            self._pool(f, m, t) for f, m, t in zip(features, masks, self.pooled_tokens, strict=True)
        ]
        channel_a, channel_b = (
            self.channel(torch.cat(pooled, 1)).sigmoid()[..., None, None].chunk(2, 1)
        )
        spatial_a, spatial_b = self.spatial(torch.cat([a, b], 1)).sigmoid().chunk(2, 1)
        mask_a, mask_b = (m.to(a.dtype) for m in masks)
        return (
            a + SHARE * mask_b * (channel_b * b + spatial_b * b),
            b + SHARE * mask_a * (channel_a * a + spatial_a * a),
        )

    @staticmethod
    def _pool(x: Tensor, mask: Tensor, token: Tensor) -> Tensor:
        """Average and maximum (B, 2C) of what is not masked; the token where all is."""
        mask = mask.to(x.dtype)
        count = mask.sum(dim=(2, 3))
        average = (x * mask).sum(dim=(2, 3)) / count.clamp_min(1.0)
        # Features are finite and far smaller than this in half precision too.
        largest = (x * mask - 1e4 * (1.0 - mask)).amax(dim=(2, 3))
        return torch.where(count > 0, torch.cat([average, largest], 1), token.to(x.dtype))


class FeatureFusion(nn.Module):
    """FFM: the streams exchange global contexts by cross-attention, then become one map.

    heads: of the attention; they divide the channels.
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
        """Two streams (B, C, H, W) with masks (B, 1, H, W) to one map (B, C, H, W)."""
        size = features[0].shape[-2:]
        tokens = [f.flatten(2).transpose(1, 2) for f in features]  # (B, N, C)
        rest, queries, contexts = [], [], []
        for i, x in enumerate(tokens):
            y, u = self.split[i](x).relu().chunk(2, -1)
            rest.append(y)
            queries.append(self._by_head(u))
            contexts.append(self._context(u, masks[i].flatten(2).transpose(1, 2), i))
        fused = []
        for i, x in enumerate(tokens):
            v = queries[i] @ contexts[1 - i]  # (B, heads, N, d): the other stream's context
            v = v.transpose(1, 2).flatten(2)
            x = self.norm[i](x + self.join[i](torch.cat([rest[i], v], -1)))
            fused.append(x.transpose(1, 2).unflatten(2, size))
        both = torch.cat(fused, 1)
        out: Tensor = self.out(self.residual(both) + self.embed(both))
        return out

    def _by_head(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, N, d)

    def _context(self, u: Tensor, mask: Tensor, stream: int) -> Tensor:
        """softmax over the keys of (K^T V / sqrt(d)) (B, heads, d, d), of unmasked pixels alone."""
        mask = mask.to(u.dtype)
        share = mask / mask.sum(dim=1, keepdim=True).clamp_min(1.0)
        k, v = (self._by_head(t) for t in self.key_value[stream](u).chunk(2, -1))
        weighted = k * share[:, None]
        d = k.shape[-1]
        return (weighted.transpose(-1, -2) @ v * (d**-0.5)).softmax(dim=-2)
