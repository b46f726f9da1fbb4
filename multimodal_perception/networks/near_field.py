"""Fisheyes and ultrasonics to what stands in the few metres around the vehicle.

After Das et al., Fisheye Camera and Ultrasonic Sensor Fusion for Near-Field Obstacle Perception in
Bird's-Eye-View (arXiv 2402.00637): an encoder each; ultrasonic readings are drawn from above before
theirs, fisheye features are brought there after theirs, by the exact camera model; the ultrasonic
features pass a content-aware dilated convolution; both are concatenated and decoded in two stages. The
head gives evidence, so that a cell of which nothing is known says so (Sensoy et al. 2018; Han et al.
2021, TMC).
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
SOUND_CHANNELS = 5
DILATIONS = (1, 2, 4)


@dataclass(frozen=True)
class NearFieldSettings:
    """Architecture. content_aware: dilation chosen cell by cell, else 1. two_stage: a coarse answer
    first, refined with the encoders' own features, else one head on the fused ones. evidence: factor
    on the evidence, by which it was calibrated after training.
    """

    classes: int = 6
    width: int = 48
    content_aware: bool = True
    two_stage: bool = True
    evidence: float = field(default=1.0, metadata={"min": 0.01, "max": 100.0})


class ContentAwareDilation(nn.Module):
    """One 3x3 filter at dilations 1, 2 and 4, mixed in each cell by a softmax seen in its content.

    A range says how far an echo is, not in which direction: the wider views gather an arc's support.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=d, dilation=d, bias=False) for d in DILATIONS
        )
        self.choose = nn.Conv2d(channels, len(DILATIONS), 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same."""
        share = self.choose(x).softmax(dim=1)
        mixed = sum(share[:, k : k + 1] * branch(x) for k, branch in enumerate(self.branches))
        return F.relu(x + self.norm(mixed))


class Residual(nn.Module):
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
        whole = EfficientNetLite0()
        self.stem, self.fine, self.coarse = whole.stem, whole.stages[0], whole.stages[1]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, 112, 192) to (N, 24, 28, 48) and (N, 40, 14, 24)."""
        fine = self.fine(self.stem(images))
        return fine, self.coarse(fine)


class NearField(nn.Module):
    """See the module. All shapes are static; an absent sensor is a mask, never zeros that count."""

    def __init__(self, settings: NearFieldSettings | None = None) -> None:
        super().__init__()
        s = self.settings = settings or NearFieldSettings()
        width, half = s.width, 32
        self.features = FisheyeFeatures()
        self.neck = nn.Sequential(*_conv(sum(CHANNELS[:2]), 32, 1), *_conv(32, 24))
        self.fisheye = nn.Sequential(*_conv(24 * HEIGHTS + 3, half, stride=2), Residual(half))
        self.sound_fine = nn.Sequential(*_conv(SOUND_CHANNELS, 16))
        self.sound = nn.Sequential(
            *_conv(16, half, stride=2),
            ContentAwareDilation(half) if s.content_aware else Residual(half),
        )
        self.fuse = nn.Sequential(*_conv(2 * half, width), Residual(width), Residual(width))
        if s.two_stage:
            self.first = nn.Conv2d(width, s.classes, 1)
            self.skip = nn.Sequential(*_conv(24 * HEIGHTS + 3, 16, 1))
            self.second = nn.Sequential(*_conv(width // 2 + s.classes + 32, 32), *_conv(32, 32))
        else:
            self.second = nn.Sequential(*_conv(width // 2, 32))
        self.narrow = nn.Sequential(*_conv(width, width // 2, 1))
        self.head = nn.Conv2d(32, s.classes, 1)

    def forward(
        self, images: Tensor, lookup: Tensor, sound: Tensor, sounding: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Evidence (B, K, 72, 72) of each class, and how much of each cell was looked at (B, 72, 72).

        images: (B, 4, 3, 112, 192), normalised. lookup: (B, 4, 2, 72, 72, 2), where in each image a
        cell lies at two heights, -1 to 1 over the image, beyond where it is not seen. sound: (B, 5, 72,
        72). sounding: (B,) 1 where there are ultrasonics, else 0.
        """
        batch = images.shape[0]
        fine, coarse = self.features(images.flatten(0, 1))
        fine, coarse = (f.unflatten(0, (batch, CAMERAS)) for f in (fine, coarse))
        evidence, _, looked = self.decode(fine, coarse, lookup, sound, sounding)
        return evidence, looked

    def decode(
        self, fine: Tensor, coarse: Tensor, lookup: Tensor, sound: Tensor, sounding: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """The same from the images' features, which training keeps: evidence, the coarse stage's
        (B, K, 36, 36) or None, and looked.
        """
        lifted, looked = self._lift(fine, coarse, lookup)
        heard = sound * sounding[:, None, None, None]
        # Encoders have biases: what is absent is silenced behind them.
        seen_at_all = (looked.amax(dim=(1, 2)) > 0).to(lifted.dtype)[:, None, None, None]
        eyes = self.fisheye(lifted) * seen_at_all  # (B, 32, 36, 36)
        near_sound = self.sound_fine(heard) * sounding[:, None, None, None]  # (B, 16, 72, 72)
        ears = self.sound(near_sound) * sounding[:, None, None, None]  # (B, 32, 36, 36)
        fused = self.fuse(torch.cat([eyes, ears], 1))  # (B, 48, 36, 36)
        size = lookup.shape[3:5]
        wide = F.interpolate(self.narrow(fused), size, mode="bilinear")  # (B, 24, 72, 72)
        first = None
        if self.settings.two_stage:
            first = F.softplus(self.first(fused).float())  # (B, K, 36, 36)
            hint = F.interpolate(torch.log1p(first), size, mode="bilinear").to(wide.dtype)
            skip = self.skip(lifted) * seen_at_all
            wide = torch.cat([wide, hint, skip, near_sound], 1)
        evidence = F.softplus(self.head(self.second(wide)).float())
        return evidence * self.settings.evidence, first, looked

    def _lift(self, fine: Tensor, coarse: Tensor, lookup: Tensor) -> tuple[Tensor, Tensor]:
        """Features from above (B, 51, 72, 72), and the cameras that look at each cell (B, 72, 72)."""
        batch, cameras, _, rows, columns = fine.shape
        size = rows, columns
        up = F.interpolate(coarse.flatten(0, 1), size, mode="bilinear")
        image = self.neck(torch.cat([fine.flatten(0, 1), up], 1))  # (B*4, 24, 28, 48)
        height, width = lookup.shape[3:5]
        grid = lookup.flatten(0, 1).reshape(batch * cameras, HEIGHTS * height, width, 2)
        taken = F.grid_sample(image.float(), grid, mode="bilinear", align_corners=False)
        seen = (lookup.abs().amax(dim=-1) <= 1).float()  # (B, 4, 2, 72, 72)
        taken = taken.reshape(batch, cameras, -1, HEIGHTS, height, width) * seen[:, :, None]
        count = seen.sum(dim=1)  # (B, 2, 72, 72)
        mean = taken.sum(dim=1) / count.clamp(min=1)[:, None]  # (B, 24, 2, 72, 72)
        places = torch.stack(
            torch.meshgrid(
                torch.linspace(-1, 1, height, device=fine.device),
                torch.linspace(-1, 1, width, device=fine.device),
                indexing="ij",
            )
        ).expand(batch, -1, -1, -1)
        looked = count[:, 0]
        parts = [mean.flatten(1, 2), (looked > 0).float()[:, None], places]
        return torch.cat(parts, 1).to(image.dtype), looked


def evidential_loss(evidence: Tensor, labels: Tensor, weights: Tensor, kl: float) -> Tensor:
    """Mean over cells with a label below K of the expected cross entropy and `kl` of the divergence.

    evidence: (B, K, H, W). labels: (B, H, W) int64; K and more is ignored. weights: (B, H, W), of cells.
    Sum y (psi(S) - psi(alpha)) + kl KL(D(alpha~) || D(1)): Han et al. 2021, eq. 8 to 10, where alpha~ is
    alpha without the evidence of the true class.
    """
    count = evidence.shape[1]
    known = labels < count
    alpha = evidence.permute(0, 2, 3, 1)[known] + 1.0  # (M, K)
    truth = F.one_hot(labels[known], count).to(alpha.dtype)
    total = alpha.sum(dim=1, keepdim=True)
    fit = (truth * (torch.digamma(total) - torch.digamma(alpha))).sum(dim=1)
    wrong = truth + (1 - truth) * alpha
    whole = wrong.sum(dim=1, keepdim=True)
    divergence = (
        torch.lgamma(whole.squeeze(1))
        - torch.lgamma(torch.tensor(float(count)))
        - torch.lgamma(wrong).sum(dim=1)
        + ((wrong - 1) * (torch.digamma(wrong) - torch.digamma(whole))).sum(dim=1)
    )
    weight = weights[known].to(alpha)
    return (weight * (fit + kl * divergence)).sum() / weight.sum().clamp(min=1e-6)


def build_near_field(settings: Mapping[str, Any]) -> NearField:
    """The network of a card's settings. Raises ConfigurationError."""
    return NearField(build(NearFieldSettings, settings, "near_field settings")).eval()


def _conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    ]
