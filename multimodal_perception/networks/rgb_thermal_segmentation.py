"""Segmentation of a visible and a thermal image, or of only one of them.

Two EfficientNet-Lite0 streams. After each of their four stages, CM-FRM rectifies both streams and FFM
fuses them (networks/cmx.py); an MLP decoder combines the fused maps. A skip connection from the stems
preserves thin objects such as poles and people. For comparison, the network can use SSMA's gated fusion
instead, or only one stream. The second input may also be trained with LiDAR depth images.
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

Fusion = Literal["cmx", "ssma", "visible", "thermal"]
FUSIONS: tuple[Fusion, ...] = ("cmx", "ssma", "visible", "thermal")
# Channels and attention heads of the fused maps; FFM has fewer channels than the last stage.
FUSED_CHANNELS = (24, 40, 112, 128)
HEADS = (1, 2, 4, 4)
WIDTH = 64  # channels of the decoder at stride 4
FINE_WIDTH = 48  # channels of the decoder at stride 2


class RgbThermalSegmentation(nn.Module):
    """Class logits at stride 2 from a visible image, a thermal image and their masks."""

    def __init__(self, classes: int, fusion: Fusion = "cmx", pretrained: bool = False) -> None:
        super().__init__()
        self.fusion = fusion
        used = {"visible": (0,), "thermal": (1,)}.get(fusion, (0, 1))
        self.streams = nn.ModuleDict({str(i): _backbone(i, pretrained) for i in used})
        self.stem_tokens = nn.ModuleList(MaskToken(STEM) for _ in used)
        self.tokens = nn.ModuleList(nn.ModuleList(MaskToken(c) for _ in used) for c in CHANNELS)
        if fusion == "cmx":
            self.rectify = nn.ModuleList(FeatureRectification(c) for c in CHANNELS)
            self.narrow = nn.ModuleList(
                nn.Conv2d(c, d, 1) if c != d else nn.Identity()
                for c, d in zip(CHANNELS, FUSED_CHANNELS, strict=True)
            )
            self.fuse = nn.ModuleList(
                FeatureFusion(d, h) for d, h in zip(FUSED_CHANNELS, HEADS, strict=True)
            )
        else:
            self.fuse = nn.ModuleList(
                GatedFusion(c, d) if fusion == "ssma" else nn.Conv2d(c, d, 1)
                for c, d in zip(CHANNELS, FUSED_CHANNELS, strict=True)
            )
        self.decoder = Decoder(len(used) * STEM, classes)

    def forward(
        self, visible: Tensor, thermal: Tensor, visible_mask: Tensor, thermal_mask: Tensor
    ) -> Tensor:
        """Logits (B, classes, H/2, W/2).

        visible: (B, 3, H, W), normalised as efficientnet_lite.normalise does. thermal: (B, 1, H, W) in
        [0, 1]. Masks (B, 1, H, W) are 1 at valid pixels, else 0; the mask of a missing image is 0. The
        values of masked pixels have no effect.
        """
        maps, stems = self.encode(visible, thermal, visible_mask, thermal_mask)
        out: Tensor = self.decoder(maps, stems)
        return out

    def encode(
        self, visible: Tensor, thermal: Tensor, visible_mask: Tensor, thermal_mask: Tensor
    ) -> tuple[list[Tensor], list[tuple[Tensor, nn.Module, Tensor]]]:
        """The fused maps and the stems, which are the arguments of Decoder.forward."""
        images = (
            torch.where(visible_mask > 0.5, visible, 0.0),
            torch.where(thermal_mask > 0.5, 2.0 * thermal - 1.0, 0.0),
        )
        masks = (visible_mask, thermal_mask)
        used = [int(name) for name in self.streams]
        networks: list[Any] = [self.streams[str(i)] for i in used]
        # In training, the backbone of an image that is missing in the whole batch is not computed: its
        # features are replaced by the tokens anyway.
        missing = [self.training and not bool(masks[i].any()) for i in used]
        x = [  # stride 2
            _zeros(images[i], STEM, 2) if skip else net.stem(images[i])
            for i, net, skip in zip(used, networks, missing, strict=True)
        ]
        scaled_masks = [_downsample_mask(masks[i], 2) for i in used]
        stems = list(zip(x, self.stem_tokens, scaled_masks, strict=True))
        maps = []
        for s, stride in enumerate(STRIDES):
            scaled_masks = [_downsample_mask(masks[i], stride) for i in used]
            x = [
                _zeros(visible, CHANNELS[s], stride) if skip else net.stages[s](f)
                for net, f, skip in zip(networks, x, missing, strict=True)
            ]
            tokens: Any = self.tokens[s]
            x = [t(f, m) for t, f, m in zip(tokens, x, scaled_masks, strict=True)]
            fused, x = self._fuse_stage(s, x, scaled_masks)
            maps.append(fused)  # (B, FUSED_CHANNELS[s], H / stride, W / stride)
        return maps, stems

    def _fuse_stage(
        self, stage: int, x: list[Tensor], masks: list[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """The fused map of a stage, and the streams that the next stage continues with."""
        if self.fusion == "cmx":
            mask_pair = masks[0], masks[1]
            a, b = self.rectify[stage]((x[0], x[1]), mask_pair)
            narrow = self.narrow[stage]
            return self.fuse[stage]((narrow(a), narrow(b)), mask_pair), [a, b]
        if self.fusion == "ssma":
            return self.fuse[stage]((x[0], x[1])), x
        return self.fuse[stage](x[0]), x


class Decoder(nn.Module):
    """Fused maps at strides 4 to 32 and the stems at stride 2 -> logits at stride 2."""

    def __init__(self, stem_channels: int, classes: int) -> None:
        super().__init__()
        self.project = nn.ModuleList(nn.Conv2d(c, WIDTH, 1) for c in FUSED_CHANNELS)
        self.mix = _pointwise(4 * WIDTH, WIDTH)
        self.fine = _pointwise(stem_channels, FINE_WIDTH // 2)
        self.coarse = nn.Conv2d(WIDTH, FINE_WIDTH, 1)
        both = FINE_WIDTH + FINE_WIDTH // 2
        self.refine = nn.Sequential(
            nn.Conv2d(both, both, 3, padding=1, groups=both, bias=False),
            nn.BatchNorm2d(both),
            nn.ReLU(inplace=True),
            *_pointwise(both, FINE_WIDTH),
        )
        self.classify = nn.Conv2d(FINE_WIDTH, classes, 1)

    def forward(self, maps: list[Tensor], stems: list[tuple[Tensor, nn.Module, Tensor]]) -> Tensor:
        """Returns logits (B, classes, H/2, W/2).

        maps: four, at strides 4 to 32. stems: features (B, STEM, H/2, W/2), mask token and mask of each
        stream.
        """
        size = maps[0].shape[-2:]
        # The first layer of `mix` is a 1x1 convolution, so it is applied to each map before upsampling
        # instead of to their concatenation: the same sum with a quarter of the operations.
        mix: Any = self.mix
        weights = mix[0].weight.chunk(len(maps), 1)
        total, *coarser = (
            F.conv2d(p(m), w) for p, m, w in zip(self.project, maps, weights, strict=True)
        )
        for part in coarser:
            total = total + F.interpolate(part, size, mode="bilinear")
        coarse = self.coarse(mix[1:](total))  # (B, FINE_WIDTH, H/4, W/4)
        coarse = F.interpolate(coarse, stems[0][0].shape[-2:], mode="bilinear")
        out: Tensor = self.classify(self.refine(torch.cat([coarse, self._stem_skip(stems)], 1)))
        return out

    def _stem_skip(self, stems: list[tuple[Tensor, nn.Module, Tensor]]) -> Tensor:
        """Skip features (B, FINE_WIDTH / 2, H/2, W/2) of the stems.

        The stems are masked after the first 1x1 convolution, where they have fewer channels.
        """
        fine: Any = self.fine
        total: Any = 0.0
        weights = fine[0].weight.chunk(len(stems), 1)
        for (stem, token, mask), weight in zip(stems, weights, strict=True):
            masked = F.conv2d(token.token.to(stem.dtype), weight)  # type: ignore[arg-type]
            total = total + (F.conv2d(stem, weight) - masked) * mask + masked
        out: Tensor = fine[1:](total)
        return out


def _pointwise(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


def _backbone(stream: int, pretrained: bool) -> EfficientNetLite0:
    """The backbone of stream 0 (visible, 3 channels) or 1 (thermal, 1 channel)."""
    channels = 3 if stream == 0 else 1
    return load_imagenet(channels) if pretrained else EfficientNetLite0(channels)


def _zeros(image: Tensor, channels: int, stride: int) -> Tensor:
    """Features of zeros (B, channels, H / stride, W / stride) of an image (B, C, H, W)."""
    rows, columns = (size // stride for size in image.shape[-2:])
    return image.new_zeros(len(image), channels, rows, columns)


def _downsample_mask(mask: Tensor, stride: int) -> Tensor:
    """A mask (B, 1, H, W) at a stride: 1 where more than half of the pixels are valid."""
    return (F.avg_pool2d(mask, stride) > 0.5).to(mask.dtype)


def build(settings: dict[str, Any]) -> RgbThermalSegmentation:
    """Build the network from a card's settings, without weights. Raises ValueError."""
    fusion = settings.get("fusion", "cmx")
    if fusion not in FUSIONS:
        raise ValueError(f"fusion: allowed: {', '.join(FUSIONS)}; got {fusion!r}")
    return RgbThermalSegmentation(int(settings.get("classes", 10)), fusion)
