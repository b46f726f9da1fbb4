"""Centre head of the fusion detector (CenterPoint, Yin et al. 2021, section 4)."""

from __future__ import annotations

from torch import Tensor, nn

from multimodal_perception.networks.bev_backbone import convolution
from multimodal_perception.networks.centre_head import BOX_CODE_SIZE


class CentreHead(nn.Module):
    """Predicts one heatmap per class and one box code per cell."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.shared = convolution(channels, channels)
        self.heatmap = nn.Conv2d(channels, classes, 1)
        self.code = nn.Conv2d(channels, BOX_CODE_SIZE, 1)
        nn.init.constant_(self.heatmap.bias, -2.19)  # type: ignore[arg-type]  # a probability of 0.1

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> heatmap logits (B, classes, H, W) and box codes (B, 10, H, W)."""
        shared = self.shared(features)
        return self.heatmap(shared), self.code(shared)
