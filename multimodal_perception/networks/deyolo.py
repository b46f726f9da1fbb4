"""DEYOLO's dual enhancement (Chen et al., ICPR 2024), from the paper: DECA, DEPA and its focus.

Two streams enhance each other by what each finds important: DECA by channel, DEPA by pixel. Both
weigh a stream with the other stream's weight, so what is seen in one image alone is raised in the
other one's features too. Masks are as in networks/cmx.py: features where a sensor says nothing hold a
learnt token, and count in no mean.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

# The bottleneck of the channels' MLP (r of the paper).
REDUCTION = 16

Pair = tuple[Tensor, Tensor]


class ChannelEnhancement(nn.Module):
    """DECA: the weight of a channel in one stream is what the other stream and both say of it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        c = channels
        self.absent = nn.Parameter(torch.zeros(2, c))
        self.own = nn.Sequential(
            nn.Linear(c, max(c // REDUCTION, 4)),
            nn.ReLU(inplace=True),
            nn.Linear(max(c // REDUCTION, 4), c),
            nn.Sigmoid(),
        )
        # The mixture of both is filtered, then made small by strided depthwise convolutions.
        self.mixed = nn.Sequential(
            nn.Conv2d(2 * c, c, 1, bias=False),
            nn.BatchNorm2d(c),
            nn.ReLU(inplace=True),
            nn.Conv2d(c, c, 3, 2, 1, groups=c, bias=False),
            nn.BatchNorm2d(c),
            nn.ReLU(inplace=True),
            nn.Conv2d(c, c, 3, 2, 1, groups=c),
        )

    def forward(self, features: Pair, masks: Pair) -> Pair:
        """Two streams (B, C, H, W) with masks (B, 1, H, W), each weighted by the other's channels."""
        a, b = features
        mixed = self.mixed(torch.cat([a, b], 1)).mean(dim=(2, 3))  # (B, C)
        weights = [
            (self.own(_mean(f, m, t)) * mixed).sigmoid()[..., None, None]
            for f, m, t in zip(features, masks, self.absent, strict=True)
        ]
        return a * weights[1], b * weights[0]


class PixelEnhancement(nn.Module):
    """DEPA: the same by pixel; what one stream and both say of a place weighs the other stream."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        c = channels
        self.near = nn.ModuleList(nn.Conv2d(c, 1, 3, padding=1) for _ in range(2))
        self.far = nn.ModuleList(nn.Conv2d(c, 1, 7, padding=3) for _ in range(2))
        self.own = nn.ModuleList(nn.Conv2d(2, 1, 5, padding=2) for _ in range(2))
        self.mixed = nn.ModuleList(nn.Conv2d(c, 1, 3, padding=1) for _ in range(2))

    def forward(self, features: Pair) -> Pair:
        """Two streams (B, C, H, W), each weighted by the other's pixels."""
        a, b = features
        mixed = (self.mixed[0](a) + self.mixed[1](b)).sigmoid()  # (B, 1, H, W)
        weights = []
        for i, x in enumerate(features):
            own = self.own[i](torch.cat([self.near[i](x), self.far[i](x)], 1))
            weights.append((mixed + own).sigmoid())
        return a * weights[1], b * weights[0]


class BidirectionalFocus(nn.Module):
    """Bi-directional decoupled focus: sees twice as far along rows and along columns, losing no pixel.

    Neighbours are parted into two groups, once along the rows and once along the columns; each pair of
    groups is filtered at half the size, put back in its places and added. The paper draws this and
    gives no equation: that the groups are filtered depthwise and mixed pointwise is this module's own.
    It starts as the identity.
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
        """x (B, C, H, W) of even H and W, the same shape back."""
        c = x.shape[1]
        rows = self.along_rows(torch.cat([x[..., 0::2], x[..., 1::2]], 1))  # (B, 2C, H, W/2)
        rows = torch.stack([rows[:, :c], rows[:, c:]], -1).flatten(-2)
        columns = self.along_columns(torch.cat([x[..., 0::2, :], x[..., 1::2, :]], 1))
        columns = torch.stack([columns[:, :c], columns[:, c:]], -2).flatten(-3, -2)
        out: Tensor = x + self.mix(torch.cat([rows, columns], 1))
        return out


def _mean(x: Tensor, mask: Tensor, absent: Tensor) -> Tensor:
    """The mean (B, C) of x (B, C, H, W) where it is not masked; `absent` (C,) where all is."""
    mask = mask.to(x.dtype)
    count = mask.sum(dim=(2, 3))
    mean = (x * mask).sum(dim=(2, 3)) / count.clamp_min(1.0)
    return torch.where(count > 0, mean, absent.to(x.dtype))
