"""Image network of the fusion detector."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from multimodal_perception.networks.image_encoder import (
    CHANNELS_4,
    CHANNELS_8,
    CHANNELS_16,
    ImageBackbone,
)


class ImageNeck(nn.Module):
    """Fuses all scales into one map at stride 4; segments it at stride 8 as an auxiliary task.

    The features of stride 4, in which a distant person still covers a cell, are added by a layer that is
    initialised to zero.
    """

    def __init__(self, channels: int, classes: int, inner: int = 64) -> None:
        """classes: of the auxiliary segmentation."""
        super().__init__()
        self.fine = nn.Conv2d(CHANNELS_8, inner, 1)
        self.coarse = nn.Conv2d(CHANNELS_16, inner, 1)
        self.mix = nn.Sequential(
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            nn.Conv2d(inner, inner, 3, padding=1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            nn.Conv2d(inner, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        )
        self.finest = nn.Conv2d(CHANNELS_4, channels, 1)
        nn.init.zeros_(self.finest.weight)
        nn.init.zeros_(self.finest.bias)  # type: ignore[arg-type]
        self.segment = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(channels, classes, 1))

    def forward(self, finest: Tensor, fine: Tensor, coarse: Tensor) -> Tensor:
        """(N, 24, 2 h, 2 w), (N, 40, h, w), (N, 112, h/2, w/2) -> (N, C, 2 h, 2 w)."""
        up = F.interpolate(self.coarse(coarse), scale_factor=2.0, mode="nearest")
        mixed = self.mix(self.fine(fine) + up)
        return F.interpolate(mixed, scale_factor=2.0, mode="nearest") + self.finest(finest)


class ImageNetwork(nn.Module):
    """Backbone and neck: one image to its features; the exported network."""

    def __init__(self, channels: int, features: int, classes: int, pretrained: bool = True) -> None:
        """channels: of the image. features: channels of the output. classes: see ImageNeck."""
        super().__init__()
        self.trunk = ImageBackbone(channels, pretrained)
        self.neck = ImageNeck(features, classes)

    def forward(self, pixels: Tensor) -> Tensor:
        """(1, H, W, 3) or, thermal, (1, H, W) uint8 -> (1, C, H/4, W/4) float32."""
        return self.neck(*self.trunk(pixels))
