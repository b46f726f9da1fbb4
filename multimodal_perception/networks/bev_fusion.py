"""First stage of the BEV fusion detector: pillars, lifted images and ultrasonic ranges to proposals.

LiDAR pillars (PointPillars, Lang et al. 2019) with past sweeps and painted points; image features at
the pillars (Global Fusion of LoGoNet, Li et al. 2023) and lifted into the bird's-eye view; a BEV
backbone and centre heads (CenterPoint, Yin et al. 2021) with velocities and variances. All shapes are
static and none depends on the number of images. Geometric computations (lifting, sampling, pillars) are
outside the network (detection.bev_fusion).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from multimodal_perception.configuration import UserError, build
from multimodal_perception.detection.bev_fusion.network_config import (
    CLASSES,
    IMAGE_MODALITIES,
    ULTRASONIC_CHANNELS,
    VARIANCES,
    BevFusionNetworkConfig,
    stage1_inputs,
)
from multimodal_perception.networks.bev_backbone import (
    FeaturePyramid,
    concatenated_convolution,
    convolution,
)
from multimodal_perception.networks.bev_fusion_images import ImageEncoder
from multimodal_perception.networks.centre_head import BOX_CODE_SIZE, decode_boxes, select_peaks
from multimodal_perception.networks.pillars import PillarEncoder, scatter_to_canvas

# By class, the fraction of the maximum score among a cell's neighbours that the cell needs to be a peak.
PEAK_RATIOS = [0.5 if name == "pedestrian" else 1.0 for name in CLASSES]
# Channels of a cell after its box code: velocity x and y, log variances.
VELOCITY = slice(BOX_CODE_SIZE, BOX_CODE_SIZE + 2)
LOG_VARIANCE = slice(BOX_CODE_SIZE + 2, BOX_CODE_SIZE + 2 + VARIANCES)
CODE_SIZE = LOG_VARIANCE.stop
# Log variances are limited to this interval.
MIN_LOG_VARIANCE, MAX_LOG_VARIANCE = -8.0, 6.0


class BevOutputs(NamedTuple):
    """Dense outputs, S = lift_size.

    bev_features: (B, neck_channels, S, S). heatmap: logits (B, classes, S, S). code: (B, CODE_SIZE, S,
    S): box code (see centre_head), velocity over ground along x and y in m/s, log variances of x, y, z
    (m), log length, log width, log height, yaw (rad), velocity x and y (m/s).
    """

    bev_features: Tensor
    heatmap: Tensor
    code: Tensor


class Proposals(NamedTuple):
    """Decoded proposals, the highest scores first.

    scores (B, R); labels (B, R) int64; boxes (B, R, 7); velocities (B, R, 2); log_variances
    (B, R, VARIANCES), in the units of BevOutputs.code.
    """

    scores: Tensor
    labels: Tensor
    boxes: Tensor
    velocities: Tensor
    log_variances: Tensor


class BevFusionNetwork(nn.Module):
    """Stage 1. Without images or without LiDAR points the corresponding inputs are zero."""

    def __init__(self, config: BevFusionNetworkConfig) -> None:
        super().__init__()
        self.config = c = config
        self.inputs = tuple(stage1_inputs(c))
        self.encoder = PillarEncoder(c.pillar_channels, c.channels)
        if c.pillar_images:
            self.pillar_fusion = PillarImageFusion(c.channels, c.sample_channels)
        if c.lift:
            self.image_bev = ImageBevEncoder(c.lift_channels, c.channels, c.widths[0])
        if c.bev_exchange:
            self.exchange = BevExchange(c.widths[0])
        self.stem = convolution(c.channels + ULTRASONIC_CHANNELS, c.widths[0], 2)
        self.stages = nn.ModuleList(_stages(c.widths, c.depths))
        self.neck = FeaturePyramid(c.widths, c.neck_channels)
        self.head = BevFusionHead(c.neck_channels, len(CLASSES))

    def bev_outputs(self, inputs: Mapping[str, Tensor]) -> BevOutputs:
        """Dense outputs. inputs: by name, with batch dimension, see stage1_inputs.

        Without the inputs of images (training with LiDAR only), the parts for images are not computed.
        """
        c = self.config
        pillars = self.encoder(inputs["pillars"])  # (B, M, C)
        if c.pillar_images and "pillar_images" in inputs:
            pillars = self.pillar_fusion(pillars, inputs["pillar_images"])
        canvas = scatter_to_canvas(pillars, inputs["pillar_cells"], c.pillars.size)
        ultrasonic = inputs["ultrasonic_grid"].to(canvas.dtype)
        x = concatenated_convolution(self.stem, canvas, ultrasonic)  # (B, W, S, S)
        if c.lift and "image_bev" in inputs:
            images = self.image_bev(inputs["image_bev"], c.lift_size)
            if c.bev_exchange:
                x, images = self.exchange(x, images)
            x = x + images
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        bev_features = self.neck(features)
        return BevOutputs(bev_features, *self.head(bev_features))

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Process one frame; this is the exported function.

        tensors: the inputs of stage1_inputs, in that order. Returns scores (1, R), labels (1, R) int64,
        boxes (1, R, 7), velocities (1, R, 2), variances (1, R, 9) of x y z, length, width, height in
        m^2, of yaw in rad^2 and of the velocity in m^2/s^2; log_variances (1, R, 9), in the units of
        BevOutputs; bev_features (1, neck_channels, S, S).
        """
        outputs = self.bev_outputs(dict(zip(self.inputs, tensors, strict=True)))
        p = self.decode(outputs.heatmap, outputs.code)
        variances = metric_variances(p.log_variances, p.boxes)
        return (
            p.scores, p.labels, p.boxes, p.velocities, variances, p.log_variances,
            outputs.bev_features,
        )  # fmt: skip

    def decode(self, heatmap: Tensor, code: Tensor) -> Proposals:
        """The config.proposals highest peaks of a heatmap."""
        c = self.config
        scores, labels, cells, codes = select_peaks(heatmap, code, c.proposals, PEAK_RATIOS)
        boxes = decode_boxes(
            cells, codes[..., :BOX_CODE_SIZE], heatmap.shape[-1], c.lift_cell, c.pillars.half_extent
        )
        log_variances = codes[..., LOG_VARIANCE].clamp(MIN_LOG_VARIANCE, MAX_LOG_VARIANCE)
        return Proposals(scores, labels, boxes, codes[..., VELOCITY], log_variances)


STAGE1_OUTPUTS = (
    "scores", "labels", "boxes", "velocities", "variances", "log_variances", "bev_features",
)  # fmt: skip


def metric_variances(log_variances: Tensor, boxes: Tensor) -> Tensor:
    """Variances (..., 9) in m^2, rad^2 and m^2/s^2 from those of the network, at boxes (..., 7)."""
    position, log_size, rest = log_variances.exp().split((3, 3, 3), -1)
    return torch.cat([position, log_size * boxes[..., 3:6] ** 2, rest], -1)


class PillarImageFusion(nn.Module):
    """Adds the image features at each pillar (Global Fusion, LoGoNet, section 3.2).

    The features are sampled at the pillar's centroid outside the network and averaged over the images,
    instead of the paper's deformable attention, so that any number of images fits. Pillars that
    no image shows stay unchanged. The scale starts at zero (Touvron et al. 2021, section 2), so that a
    network trained on LiDAR only gives the same outputs at first.
    """

    def __init__(self, channels: int, sample_channels: int) -> None:
        super().__init__()
        self.sample_channels = sample_channels
        inputs = len(IMAGE_MODALITIES) * sample_channels
        self.images = nn.Linear(inputs, channels)
        self.pillars = nn.Linear(channels, channels)
        self.out = nn.Sequential(
            nn.LayerNorm(channels), nn.ReLU(), nn.Linear(channels, channels), nn.LayerNorm(channels),
            nn.ReLU(),
        )  # fmt: skip
        self.scale = nn.Parameter(torch.zeros(channels))

    def forward(self, pillars: Tensor, images: Tensor) -> Tensor:
        """pillars (B, M, C), images (B, M, 2 * sample_channels) -> (B, M, C)."""
        last = self.sample_channels - 1
        visible = torch.maximum(images[..., last], images[..., -1])[..., None]  # 0 or 1
        added = self.out(self.images(images) + self.pillars(pillars))
        return pillars + visible * self.scale * added


class ImageBevEncoder(nn.Module):
    """Encodes the lifted images for the first stage of the BEV backbone; the scale starts at zero."""

    def __init__(self, inputs: int, channels: int, outputs: int) -> None:
        super().__init__()
        self.project = nn.Sequential(nn.Linear(inputs, channels), nn.ReLU())
        self.mix = convolution(channels, outputs)
        self.scale = nn.Parameter(torch.zeros(outputs))

    def forward(self, lifted: Tensor, size: int) -> Tensor:
        """(B, size * size, K) -> (B, outputs, size, size)."""
        x = self.project(lifted).transpose(1, 2)
        x = self.mix(x.reshape(x.shape[0], x.shape[1], size, size))
        return x * self.scale[:, None, None]


class BevExchange(nn.Module):
    """LiDAR and image features attend to each other's 3 x 3 neighbourhood in the bird's-eye view.

    Representational interaction after DeepInteraction (Yang et al. 2022, section 3.1), with both
    representations in the bird's-eye view instead of one in each image, so that the cost does not grow
    with the number of images. The results are added; their scales start at zero.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = nn.ModuleList([nn.Conv2d(channels, channels, 1) for _ in range(2)])
        self.key_value = nn.ModuleList([nn.Conv2d(channels, 2 * channels, 1) for _ in range(2)])
        self.scale = nn.Parameter(torch.zeros(2, channels, 1, 1))

    def forward(self, lidar: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """lidar, images (B, C, S, S) -> both updated."""
        return (
            lidar + self.scale[0] * self._attend(0, lidar, images),
            images + self.scale[1] * self._attend(1, images, lidar),
        )

    def _attend(self, index: int, queries: Tensor, other: Tensor) -> Tensor:
        height, width = queries.shape[-2:]
        query = self.query[index](queries)
        key, value = self.key_value[index](F.pad(other, (1, 1, 1, 1))).chunk(2, 1)
        shifts = [(i, j) for i in range(3) for j in range(3)]
        scores = [
            (query * key[..., i : i + height, j : j + width]).sum(1, keepdim=True)
            for i, j in shifts
        ]
        weights = (torch.cat(scores, 1) / queries.shape[1] ** 0.5).softmax(1)
        attended = torch.zeros_like(queries)
        for k, (i, j) in enumerate(shifts):
            attended = attended + weights[:, k : k + 1] * value[..., i : i + height, j : j + width]
        return attended


class BevFusionHead(nn.Module):
    """One heatmap per class, and for each cell a box code, a velocity and log variances."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.shared = convolution(channels, channels)
        self.heatmap = nn.Conv2d(channels, classes, 1)
        self.code = nn.Conv2d(channels, CODE_SIZE, 1)
        nn.init.constant_(self.heatmap.bias, -2.19)  # type: ignore[arg-type]  # a probability of 0.1

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, S, S) -> heatmap logits (B, classes, S, S) and codes (B, CODE_SIZE, S, S)."""
        shared = self.shared(features)
        return self.heatmap(shared), self.code(shared)


def _stages(widths: tuple[int, ...], depths: tuple[int, ...]) -> list[nn.Module]:
    """Stages of the backbone at strides 2, 4 and 8; the first one starts after the stem."""
    stages: list[nn.Module] = []
    inputs = widths[0]
    for k, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        layers = [] if k == 0 else [convolution(inputs, width, 2)]
        layers += [convolution(width, width) for _ in range(depth)]
        stages.append(nn.Sequential(*layers))
        inputs = width
    return stages


def read_settings(settings: Mapping[str, Any]) -> BevFusionNetworkConfig:
    """Network configuration in a card's settings. Raises UserError."""
    return build(
        BevFusionNetworkConfig, settings.get("network", {}), "model card", "settings.network"
    )


def build_stage1(settings: Mapping[str, Any]) -> BevFusionNetwork:
    """Build the first stage from a card's settings, without weights."""
    return BevFusionNetwork(read_settings(settings))


def build_image(settings: Mapping[str, Any]) -> ImageEncoder:
    """Build an image network from a card's settings, without weights."""
    modality = settings.get("image")
    if modality not in IMAGE_MODALITIES:
        raise UserError(f"model card: settings.image: allowed: {', '.join(IMAGE_MODALITIES)}")
    channels = 3 if modality == "camera" else 1
    return ImageEncoder(read_settings(settings), channels, pretrained=False)
