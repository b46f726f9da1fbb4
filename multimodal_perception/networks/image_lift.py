"""Lifting of image features with gradients, for training image networks through the bird's-eye view.

Computes the same as `detection.bev_fusion.image_bev`, whose kernels are used where no gradient is
needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from multimodal_perception.detection.bev_fusion.network_config import (
    DEPTH_STRIDE,
    FEATURE_STRIDE,
    IMAGE_MODALITIES,
    PAINT_CHANNELS,
    BevFusionNetworkConfig,
)


class ProjectedImage(NamedTuple):
    """One image and the projections of the points of the lift grid, or of other points, into it.

    modality: key of IMAGE_MODALITIES. features: (h, w, C). ranges: (h/2, w/2, D), probabilities. pixels:
    (P, 2), u and v of each point in the scaled image. visible: (P,) bool. distances: (P,) from the
    camera, metres. paint: (h/2, w/2, PAINT_CHANNELS) or None.
    """

    modality: str
    features: Tensor
    ranges: Tensor
    pixels: Tensor
    visible: Tensor
    distances: Tensor
    paint: Tensor | None = None


def lift(images: Sequence[ProjectedImage], config: BevFusionNetworkConfig) -> Tensor:
    """Lift grid (G * G, lift_channels) of one frame; see image_bev.lift_images.

    images: with P = G * G * heights points, the height innermost.
    """
    c, heights = config, len(config.lift_heights)
    parts, paint_sum, paint_count = [], [], []
    for modality in IMAGE_MODALITIES:
        own = [image for image in images if image.modality == modality]
        if not own:
            parts.append(torch.zeros(c.lift_size**2, c.modality_channels))
            continue
        features, weights, nearer, counts = [], [], [], []
        for image in own:
            visible = image.visible.to(image.features.dtype)
            weight, before = surface_probability(image, c)
            weight, before = weight * visible, before * visible
            sampled = sample_map(image.features, image.pixels, FEATURE_STRIDE)
            features.append(weight[:, None] * sampled)
            weights.append(weight)
            nearer.append(before)
            counts.append(visible)
            paint_count.append(visible)
            if image.paint is not None:
                painted = sample_map(image.paint, image.pixels, DEPTH_STRIDE)
                paint_sum.append(weight[:, None] * painted)
        count = sum(counts).reshape(-1, heights)  # type: ignore[union-attr]
        total = count.sum(1, keepdim=True).clamp(min=1.0)
        parts.append(
            torch.cat(
                [
                    sum(features).reshape(-1, heights, c.channels).sum(1) / total,  # type: ignore[union-attr]
                    sum(weights).reshape(-1, heights) / count.clamp(min=1.0),  # type: ignore[union-attr]
                    sum(nearer).reshape(-1, heights).sum(1, keepdim=True) / total,  # type: ignore[union-attr]
                    (count.sum(1, keepdim=True) > 0).to(count.dtype),
                ],
                1,
            )
        )
    if c.painting:
        painting = torch.zeros(c.lift_size**2, PAINT_CHANNELS)
        if paint_sum:
            total = sum(paint_count).reshape(-1, heights).sum(1, keepdim=True).clamp(min=1.0)  # type: ignore[union-attr]
            summed = sum(paint_sum).reshape(-1, heights, PAINT_CHANNELS).sum(1)  # type: ignore[union-attr]
            painting = summed / total
        parts.append(painting)
    return torch.cat(parts, 1)


def sample(images: Sequence[ProjectedImage], config: BevFusionNetworkConfig) -> Tensor:
    """Image features (P, 2 * sample_channels) at points; see image_bev.sample_images."""
    points = len(images[0].pixels)
    parts = []
    for modality in IMAGE_MODALITIES:
        total = torch.zeros(points, config.sample_channels)
        for image in (i for i in images if i.modality == modality):
            visible = image.visible.to(total.dtype)[:, None]
            weight, _ = surface_probability(image, config)
            sampled = sample_map(image.features, image.pixels, FEATURE_STRIDE)
            total = total + visible * torch.cat(
                [sampled, weight[:, None], torch.ones_like(visible)], 1
            )
        count = total[:, -1:]
        parts.append(
            torch.cat([total[:, :-1] / count.clamp(min=1.0), (count > 0).to(total.dtype)], 1)
        )
    return torch.cat(parts, 1)


def sample_map(values: Tensor, pixels: Tensor, stride: int) -> Tensor:
    """A map (h, w, C) interpolated at pixels (P, 2): (P, C)."""
    size = pixels.new_tensor([values.shape[1], values.shape[0]]) * stride
    grid = (pixels + 0.5) / size * 2.0 - 1.0
    sampled = F.grid_sample(
        values.permute(2, 0, 1)[None],
        grid[None, None].to(values.dtype),
        align_corners=False,
        padding_mode="border",
    )
    return sampled[0, :, 0].transpose(0, 1)


def surface_probability(
    image: ProjectedImage, config: BevFusionNetworkConfig
) -> tuple[Tensor, Tensor]:
    """Probabilities (P,) that the visible surface is at a point's range, and that it is nearer.

    At the range: within half a cell of the lift grid or half a bin of it, whichever is larger.
    """
    edges = torch.from_numpy(config.range_edges).to(image.distances)
    cumulative = sample_map(image.ranges, image.pixels, DEPTH_STRIDE).cumsum(1)  # (P, D)
    half_bin = 0.5 * image.distances * (edges[1] / edges[0] - 1.0)
    tolerance = half_bin.clamp(min=config.lift_cell / 2)
    beyond = image.distances - tolerance >= edges[-1]
    tolerance = torch.where(beyond, torch.zeros_like(tolerance), tolerance)
    before = _nearer(cumulative, image.distances - tolerance, edges)
    return _nearer(cumulative, image.distances + tolerance, edges) - before, before


def _nearer(cumulative: Tensor, distance: Tensor, edges: Tensor) -> Tensor:
    """Probability (P,) that the surface is nearer than distance (P,)."""
    last = len(edges) - 1
    k = (torch.searchsorted(edges, distance.contiguous(), right=True) - 1).clamp(0, last)
    low = torch.where(k > 0, edges[k], torch.zeros_like(distance))
    high = edges[(k + 1).clamp(max=last)]
    fraction = torch.where(k < last, (distance - low) / (high - low).clamp(min=1e-6), 0.0)
    padded = F.pad(cumulative, (1, 0))
    before = padded.gather(1, k[:, None])[:, 0]
    until = padded.gather(1, (k + 1)[:, None])[:, 0]
    return before + fraction * (until - before)
