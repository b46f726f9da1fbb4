"""DEYOLO's dual enhancement (Chen et al., ICPR 2024): DECA, DEPA and bi-directional decoupled focus.

Two streams enhance each other: DECA weights channels, DEPA weights pixels. Each stream is multiplied by
weights computed from the other stream, so that an object that is visible in only one image is enhanced
in both streams. Masks are as in networks/cmx.py: masked features hold a learned token and are excluded
from means.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Reduction of the channel MLP's hidden layer (r of the paper).
REDUCTION = 16

Pair = tuple[Tensor, Tensor]


class ChannelEnhancement(nn.Module):
    """DECA: channel weights from the other stream and from the mixture of both."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        c = channels
        self.missing_token = nn.Parameter(torch.zeros(2, c))  # mean features of a missing stream
        self.channel_mlp = nn.Sequential(
            nn.Linear(c, max(c // REDUCTION, 4)),
            nn.ReLU(inplace=True),
            nn.Linear(max(c // REDUCTION, 4), c),
            nn.Sigmoid(),
        )
        # Pointwise mixture of both streams, then downsampling by strided depthwise convolutions.
        self.mixture = nn.Sequential(
            nn.Conv2d(2 * c, c, 1, bias=False),
            nn.BatchNorm2d(c),
            nn.ReLU(inplace=True),
            nn.Conv2d(c, c, 3, 2, 1, groups=c, bias=False),
            nn.BatchNorm2d(c),
            nn.ReLU(inplace=True),
            nn.Conv2d(c, c, 3, 2, 1, groups=c),
        )

    def forward(self, features: Pair, masks: Pair) -> Pair:
        """Weight two streams (B, C, H, W) with masks (B, 1, H, W) per channel; same shapes."""
        a, b = features
        mixture = self.mixture(torch.cat([a, b], 1)).mean(dim=(2, 3))  # (B, C)
        weights = [  # (B, C, 1, 1) each
            (self.channel_mlp(_masked_mean(f, m, t)) * mixture).sigmoid()[..., None, None]
            for f, m, t in zip(features, masks, self.missing_token, strict=True)
        ]
        return a * weights[1], b * weights[0]


class PixelEnhancement(nn.Module):
    """DEPA: pixel weights from the other stream and from the mixture of both."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        c = channels
        self.small_kernel = nn.ModuleList(nn.Conv2d(c, 1, 3, padding=1) for _ in range(2))
        self.large_kernel = nn.ModuleList(nn.Conv2d(c, 1, 7, padding=3) for _ in range(2))
        self.combine = nn.ModuleList(nn.Conv2d(2, 1, 5, padding=2) for _ in range(2))
        self.mixture = nn.ModuleList(nn.Conv2d(c, 1, 3, padding=1) for _ in range(2))

    def forward(self, features: Pair) -> Pair:
        """Weight two streams (B, C, H, W) per pixel; same shapes."""
        a, b = features
        mixture = (self.mixture[0](a) + self.mixture[1](b)).sigmoid()  # (B, 1, H, W)
        weights = []  # (B, 1, H, W) each
        for i, x in enumerate(features):
            own = self.combine[i](torch.cat([self.small_kernel[i](x), self.large_kernel[i](x)], 1))
            weights.append((mixture + own).sigmoid())
        return a * weights[1], b * weights[0]


class BidirectionalFocus(nn.Module):
    """Bi-directional decoupled focus: doubles the receptive field along rows and columns without loss.

    Pixels are split into even and odd columns, and likewise into even and odd rows. Each pair of groups
    is convolved at half the size and interleaved again; both results are mixed and added to the input.
    The paper has a figure and no equation; the depthwise convolutions and the pointwise mixture are a
    choice of this implementation. It is initialised as the identity.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        c = channels
        self.along_rows = nn.Conv2d(2 * c, 2 * c, 3, padding=1, groups=2 * c, bias=False)
        self.along_columns = nn.Conv2d(2 * c, 2 * c, 3, padding=1, groups=2 * c, bias=False)
        self.mix = nn.Sequential(
            nn.BatchNorm2d(2 * c),
            nn.ReLU(inplace=True),
            nn.Conv2d(2 * c, c, 1, bias=False),
            nn.BatchNorm2d(c),
        )
        nn.init.zeros_(self.mix[-1].weight)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) with even H and W -> the same shape."""
        c = x.shape[1]
        rows = self.along_rows(torch.cat([x[..., 0::2], x[..., 1::2]], 1))  # (B, 2C, H, W/2)
        rows = torch.stack([rows[:, :c], rows[:, c:]], -1).flatten(-2)
        columns = self.along_columns(torch.cat([x[..., 0::2, :], x[..., 1::2, :]], 1))
        columns = torch.stack([columns[:, :c], columns[:, c:]], -2).flatten(-3, -2)
        out: Tensor = x + self.mix(torch.cat([rows, columns], 1))
        return out


def _masked_mean(x: Tensor, mask: Tensor, missing_token: Tensor) -> Tensor:
    """Mean (B, C) of x (B, C, H, W) over the unmasked pixels; missing_token (C,) if all are masked."""
    mask = mask.to(x.dtype)
    count = mask.sum(dim=(2, 3))
    mean = (x * mask).sum(dim=(2, 3)) / count.clamp_min(1.0)
    return torch.where(count > 0, mean, missing_token.to(x.dtype))
