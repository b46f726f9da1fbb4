"""Obstacle classes in a bird's-eye-view grid around the vehicle from fisheye cameras and ultrasonics.

After Das et al., Fisheye Camera and Ultrasonic Sensor Fusion for Near-Field Obstacle Perception in
Bird's-Eye-View (arXiv 2402.00637). Each modality has an encoder. Fisheye features are sampled into the
BEV grid after their encoder with the exact camera model; ultrasonic ranges are drawn into the grid
before theirs, which contains a content-aware dilated convolution. Both are concatenated and decoded in
two stages. The head predicts evidence instead of probabilities, so that a cell without information has a
high uncertainty (Sensoy et al. 2018; Han et al. 2021, TMC).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from multimodal_perception.configuration import build
from multimodal_perception.networks.efficientnet_lite import CHANNELS, EfficientNetLite0

CAMERAS, HEIGHTS = 4, 2
IMAGE = (112, 192)
ULTRASONIC_CHANNELS = 5
DILATIONS = (1, 2, 4)


@dataclass(frozen=True)
class NearFieldSettings:
    """Architecture of the near-field network. The weights of a model only fit the values of its card.

    Attributes:
        classes: Number of classes of a grid cell. Change it together with the classes of the training
            data.
        width: Number of channels of the fused features. Increase it for a more accurate but slower
            network.
        content_aware: Whether the ultrasonic encoder has a content-aware dilated convolution instead of
            a residual block with dilation 1. Disable it for an ablation.
        two_stage: Whether a coarse prediction is refined with the features of both encoders; otherwise
            one head predicts from the fused features. Disable it for an ablation or to save time.
        evidence_scale: Factor that is multiplied with the predicted evidence, found by calibration after
            training. Increase it if the network is underconfident, decrease it if it is overconfident.
    """

    classes: int = 6
    width: int = 48
    content_aware: bool = True
    two_stage: bool = True
    evidence_scale: float = field(default=1.0, metadata={"min": 0.01, "max": 100.0})


class ContentAwareDilation(nn.Module):
    """Three 3x3 convolutions at dilations 1, 2 and 4 with separate weights, combined per cell.

    The combination weights are a softmax of a convolution of the input. An ultrasonic range has no
    direction, so that its echo may come from any cell of an arc: larger dilations cover more of the arc.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=d, dilation=d, bias=False) for d in DILATIONS
        )
        self.dilation_logits = nn.Conv2d(channels, len(DILATIONS), 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        weights = self.dilation_logits(x).softmax(dim=1)  # (B, 3, H, W)
        mixed = sum(weights[:, k : k + 1] * branch(x) for k, branch in enumerate(self.branches))
        return F.relu(x + self.norm(mixed))


class Residual(nn.Module):
    """A residual block of two 3x3 convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_conv(channels, channels), nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        )
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm(self.body(x)))


class FisheyeFeatures(nn.Module):
    """The first two stages of EfficientNet-Lite0: 24 channels at stride 4, 40 at stride 8."""

    def __init__(self) -> None:
        super().__init__()
        network = EfficientNetLite0()
        self.stem, self.fine, self.coarse = network.stem, network.stages[0], network.stages[1]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, 112, 192) -> (N, 24, 28, 48) and (N, 40, 14, 24)."""
        fine = self.fine(self.stem(images))
        return fine, self.coarse(fine)


class NearField(nn.Module):
    """The network, see the module's docstring.

    All shapes are static. Missing sensors are masked; the values of their inputs have no effect.
    """

    def __init__(self, settings: NearFieldSettings | None = None) -> None:
        super().__init__()
        s = self.settings = settings or NearFieldSettings()
        width, half = s.width, 32
        self.backbone = FisheyeFeatures()
        self.neck = nn.Sequential(*_conv(sum(CHANNELS[:2]), 32, 1), *_conv(32, 24))
        self.fisheye_encoder = nn.Sequential(
            *_conv(24 * HEIGHTS + 3, half, stride=2), Residual(half)
        )
        self.ultrasonic_stem = nn.Sequential(*_conv(ULTRASONIC_CHANNELS, 16))
        self.ultrasonic_encoder = nn.Sequential(
            *_conv(16, half, stride=2),
            ContentAwareDilation(half) if s.content_aware else Residual(half),
        )
        self.fuse = nn.Sequential(*_conv(2 * half, width), Residual(width), Residual(width))
        if s.two_stage:
            self.coarse_head = nn.Conv2d(width, s.classes, 1)
            self.skip = nn.Sequential(*_conv(24 * HEIGHTS + 3, 16, 1))
            self.refinement = nn.Sequential(*_conv(width // 2 + s.classes + 32, 32), *_conv(32, 32))
        else:
            self.refinement = nn.Sequential(*_conv(width // 2, 32))
        self.reduce = nn.Sequential(*_conv(width, width // 2, 1))
        self.head = nn.Conv2d(32, s.classes, 1)

    def forward(
        self, images: Tensor, sample_uv: Tensor, ultrasonic_grid: Tensor, has_ultrasonic: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Evidence (B, K, 72, 72) per class, and the number of cameras that show each cell (B, 72, 72).

        images: (B, 4, 3, 112, 192), normalised. sample_uv: (B, 4, 2, 72, 72, 2), position of each cell
        at two heights in each image, -1 to 1 over the image, outside this range if not visible.
        ultrasonic_grid: (B, 5, 72, 72). has_ultrasonic: (B,), 1 if the frame has ultrasonic ranges, else
        0.
        """
        batch = images.shape[0]
        fine, coarse = self.backbone(images.flatten(0, 1))
        fine, coarse = (f.unflatten(0, (batch, CAMERAS)) for f in (fine, coarse))
        evidence, _, camera_count = self.decode(
            fine, coarse, sample_uv, ultrasonic_grid, has_ultrasonic
        )
        return evidence, camera_count

    def decode(
        self,
        fine: Tensor,
        coarse: Tensor,
        sample_uv: Tensor,
        ultrasonic_grid: Tensor,
        has_ultrasonic: Tensor,
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """forward from the backbone's features (B, 4, ...), which training stores.

        Returns the evidence, the evidence of the coarse stage (B, K, 36, 36) or None, and the number of
        cameras per cell.
        """
        lifted, camera_count = self._lift(fine, coarse, sample_uv)  # (B, 51, 72, 72)
        # Encoders have biases, so that the outputs for missing sensors must be masked too.
        ultrasonic_mask = has_ultrasonic[:, None, None, None]
        camera_mask = (camera_count.amax(dim=(1, 2)) > 0).to(lifted.dtype)[:, None, None, None]
        fisheye = self.fisheye_encoder(lifted) * camera_mask  # (B, 32, 36, 36)
        ultrasonic_fine = self.ultrasonic_stem(ultrasonic_grid * ultrasonic_mask) * ultrasonic_mask
        # ultrasonic_fine: (B, 16, 72, 72)
        ultrasonic = self.ultrasonic_encoder(ultrasonic_fine) * ultrasonic_mask  # (B, 32, 36, 36)
        fused = self.fuse(torch.cat([fisheye, ultrasonic], 1))  # (B, 48, 36, 36)
        size = sample_uv.shape[3:5]
        x = F.interpolate(self.reduce(fused), size, mode="bilinear")  # (B, 24, 72, 72)
        coarse_evidence = None
        if self.settings.two_stage:
            coarse_evidence = F.softplus(self.coarse_head(fused).float())  # (B, K, 36, 36)
            log_evidence = torch.log1p(coarse_evidence)
            upsampled = F.interpolate(log_evidence, size, mode="bilinear").to(x.dtype)
            skip = self.skip(lifted) * camera_mask  # (B, 16, 72, 72)
            x = torch.cat([x, upsampled, skip, ultrasonic_fine], 1)
        evidence = F.softplus(self.head(self.refinement(x)).float())
        return evidence * self.settings.evidence_scale, coarse_evidence, camera_count

    def _lift(self, fine: Tensor, coarse: Tensor, sample_uv: Tensor) -> tuple[Tensor, Tensor]:
        """BEV features (B, 51, 72, 72), and the number of cameras that show each cell (B, 72, 72)."""
        batch, cameras, _, rows, columns = fine.shape
        size = rows, columns
        up = F.interpolate(coarse.flatten(0, 1), size, mode="bilinear")
        image = self.neck(torch.cat([fine.flatten(0, 1), up], 1))  # (B*4, 24, 28, 48)
        height, width = sample_uv.shape[3:5]
        grid = sample_uv.flatten(0, 1).reshape(batch * cameras, HEIGHTS * height, width, 2)
        sampled = F.grid_sample(image.float(), grid, mode="bilinear", align_corners=False)
        visible = (sample_uv.abs().amax(dim=-1) <= 1).float()  # (B, 4, 2, 72, 72)
        sampled = sampled.reshape(batch, cameras, -1, HEIGHTS, height, width) * visible[:, :, None]
        count = visible.sum(dim=1)  # (B, 2, 72, 72)
        mean = sampled.sum(dim=1) / count.clamp(min=1)[:, None]  # (B, 24, 2, 72, 72)
        coordinates = torch.stack(
            torch.meshgrid(
                torch.linspace(-1, 1, height, device=fine.device),
                torch.linspace(-1, 1, width, device=fine.device),
                indexing="ij",
            )
        ).expand(batch, -1, -1, -1)
        camera_count = count[:, 0]
        parts = [mean.flatten(1, 2), (camera_count > 0).float()[:, None], coordinates]
        return torch.cat(parts, 1).to(image.dtype), camera_count


def build_near_field(settings: Mapping[str, Any]) -> NearField:
    """Build the network from a card's settings, without weights. Raises ConfigurationError."""
    return NearField(build(NearFieldSettings, settings, "near_field settings")).eval()


def _conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    ]
