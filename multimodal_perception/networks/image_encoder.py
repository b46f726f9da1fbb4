"""Images to features at a quarter of their size: EfficientNet-Lite0's first stages and a small neck.

Cameras and thermal images share the design and have weights of their own. The trunk starts from
ImageNet's weights, so what is trained on rendered images has seen real ones; frozen, its output can be
stored with the samples.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from multimodal_perception.networks.efficientnet_lite import (
    EfficientNetLite0,
    load_imagenet,
    normalise,
)

# Channels of the trunk's features at a quarter, an eighth and a sixteenth.
FINEST, FINE, COARSE = 24, 40, 112


class ImageTrunk(nn.Module):
    """uint8 pixels to features at a quarter, an eighth and a sixteenth of their size."""

    def __init__(self, channels: int = 3, pretrained: bool = True) -> None:
        super().__init__()
        network = load_imagenet(channels) if pretrained else EfficientNetLite0(channels)
        self.stem, self.stages = network.stem, network.stages[:3]

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, H, W, 3) or, thermal, (N, H, W) uint8 -> (N, 24, H/4, W/4), (N, 40, H/8, W/8),
        (N, 112, H/16, W/16)."""
        image = normalise(pixels)  # first of all: TensorRT does not move bytes about
        if image.dim() == 3:
            image = image[..., None]
        finest = self.stages[0](self.stem(image.permute(0, 3, 1, 2)))
        fine = self.stages[1](finest)
        return finest, fine, self.stages[2](fine)


class ImageNeck(nn.Module):
    """All scales to one map at a quarter, and the classes seen at an eighth as an auxiliary task.

    The finest scale, where a person far away still fills a cell, is added from zero on.
    """

    def __init__(self, channels: int, segments: int, inner: int = 64) -> None:
        super().__init__()
        self.fine = nn.Conv2d(FINE, inner, 1)
        self.coarse = nn.Conv2d(COARSE, inner, 1)
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
        self.finest = nn.Conv2d(FINEST, channels, 1)
        nn.init.zeros_(self.finest.weight)
        nn.init.zeros_(self.finest.bias)  # type: ignore[arg-type]
        self.segment = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(channels, segments, 1))

    def forward(self, finest: Tensor, fine: Tensor, coarse: Tensor) -> Tensor:
        """(N, 24, 2 h, 2 w), (N, 40, h, w), (N, 112, h/2, w/2) -> (N, C, 2 h, 2 w)."""
        up = F.interpolate(self.coarse(coarse), scale_factor=2.0, mode="nearest")
        mixed = self.mix(self.fine(fine) + up)
        return F.interpolate(mixed, scale_factor=2.0, mode="nearest") + self.finest(finest)


class ImageNetwork(nn.Module):
    """An image to its features, as it is run: trunk and neck, without what only training needs."""

    def __init__(
        self, channels: int, features: int, segments: int, pretrained: bool = True
    ) -> None:
        super().__init__()
        self.trunk = ImageTrunk(channels, pretrained)
        self.neck = ImageNeck(features, segments)

    def forward(self, pixels: Tensor) -> Tensor:
        """(1, H, W, 3) or, thermal, (1, H, W) uint8 -> (1, C, H/4, W/4) float32."""
        return self.neck(*self.trunk(pixels))


def atlas_of(maps: Tensor, batch: int) -> Tensor:
    """Feature maps (B * images, C, h, w) one below the other: (B, C, images * h, w)."""
    _, channels, height, width = maps.shape
    maps = maps.reshape(batch, -1, channels, height, width).transpose(1, 2)
    return maps.reshape(batch, channels, -1, width)
