"""Segmentation of a visible image and another one (X: thermal, or LiDAR depth), or of either alone.

Two EfficientNet-Lite0 streams; after each of their four stages CM-FRM rectifies both, FFM fuses them,
and an MLP decoder reads the fused maps (networks/cmx.py). A light skip from the stems keeps poles and
people sharp. The comparison rows are the same network with SSMA's gates in the place of both, and with
one stream alone.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from multimodal_perception.networks.cmx import FeatureFusion, FeatureRectification, MaskToken
from multimodal_perception.networks.efficientnet_lite import (
    CHANNELS,
    STEM,
    STRIDES,
    EfficientNetLite0,
    load_imagenet,
)
from multimodal_perception.networks.ssma import GatedFusion

Fusion = Literal["cmx", "ssma", "visible", "other"]
FUSIONS: tuple[Fusion, ...] = ("cmx", "ssma", "visible", "other")
# Channels and heads of the fused maps; the last stage is narrowed before FFM.
FUSED = (24, 40, 112, 128)
HEADS = (1, 2, 4, 4)
WIDTH = 64  # of the decoder
FINE = 48  # of the decoder at stride 2


class RgbxSegmentation(nn.Module):
    """Logits at stride 2 from a visible image, another image and their masks."""

    def __init__(self, classes: int, fusion: Fusion = "cmx", pretrained: bool = False) -> None:
        super().__init__()
        self.fusion = fusion
        used = {"visible": (0,), "other": (1,)}.get(fusion, (0, 1))
        self.streams = nn.ModuleDict({str(i): _backbone(i, pretrained) for i in used})
        self.stem_tokens = nn.ModuleList(MaskToken(STEM) for _ in used)
        self.tokens = nn.ModuleList(nn.ModuleList(MaskToken(c) for _ in used) for c in CHANNELS)
        if fusion == "cmx":
            self.rectify = nn.ModuleList(FeatureRectification(c) for c in CHANNELS)
            self.narrow = nn.ModuleList(
                nn.Conv2d(c, d, 1) if c != d else nn.Identity()
                for c, d in zip(CHANNELS, FUSED, strict=True)
            )
            self.fuse = nn.ModuleList(
                FeatureFusion(d, h) for d, h in zip(FUSED, HEADS, strict=True)
            )
        else:
            self.fuse = nn.ModuleList(
                GatedFusion(c, d) if fusion == "ssma" else nn.Conv2d(c, d, 1)
                for c, d in zip(CHANNELS, FUSED, strict=True)
            )
        self.decoder = Decoder(len(used) * STEM, classes)

    def forward(
        self, visible: Tensor, other: Tensor, visible_mask: Tensor, other_mask: Tensor
    ) -> Tensor:
        """Logits (B, classes, H/2, W/2).

        visible: (B, 3, H, W), normalised as efficientnet_lite.normalise does. other: (B, 1, H, W) in
        [0, 1]. Masks (B, 1, H, W) are 1 where the image says something, else 0; a missing image's is 0
        everywhere, and then its values do not matter.
        """
        images = (
            torch.where(visible_mask > 0.5, visible, 0.0),
            torch.where(other_mask > 0.5, 2.0 * other - 1.0, 0.0),
        )
        masks = (visible_mask, other_mask)
        used = [int(name) for name in self.streams]
        networks: list[Any] = [self.streams[str(i)] for i in used]
        x = [net.stem(images[i]) for i, net in zip(used, networks, strict=True)]
        masks_at = [_shrunk(masks[i], 2) for i in used]
        fine = list(zip(x, self.stem_tokens, masks_at, strict=True))
        maps = []
        for s, stride in enumerate(STRIDES):
            masks_at = [_shrunk(masks[i], stride) for i in used]
            x = [net.stages[s](f) for net, f in zip(networks, x, strict=True)]
            tokens: Any = self.tokens[s]
            x = [t(f, m) for t, f, m in zip(tokens, x, masks_at, strict=True)]
            fused, x = self._fused(s, x, masks_at)
            maps.append(fused)
        out: Tensor = self.decoder(maps, fine)
        return out

    def _fused(
        self, stage: int, x: list[Tensor], masks: list[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """The map of a stage, and the streams as they go on to the next."""
        if self.fusion == "cmx":
            mask_pair = masks[0], masks[1]
            a, b = self.rectify[stage]((x[0], x[1]), mask_pair)
            narrow = self.narrow[stage]
            return self.fuse[stage]((narrow(a), narrow(b)), mask_pair), [a, b]
        if self.fusion == "ssma":
            return self.fuse[stage]((x[0], x[1])), x
        return self.fuse[stage](x[0]), x


class Decoder(nn.Module):
    """Fused maps of strides 4 to 32 and the stems' to logits at stride 2."""

    def __init__(self, stem_channels: int, classes: int) -> None:
        super().__init__()
        self.project = nn.ModuleList(nn.Conv2d(c, WIDTH, 1) for c in FUSED)
        self.mix = _pointwise(4 * WIDTH, WIDTH)
        self.fine = _pointwise(stem_channels, FINE // 2)
        self.coarse = nn.Conv2d(WIDTH, FINE, 1)
        both = FINE + FINE // 2
        self.refine = nn.Sequential(
            nn.Conv2d(both, both, 3, padding=1, groups=both, bias=False),
            nn.BatchNorm2d(both),
            nn.ReLU(inplace=True),
            *_pointwise(both, FINE),
        )
        self.classify = nn.Conv2d(FINE, classes, 1)

    def forward(self, maps: list[Tensor], stems: list[tuple[Tensor, nn.Module, Tensor]]) -> Tensor:
        """Four maps, and the stems (B, C, H/2, W/2) with their tokens and masks, to logits (B, classes,
        H/2, W/2)."""
        size = maps[0].shape[-2:]
        # The first step of `mix` looks at single pixels, so what each map gives to it comes before the
        # enlargement, and nothing need be joined: the same sum, a quarter of the work.
        mix: Any = self.mix
        shares = mix[0].weight.chunk(len(maps), 1)
        whole, *rest = (
            F.conv2d(p(m), w) for p, m, w in zip(self.project, maps, shares, strict=True)
        )
        for part in rest:
            whole = whole + F.interpolate(part, size, mode="bilinear")
        coarse = self.coarse(mix[1:](whole))
        coarse = F.interpolate(coarse, stems[0][0].shape[-2:], mode="bilinear")
        out: Tensor = self.classify(self.refine(torch.cat([coarse, self._fine(stems)], 1)))
        return out

    def _fine(self, stems: list[tuple[Tensor, nn.Module, Tensor]]) -> Tensor:
        """What the stems give: they are masked after the first step, which leaves fewer channels."""
        fine: Any = self.fine
        total: Any = 0.0
        shares = fine[0].weight.chunk(len(stems), 1)
        for (stem, token, mask), share in zip(stems, shares, strict=True):
            absent = F.conv2d(token.token.to(stem.dtype), share)  # type: ignore[arg-type]
            total = total + (F.conv2d(stem, share) - absent) * mask + absent
        out: Tensor = fine[1:](total)
        return out


def _pointwise(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


def _backbone(stream: int, pretrained: bool) -> EfficientNetLite0:
    """The visible stream, or X's of one channel; both start from ImageNet."""
    channels = 3 if stream == 0 else 1
    return load_imagenet(channels) if pretrained else EfficientNetLite0(channels)


def _shrunk(mask: Tensor, stride: int) -> Tensor:
    """A mask (B, 1, H, W) at a stride: 1 where more than half of the pixels have it."""
    return (F.avg_pool2d(mask, stride) > 0.5).to(mask.dtype)


def build(settings: dict[str, Any]) -> RgbxSegmentation:
    """The network that a model card's settings mean. Raises ValueError for an unknown fusion."""
    fusion = settings.get("fusion", "cmx")
    if fusion not in FUSIONS:
        raise ValueError(f"fusion: allowed: {', '.join(FUSIONS)}; got {fusion!r}")
    return RgbxSegmentation(int(settings.get("classes", 10)), fusion)
