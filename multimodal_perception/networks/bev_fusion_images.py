"""Image network of the BEV fusion detector: features and the range distribution of each pixel.

The trunk is that of EfficientNet-Lite0 with ImageNet weights. The range distribution follows Lift-Splat
(Philion & Fidler 2020) and BEVDepth (Li et al. 2023), which supervises it with measured depth and
gives the network the camera's parameters; here the parameters enter as features of each pixel's ray.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from multimodal_perception.detection.bev_fusion.network_config import (
    RAY_CHANNELS,
    BevFusionNetworkConfig,
)
from multimodal_perception.networks.image_encoder import (
    CHANNELS_4,
    CHANNELS_8,
    CHANNELS_16,
    ImageBackbone,
)

INNER = 64


class ImageOutputs(NamedTuple):
    """Outputs for training.

    features: (N, C, h/4, w/4). range_logits: (N, D, h/8, w/8). segment_logits: (N, classes, h/8, w/8).
    """

    features: Tensor
    range_logits: Tensor
    segment_logits: Tensor


class ImageEncoder(nn.Module):
    """One image to its features and range distribution; the exported network."""

    def __init__(
        self, config: BevFusionNetworkConfig, image_channels: int, pretrained: bool = True
    ) -> None:
        """image_channels: 3 for cameras, 1 for thermal cameras. pretrained: with ImageNet weights."""
        super().__init__()
        self.trunk = ImageBackbone(image_channels, pretrained)
        self.neck = ImageRangeNeck(config)

    def forward(self, pixels: Tensor, ray_features: Tensor) -> tuple[Tensor, Tensor]:
        """Features (1, h/4, w/4, C) and range probabilities (1, h/8, w/8, D); the exported function.

        pixels: (1, h, w, 3) or, thermal, (1, h, w) uint8. ray_features: (1, 4, h/8, w/8).
        """
        outputs = self.outputs(pixels, ray_features)
        ranges = outputs.range_logits.softmax(1)
        # Channels last: the kernels that sample the maps read all channels of a cell.
        return outputs.features.permute(0, 2, 3, 1), ranges.permute(0, 2, 3, 1)

    def outputs(self, pixels: Tensor, ray_features: Tensor) -> ImageOutputs:
        """Outputs for training from pixels (N, ...) uint8."""
        result: ImageOutputs = self.neck(*self.trunk(pixels), ray_features)
        return result


class ImageRangeNeck(nn.Module):
    """Fuses the scales of the trunk with the ray features; heads for features, ranges and segments."""

    def __init__(self, config: BevFusionNetworkConfig) -> None:
        super().__init__()
        self.finest = nn.Conv2d(CHANNELS_4, config.channels, 1)
        self.fine = nn.Conv2d(CHANNELS_8, INNER, 1)
        self.coarse = nn.Conv2d(CHANNELS_16, INNER, 1)
        self.rays = nn.Sequential(
            nn.Conv2d(RAY_CHANNELS, INNER, 1), nn.ReLU(), nn.Conv2d(INNER, INNER, 1)
        )
        self.mix = nn.Sequential(nn.BatchNorm2d(INNER), nn.ReLU(), *_convolution(INNER, INNER))
        self.feature = nn.Sequential(*_convolution(INNER, config.channels))
        self.range = nn.Sequential(
            *_convolution(INNER, INNER), nn.Conv2d(INNER, config.range_bins, 1)
        )
        self.segment = nn.Conv2d(config.channels, config.segment_classes, 1)

    def forward(
        self, finest: Tensor, fine: Tensor, coarse: Tensor, ray_features: Tensor
    ) -> ImageOutputs:
        """(N, 24, 2 h, 2 w), (N, 40, h, w), (N, 112, h/2, w/2), (N, 4, h, w) -> see ImageOutputs."""
        up = F.interpolate(self.coarse(coarse), scale_factor=2.0, mode="nearest")
        mixed = self.mix(self.fine(fine) + up + self.rays(ray_features))
        features = self.feature(mixed)
        segments = self.segment(features)
        finer = F.interpolate(features, scale_factor=2.0, mode="nearest") + self.finest(finest)
        return ImageOutputs(finer, self.range(mixed), segments)


def _convolution(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


def example_inputs(config: BevFusionNetworkConfig, modality: str) -> dict[str, Tensor]:
    """Inputs of an image network with the shapes of its configuration."""
    height, width = config.image_size(modality)
    channels = (3,) if modality == "camera" else ()
    return {
        "pixels": torch.zeros(1, height, width, *channels, dtype=torch.uint8),
        "ray_features": torch.zeros(1, RAY_CHANNELS, height // 8, width // 8),
    }
