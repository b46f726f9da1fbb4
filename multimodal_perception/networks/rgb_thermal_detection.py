"""Boxes in a visible image, a thermal image that is warped onto it, or either alone.

Two EfficientNet-Lite0 streams; at strides 8, 16 and 32 each enhances the other (networks/deyolo.py;
its focus on the finest), both become one map, a small feature pyramid carries them down and up again
(Lin et al. 2017; Liu et al. 2018), and an anchor-free head says at every cell what is there and
where. As in YOLOX (Ge et al. 2021) a box is an offset of its middle from the cell and a size by the
stride; as in Generalised Focal Loss (Li et al. 2020) the score of a class is the overlap that the
box will have.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from multimodal_perception.networks.cmx import MaskToken
from multimodal_perception.networks.deyolo import (
    BidirectionalFocus,
    ChannelEnhancement,
    PixelEnhancement,
)
from multimodal_perception.networks.efficientnet_lite import EfficientNetLite0, load_imagenet

CLASSES = ("vehicle", "person", "cyclist")
# Of the maps that are fused, and the backbone's channels there.
STRIDES = (8, 16, 32)
CHANNELS = (40, 112, 320)
WIDTH = 64  # of the pyramid and the head
# A box is this many strides large where the head says 0.
BASE = 4.0
# Sizes beyond e to this power of the base are not believed.
LARGEST = 4.0
PRIOR = 0.01  # score of every class before anything is learnt


class RgbirDetection(nn.Module):
    """Scores and boxes of every cell from a visible image, a thermal one and their masks."""

    def __init__(self, classes: int = len(CLASSES), pretrained: bool = False) -> None:
        super().__init__()
        self.streams = nn.ModuleList(_backbone(i, pretrained) for i in range(2))
        self.focus = nn.ModuleList(BidirectionalFocus(CHANNELS[0]) for _ in range(2))
        self.tokens = nn.ModuleList(nn.ModuleList(MaskToken(c) for _ in range(2)) for c in CHANNELS)
        self.channel = nn.ModuleList(ChannelEnhancement(c) for c in CHANNELS)
        self.pixel = nn.ModuleList(PixelEnhancement(c) for c in CHANNELS)
        self.join = nn.ModuleList(_conv(2 * c, WIDTH) for c in CHANNELS)
        self.pyramid = Pyramid()
        self.head = Head(classes)

    def train(self, mode: bool = True) -> RgbirDetection:
        """As of every module, but the backbones' statistics stay: masked images would spoil them."""
        super().train(mode)
        self.streams.eval()
        return self

    def forward(
        self, visible: Tensor, other: Tensor, visible_mask: Tensor, other_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Scores (B, A, classes) and boxes (B, A, 4), x1 y1 x2 y2 in pixels of the input.

        Inputs are those of RgbxSegmentation, sides multiples of 32. A cells: those of stride 8 by row,
        then of 16 and 32.
        """
        logits, boxes = self.raw(visible, other, visible_mask, other_mask)
        return logits.sigmoid(), boxes

    def raw(
        self, visible: Tensor, other: Tensor, visible_mask: Tensor, other_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The same with logits in the place of scores."""
        images = (
            torch.where(visible_mask > 0.5, visible, 0.0),
            torch.where(other_mask > 0.5, 2.0 * other - 1.0, 0.0),
        )
        features = [self.features(i, image) for i, image in enumerate(images)]
        return self.found(features, [visible_mask, other_mask])

    def features(self, stream: int, image: Tensor) -> list[Tensor]:
        """What a backbone makes of its images (B, 3 or 1, H, W) in -1 to 1: maps at STRIDES."""
        maps: list[Tensor] = self.streams[stream](image)
        return maps[1:]

    def found(self, features: list[list[Tensor]], masks: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Logits and boxes from both backbones' features and the images' masks (B, 1, H, W)."""
        maps = []
        for level, stride in enumerate(STRIDES):
            x = [f[level] for f in features]
            if level == 0:
                x = [focus(f) for focus, f in zip(self.focus, x, strict=True)]
            small = [(F.avg_pool2d(m, stride) > 0.5).to(x[0].dtype) for m in masks]
            tokens: Any = self.tokens[level]
            a, b = (t(f, m) for t, f, m in zip(tokens, x, small, strict=True))
            a, b = self.channel[level]((a, b), (small[0], small[1]))
            a, b = self.pixel[level]((a, b))
            maps.append(self.join[level](torch.cat([a, b], 1)))  # (B, WIDTH, H / s, W / s)
        found: tuple[Tensor, Tensor] = self.head(self.pyramid(maps))
        return found


class Pyramid(nn.Module):
    """Maps of three strides mixed from the coarsest down and up again."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList(_separable(WIDTH) for _ in range(2))
        self.shrink = nn.ModuleList(_separable(WIDTH, 2) for _ in range(2))
        self.up = nn.ModuleList(_separable(WIDTH) for _ in range(2))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Maps (B, WIDTH, h, w) from fine to coarse, the same shapes back."""
        fine, middle, coarse = maps
        middle = self.down[0](middle + F.interpolate(coarse, middle.shape[-2:]))
        fine = self.down[1](fine + F.interpolate(middle, fine.shape[-2:]))
        middle = self.up[0](middle + self.shrink[0](fine))
        coarse = self.up[1](coarse + self.shrink[1](middle))
        return [fine, middle, coarse]


class Head(nn.Module):
    """What is at a cell and where: the same weights at every stride, but for a scale of the sizes."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.what = nn.Sequential(_separable(WIDTH), _separable(WIDTH))
        self.where = nn.Sequential(_separable(WIDTH), _separable(WIDTH))
        self.scores = nn.Conv2d(WIDTH, classes, 1)
        self.boxes = nn.Conv2d(WIDTH, 4, 1)
        self.scale = nn.Parameter(torch.ones(len(STRIDES)))
        nn.init.constant_(self.scores.bias, -float(torch.tensor(1 / PRIOR - 1).log()))  # type: ignore[arg-type]
        nn.init.zeros_(self.boxes.bias)  # type: ignore[arg-type]

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Logits (B, A, classes) and boxes (B, A, 4) in pixels."""
        logits, boxes = [], []
        for level, (x, stride) in enumerate(zip(maps, STRIDES, strict=True)):
            logits.append(self.scores(self.what(x)).flatten(2).transpose(1, 2))
            code = self.boxes(self.where(x)).flatten(2).transpose(1, 2).float() * self.scale[level]
            rows, columns = x.shape[-2:]
            middle = (cells(rows, columns, code.device) + code[..., :2]) * stride
            half = 0.5 * BASE * stride * code[..., 2:].clamp(-LARGEST, LARGEST).exp()
            boxes.append(torch.cat([middle - half, middle + half], -1))
        return torch.cat(logits, 1), torch.cat(boxes, 1)


def cells(rows: int, columns: int, device: torch.device | None = None) -> Tensor:
    """Middles (rows * columns, 2) of a map's cells, x y in cells from the map's upper left edge."""
    y = torch.arange(rows, dtype=torch.float32, device=device) + 0.5
    x = torch.arange(columns, dtype=torch.float32, device=device) + 0.5
    grid = torch.stack([x[None].expand(rows, -1), y[:, None].expand(-1, columns)], -1)
    return grid.reshape(-1, 2)


def _conv(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU6(inplace=True)
    )


def _separable(channels: int, stride: int = 1) -> nn.Sequential:
    """Depthwise, then pointwise (Howard et al. 2017)."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False),
        nn.BatchNorm2d(channels),
        *_conv(channels, channels),
    )


def _backbone(stream: int, pretrained: bool) -> EfficientNetLite0:
    """The visible stream, or the thermal one of one channel; both start from ImageNet."""
    channels = 3 if stream == 0 else 1
    return load_imagenet(channels) if pretrained else EfficientNetLite0(channels)


def build(settings: dict[str, Any]) -> RgbirDetection:
    """The network that a model card's settings mean."""
    return RgbirDetection(int(settings.get("classes", len(CLASSES))))
