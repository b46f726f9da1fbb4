"""Losses of image fusion: a fused image should have the stronger edges and the brightness of both
sources.

Images are (B, 1, H, W) float32 in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from multimodal_perception.networks.moe_fusion import Fusion

SCALES = 3
# Brightness is compared in images that are coarser by DOWNSAMPLING, after a mean filter of
# BLUR_SIZE pixels.
DOWNSAMPLING, BLUR_SIZE = 4, 5
# Contrast beyond this gain does not increase the visual information fidelity.
MAX_GAIN = 1.5


@dataclass(frozen=True)
class FusionWeights:
    """Weights and gradient gain of the image-fusion loss.

    The edge and brightness losses are those of MoE-Fusion (Cao et al. 2023), with edges at three
    scales and brightness in coarse images. The SSIM and VIF losses are additions that preserve
    structure and contrast.

    Attributes:
        edges: Weight of the edge loss. Increase it when fine detail is missing in fused images.
        brightness: Weight of the brightness loss. Increase it when fused images are too dark or too
            bright compared with both sources.
        ssim: Weight of the structural similarity loss. Increase it when structures of one source are
            distorted.
        vif: Weight of the loss of visual information fidelity. Increase it when fused images have low
            contrast.
        attention: Weight of the loss of the foreground attention head. Increase it when warm objects do
            not stand out.
        gain: Factor on the gradients of the sources in the edge loss. An absolute error favours weak
            edges, which a factor above 1 compensates. Decrease it when edges are exaggerated.
    """

    edges: float = field(default=60.0, metadata={"min": 0.0, "max": 1e3})
    brightness: float = field(default=4.0, metadata={"min": 0.0, "max": 1e3})
    ssim: float = field(default=0.4, metadata={"min": 0.0, "max": 1e3})
    vif: float = field(default=2.0, metadata={"min": 0.0, "max": 1e3})
    attention: float = field(default=0.1, metadata={"min": 0.0, "max": 1e3})
    gain: float = field(default=1.35, metadata={"min": 0.5, "max": 2.0})


def fusion_loss(
    result: Fusion,
    visible: Tensor,
    thermal: Tensor,
    foreground: Tensor,
    weights: FusionWeights | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of one batch, and its parts before weighting.

    The loss also contains two terms that are not in the parts: 10 times the mean square of the excess of
    fused values outside [0, 1], and the load-balancing loss of the experts (Fusion.balance).

    foreground: (B, 1, H, W) in [0, 1], where the fused image should have the brighter source.
    """
    w = weights or FusionWeights()
    fused = result.fused.float()
    structure, fidelity = structure_and_fidelity(fused, visible, thermal)
    target = target_brightness(visible, thermal, foreground)
    half = functional.avg_pool2d(foreground, 2)
    parts = {
        "edges": edge_loss(fused, visible, thermal, w.gain),
        "brightness": (blur(downsample(fused)) - target).abs().mean(),
        "ssim": 1.0 - structure,
        "vif": 1.0 - fidelity,
        "attention": functional.binary_cross_entropy_with_logits(result.attention.float(), half),
    }
    total = sum(getattr(w, name) * value for name, value in parts.items())
    out_of_range = (fused - fused.clamp(0.0, 1.0)).square().mean()
    return total + 10.0 * out_of_range + result.balance.float(), parts


def edge_loss(fused: Tensor, visible: Tensor, thermal: Tensor, gain: float) -> Tensor:
    """Mean distance of the gradients from `gain` times those of the steeper source, over SCALES
    scales."""
    loss = fused.new_zeros(())
    for scale in range(SCALES):
        if scale:
            fused, visible, thermal = (
                functional.avg_pool2d(image, 2) for image in (fused, visible, thermal)
            )
        target = gain * stronger_gradient(sobel(visible), sobel(thermal))
        loss = loss + (sobel(fused) - target).abs().mean() / SCALES
    return loss


def target_brightness(visible: Tensor, thermal: Tensor, foreground: Tensor) -> Tensor:
    """Target brightness of the downsampled fused image.

    In the foreground it is the brighter source. Elsewhere it is the mean of both sources weighted
    by their local contrast, the mean distance from the blurred image. At night, for example, the
    visible image has little contrast and the thermal image prevails; in a uniform thermal sky the
    visible image prevails.
    """
    first, second, front = downsample(visible), downsample(thermal), downsample(foreground)
    contrast = [blur((i - blur(i)).abs()) + 0.01 for i in (first, second)]
    weight = contrast[0] / (contrast[0] + contrast[1])
    both = weight * first + (1.0 - weight) * second
    return blur(front * torch.maximum(first, second) + (1.0 - front) * both)


def downsample(images: Tensor) -> Tensor:
    """Means of blocks of DOWNSAMPLING x DOWNSAMPLING pixels."""
    return functional.avg_pool2d(images, DOWNSAMPLING)


def blur(images: Tensor) -> Tensor:
    """Means in windows of BLUR_SIZE x BLUR_SIZE pixels, same size; borders are mirrored."""
    padded = functional.pad(images, (BLUR_SIZE // 2,) * 4, mode="reflect")
    return functional.avg_pool2d(padded, BLUR_SIZE, stride=1)


def sobel(images: Tensor) -> Tensor:
    """Sobel gradients (B, 2, H, W) along x and y, divided by 8: image units per pixel."""
    kernel_x = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 8.0
    kernel = torch.stack([kernel_x, kernel_x.T])[:, None].to(images)
    return functional.conv2d(functional.pad(images, (1, 1, 1, 1), mode="replicate"), kernel)


def stronger_gradient(first: Tensor, second: Tensor) -> Tensor:
    """Per pixel, the gradient (B, 2, H, W) of the steeper source.

    It keeps its direction; the larger magnitude would not determine the sign of an edge.
    """
    steeper = (first**2).sum(1, keepdim=True) >= (second**2).sum(1, keepdim=True)
    return torch.where(steeper, first, second)


def structure_and_fidelity(
    fused: Tensor, visible: Tensor, thermal: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean SSIM with both sources (Wang et al. 2004), and visual information fidelity (VIF).

    VIF (Sheikh, Bovik 2006) is computed in its pixel form: in each window, the preserved fraction
    of the information of the source that has more of it. With the sum over both sources a network
    would copy one of them completely. Contrast beyond MAX_GAIN does not increase it. Windows are
    7x7 means at three scales (SSIM: the finest).
    """
    structures = []
    kept, total = fused.new_zeros(()), fused.new_zeros(())
    sources = (visible, thermal)
    for scale in range(SCALES):
        parts = [_fidelity(source, fused) for source in sources]
        if scale == 0:
            structures = [structure.mean() for structure, _, _ in parts]
        (_, kept_visible, total_visible), (_, kept_thermal, total_thermal) = parts
        kept = kept + torch.where(total_visible >= total_thermal, kept_visible, kept_thermal).mean()
        total = total + torch.maximum(total_visible, total_thermal).mean()
        sources = (functional.avg_pool2d(sources[0], 2), functional.avg_pool2d(sources[1], 2))
        fused = functional.avg_pool2d(fused, 2)
    return torch.stack(structures).mean(), kept / (total + 1e-3)


def _fidelity(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """In each window: SSIM, the information of a that is preserved in b, and the information of a."""
    noise = 2.0 / 255.0**2
    mean_a, mean_b, var_a, var_b, covariance = _moments(a, b)
    luminance = (2 * mean_a * mean_b + 1e-4) / (mean_a**2 + mean_b**2 + 1e-4)
    contrast = (2 * covariance + 9e-4) / (var_a + var_b + 9e-4)
    gain = (covariance / (var_a + 1e-6)).clamp(min=0.0)
    additive = (var_b - gain * covariance).clamp(min=0.0)
    gain = gain.clamp(max=MAX_GAIN)
    kept = torch.log1p(gain**2 * var_a / (additive + noise))
    return luminance * contrast, kept, torch.log1p(var_a / noise)


def _moments(a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
    """Means, variances and covariance in 7x7 windows."""
    stacked = torch.cat([a, b, a * a, b * b, a * b], 1)
    mean_a, mean_b, aa, bb, ab = functional.avg_pool2d(stacked, 7, stride=2).chunk(5, 1)
    var_a, var_b = (aa - mean_a**2).clamp(min=0.0), (bb - mean_b**2).clamp(min=0.0)
    return mean_a, mean_b, var_a, var_b, ab - mean_a * mean_b
