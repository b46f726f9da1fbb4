"""What a fused image should be: the strongest edges of both sources on a brightness of both.

Images are (B, 1, H, W), float32 in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from multimodal_perception.networks.moe_fusion import Fusion

SCALES = 3
# Brightness counts, rather than edges, in images so much coarser, and in windows of so many of their
# pixels a side.
COARSE, BASE = 4, 5
MOST_GAIN = 1.5


@dataclass(frozen=True)
class FusionWeights:
    """Weights of the parts.

    edges and brightness are MoE-Fusion's, edges at three scales, brightness in coarse images; ssim
    and vif, which it lacks, keep structure and contrast. attention: of the foreground head. gain: by
    how much steeper than the sources' edges are asked for, as an absolute error makes a network
    cautious.
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

    foreground: (B, 1, H, W) in [0, 1], where the brighter source is wanted.
    """
    w = weights or FusionWeights()
    fused = result.fused.float()
    structure, fidelity = structure_and_fidelity(fused, visible, thermal)
    wanted = wanted_brightness(visible, thermal, foreground)
    half = functional.avg_pool2d(foreground, 2)
    parts = {
        "edges": edge_loss(fused, visible, thermal, w.gain),
        "brightness": (blurred(coarse(fused)) - wanted).abs().mean(),
        "ssim": 1.0 - structure,
        "vif": 1.0 - fidelity,
        "attention": functional.binary_cross_entropy_with_logits(result.attention.float(), half),
    }
    total = sum(getattr(w, name) * value for name, value in parts.items())
    beyond = (fused - fused.clamp(0.0, 1.0)).square().mean()
    return total + 10.0 * beyond + result.balance.float(), parts


def edge_loss(fused: Tensor, visible: Tensor, thermal: Tensor, gain: float) -> Tensor:
    """Mean distance of the gradients from `gain` times those of the steeper source, at each scale."""
    loss = fused.new_zeros(())
    for scale in range(SCALES):
        if scale:
            fused, visible, thermal = (
                functional.avg_pool2d(image, 2) for image in (fused, visible, thermal)
            )
        wanted = gain * strongest(sobel(visible), sobel(thermal))
        loss = loss + (sobel(fused) - wanted).abs().mean() / SCALES
    return loss


def wanted_brightness(visible: Tensor, thermal: Tensor, foreground: Tensor) -> Tensor:
    """Coarse images: the brighter source in the foreground, elsewhere both by how much each shows.

    How much is the mean distance from the blurred image: in a visible image that is black at night
    the thermal one counts, in front of an even thermal sky the visible one.
    """
    first, second, front = coarse(visible), coarse(thermal), coarse(foreground)
    shows = [blurred((i - blurred(i)).abs()) + 0.01 for i in (first, second)]
    share = shows[0] / (shows[0] + shows[1])
    both = share * first + (1.0 - share) * second
    return blurred(front * torch.maximum(first, second) + (1.0 - front) * both)


def coarse(images: Tensor) -> Tensor:
    """Means of blocks of COARSE pixels a side."""
    return functional.avg_pool2d(images, COARSE)


def blurred(images: Tensor) -> Tensor:
    """Means in windows of BASE pixels a side, same size; edges are mirrored."""
    padded = functional.pad(images, (BASE // 2,) * 4, mode="reflect")
    return functional.avg_pool2d(padded, BASE, stride=1)


def sobel(images: Tensor) -> Tensor:
    """Gradients (B, 2, H, W) along x and y, an eighth of Sobel's sums: units of the image a pixel."""
    across = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 8.0
    kernel = torch.stack([across, across.T])[:, None].to(images)
    return functional.conv2d(functional.pad(images, (1, 1, 1, 1), mode="replicate"), kernel)


def strongest(first: Tensor, second: Tensor) -> Tensor:
    """The gradient (B, 2, H, W) of the source that is steeper there.

    Kept with its direction: the larger of the magnitudes alone leaves the sign of an edge open.
    """
    steeper = (first**2).sum(1, keepdim=True) >= (second**2).sum(1, keepdim=True)
    return torch.where(steeper, first, second)


def structure_and_fidelity(
    fused: Tensor, visible: Tensor, thermal: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean SSIM with both sources (Wang et al. 2004), and what is kept of the richer one (VIF).

    VIF (Sheikh, Bovik 2006) in its pixel form asks in each window for what the source of more
    information tells there: asked for the sum over both sources, a network copies one of them whole.
    Contrast beyond MOST_GAIN earns nothing. Windows are 7x7 means at three scales (SSIM: the finest).
    """
    structures = []
    kept, total = fused.new_zeros(()), fused.new_zeros(())
    sources = (visible, thermal)
    for scale in range(SCALES):
        parts = [_fidelity(source, fused) for source in sources]
        if scale == 0:
            structures = [structure.mean() for structure, _, _ in parts]
        (_, kept_v, total_v), (_, kept_i, total_i) = parts
        kept = kept + torch.where(total_v >= total_i, kept_v, kept_i).mean()
        total = total + torch.maximum(total_v, total_i).mean()
        sources = (functional.avg_pool2d(sources[0], 2), functional.avg_pool2d(sources[1], 2))
        fused = functional.avg_pool2d(fused, 2)
    return torch.stack(structures).mean(), kept / (total + 1e-3)


def _fidelity(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """SSIM, information of a that b keeps, and that of a itself, in each window."""
    noise = 2.0 / 255.0**2
    mean_a, mean_b, var_a, var_b, covariance = _moments(a, b)
    luminance = (2 * mean_a * mean_b + 1e-4) / (mean_a**2 + mean_b**2 + 1e-4)
    contrast = (2 * covariance + 9e-4) / (var_a + var_b + 9e-4)
    gain = (covariance / (var_a + 1e-6)).clamp(min=0.0)
    additive = (var_b - gain * covariance).clamp(min=0.0)
    gain = gain.clamp(max=MOST_GAIN)
    kept = torch.log1p(gain**2 * var_a / (additive + noise))
    return luminance * contrast, kept, torch.log1p(var_a / noise)


def _moments(a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
    """Means, variances and covariance in 7x7 windows."""
    stacked = torch.cat([a, b, a * a, b * b, a * b], 1)
    mean_a, mean_b, aa, bb, ab = functional.avg_pool2d(stacked, 7, stride=2).chunk(5, 1)
    var_a, var_b = (aa - mean_a**2).clamp(min=0.0), (bb - mean_b**2).clamp(min=0.0)
    return mean_a, mean_b, var_a, var_b, ab - mean_a * mean_b
