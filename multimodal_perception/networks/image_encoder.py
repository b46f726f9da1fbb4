"""Image features at strides 4, 8 and 16: the first stages of EfficientNet-Lite0.

Cameras and thermal cameras have the same architecture with separate weights. The backbone starts from
ImageNet weights, so that a network trained on rendered images generalises better to real ones.
"""

from __future__ import annotations

from torch import Tensor, nn

from multimodal_perception.networks.efficientnet_lite import (
    EfficientNetLite0,
    load_imagenet,
    normalise,
)

# Channels of the backbone's features at strides 4, 8 and 16.
CHANNELS_4, CHANNELS_8, CHANNELS_16 = 24, 40, 112


class ImageBackbone(nn.Module):
    """uint8 pixels to features at strides 4, 8 and 16."""

    def __init__(self, channels: int = 3, pretrained: bool = True) -> None:
        super().__init__()
        network = load_imagenet(channels) if pretrained else EfficientNetLite0(channels)
        self.stem, self.stages = network.stem, network.stages[:3]

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, H, W, 3) or, thermal, (N, H, W) uint8 -> (N, 24, H/4, W/4), (N, 40, H/8, W/8),
        (N, 112, H/16, W/16)."""
        image = normalise(pixels)  # before the transpose: TensorRT cannot transpose uint8
        if image.dim() == 3:
            image = image[..., None]
        finest = self.stages[0](self.stem(image.permute(0, 3, 1, 2)))
        fine = self.stages[1](finest)
        return finest, fine, self.stages[2](fine)
