"""Detection of boxes in a visible image and a thermal image warped onto it, or in only one of them.

Two EfficientNet-Lite0 streams enhance each other at strides 8, 16 and 32 (networks/deyolo.py; with its
focus at stride 8) and are merged into one map per stride. A small feature pyramid fuses the strides
top-down and bottom-up (Lin et al. 2017; Liu et al. 2018), and an anchor-free head predicts class scores
and a box for each cell. As in YOLOX (Ge et al. 2021), a box is the offset of its centre from the cell
and its size relative to the stride; as in Generalised Focal Loss (Li et al. 2020), the score of a class
is the predicted overlap (IoU) of the box.
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
# Strides of the fused maps, and the backbone's channels at these strides.
STRIDES = (8, 16, 32)
CHANNELS = (40, 112, 320)
WIDTH = 64  # channels of the pyramid and the head
BASE_SIZE = 4.0  # box size in strides for an output of 0
MAX_LOG_SIZE = 4.0  # limit of the logarithm of the size relative to BASE_SIZE
PRIOR = 0.01  # initial score of every class


class RgbThermalDetection(nn.Module):
    """Scores and boxes of all cells from a visible image, a thermal image and their masks."""

    def __init__(self, classes: int = len(CLASSES), pretrained: bool = False) -> None:
        super().__init__()
        self.streams = nn.ModuleList(_backbone(i, pretrained) for i in range(2))
        self.focus = nn.ModuleList(BidirectionalFocus(CHANNELS[0]) for _ in range(2))
        self.tokens = nn.ModuleList(nn.ModuleList(MaskToken(c) for _ in range(2)) for c in CHANNELS)
        self.deca = nn.ModuleList(ChannelEnhancement(c) for c in CHANNELS)
        self.depa = nn.ModuleList(PixelEnhancement(c) for c in CHANNELS)
        self.merge = nn.ModuleList(_conv(2 * c, WIDTH) for c in CHANNELS)
        self.pyramid = Pyramid()
        self.head = Head(classes)

    def train(self, mode: bool = True) -> RgbThermalDetection:
        """Set training mode except for the backbones: masked images would distort their statistics."""
        super().train(mode)
        self.streams.eval()
        return self

    def forward(
        self, visible: Tensor, thermal: Tensor, visible_mask: Tensor, thermal_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Scores (B, A, classes) and boxes (B, A, 4), x1 y1 x2 y2 in pixels of the input.

        Inputs: see RgbThermalSegmentation.forward; H and W are multiples of 32. The A cells are those of
        stride 8 row by row, then those of strides 16 and 32.
        """
        logits, boxes = self.predict_logits(visible, thermal, visible_mask, thermal_mask)
        return logits.sigmoid(), boxes

    def predict_logits(
        self, visible: Tensor, thermal: Tensor, visible_mask: Tensor, thermal_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Logits instead of scores, and boxes."""
        images = (
            torch.where(visible_mask > 0.5, visible, 0.0),
            torch.where(thermal_mask > 0.5, 2.0 * thermal - 1.0, 0.0),
        )
        features = [self.extract_features(i, image) for i, image in enumerate(images)]
        return self.detect(features, [visible_mask, thermal_mask])

    def extract_features(self, stream: int, image: Tensor) -> list[Tensor]:
        """Backbone features at STRIDES of images (B, 3 or 1, H, W) in -1 to 1."""
        maps: list[Tensor] = self.streams[stream](image)
        return maps[1:]

    def detect(self, features: list[list[Tensor]], masks: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Logits and boxes from the features of both backbones and the masks (B, 1, H, W)."""
        maps = []
        for level, stride in enumerate(STRIDES):
            x = [f[level] for f in features]  # (B, C, H / stride, W / stride) each
            if level == 0:
                x = [focus(f) for focus, f in zip(self.focus, x, strict=True)]
            small = [(F.avg_pool2d(m, stride) > 0.5).to(x[0].dtype) for m in masks]
            tokens: Any = self.tokens[level]
            a, b = (t(f, m) for t, f, m in zip(tokens, x, small, strict=True))
            a, b = self.deca[level]((a, b), (small[0], small[1]))
            a, b = self.depa[level]((a, b))
            maps.append(self.merge[level](torch.cat([a, b], 1)))  # (B, WIDTH, H/stride, W/stride)
        output: tuple[Tensor, Tensor] = self.head(self.pyramid(maps))
        return output


class Pyramid(nn.Module):
    """Fuses maps of three strides top-down, then bottom-up."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList(_separable(WIDTH) for _ in range(2))
        self.shrink = nn.ModuleList(_separable(WIDTH, 2) for _ in range(2))
        self.up = nn.ModuleList(_separable(WIDTH) for _ in range(2))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Maps (B, WIDTH, h, w) from fine to coarse -> the same shapes."""
        fine, medium, coarse = maps
        medium = self.down[0](medium + F.interpolate(coarse, medium.shape[-2:]))
        fine = self.down[1](fine + F.interpolate(medium, fine.shape[-2:]))
        medium = self.up[0](medium + self.shrink[0](fine))
        coarse = self.up[1](coarse + self.shrink[1](medium))
        return [fine, medium, coarse]


class Head(nn.Module):
    """Class scores and a box per cell. All strides share the weights, except for a scale of the box."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classification = nn.Sequential(_separable(WIDTH), _separable(WIDTH))
        self.regression = nn.Sequential(_separable(WIDTH), _separable(WIDTH))
        self.scores = nn.Conv2d(WIDTH, classes, 1)
        self.boxes = nn.Conv2d(WIDTH, 4, 1)
        self.scale = nn.Parameter(torch.ones(len(STRIDES)))
        nn.init.constant_(self.scores.bias, -float(torch.tensor(1 / PRIOR - 1).log()))  # type: ignore[arg-type]
        nn.init.zeros_(self.boxes.bias)  # type: ignore[arg-type]

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Logits (B, A, classes) and boxes (B, A, 4) in pixels."""
        logits, boxes = [], []
        for level, (x, stride) in enumerate(zip(maps, STRIDES, strict=True)):
            logits.append(self.scores(self.classification(x)).flatten(2).transpose(1, 2))
            code = self.boxes(self.regression(x)).flatten(2).transpose(1, 2).float()
            code = code * self.scale[level]  # (B, h * w, 4)
            rows, columns = x.shape[-2:]
            centre = (cell_centres(rows, columns, code.device) + code[..., :2]) * stride
            log_size = code[..., 2:].clamp(-MAX_LOG_SIZE, MAX_LOG_SIZE)
            half = 0.5 * BASE_SIZE * stride * log_size.exp()
            boxes.append(torch.cat([centre - half, centre + half], -1))
        return torch.cat(logits, 1), torch.cat(boxes, 1)


def cell_centres(rows: int, columns: int, device: torch.device | None = None) -> Tensor:
    """Centres (rows * columns, 2) of a map's cells, x y in cells from the map's upper left corner."""
    y = torch.arange(rows, dtype=torch.float32, device=device) + 0.5
    x = torch.arange(columns, dtype=torch.float32, device=device) + 0.5
    grid = torch.stack([x[None].expand(rows, -1), y[:, None].expand(-1, columns)], -1)
    return grid.reshape(-1, 2)


def _conv(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU6(inplace=True)
    )


def _separable(channels: int, stride: int = 1) -> nn.Sequential:
    """Depthwise separable convolution (Howard et al. 2017)."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False),
        nn.BatchNorm2d(channels),
        *_conv(channels, channels),
    )


def _backbone(stream: int, pretrained: bool) -> EfficientNetLite0:
    """The backbone of stream 0 (visible, 3 channels) or 1 (thermal, 1 channel)."""
    channels = 3 if stream == 0 else 1
    return load_imagenet(channels) if pretrained else EfficientNetLite0(channels)


def build(settings: dict[str, Any]) -> RgbThermalDetection:
    """Build the network from a card's settings, without weights."""
    return RgbThermalDetection(int(settings.get("classes", len(CLASSES))))
