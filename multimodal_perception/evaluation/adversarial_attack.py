"""Images that are wrong on purpose: what a fusion of visible and thermal should withstand.

PAIF (Liu et al. 2023) perturbs both images of a pair, adversarially and with noise, while it trains.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def attacked(
    fuse: Callable[[Tensor, Tensor], Tensor],
    visible: Tensor,
    thermal: Tensor,
    size: float,
    steps: int,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Both images changed by at most `size` a pixel so that the fused one changes most.

    Images (B, 1, H, W) float32 in [0, 1]. Projected gradient ascent (Madry et al. 2018) on the
    squared change of what `fuse` makes of both, by the gradient's sign from a random start.
    """
    clean = torch.cat([visible, thermal], 1)
    with torch.no_grad():
        wanted = fuse(visible, thermal)
    stride = 2.0 * size / steps
    noise = torch.rand(clean.shape, generator=generator, device="cpu").to(clean)
    moved = (clean + size * (2.0 * noise - 1.0)).clamp(0.0, 1.0)
    for _ in range(steps):
        moved.requires_grad_(True)
        change = (fuse(moved[:, :1], moved[:, 1:]) - wanted).float().square().mean()
        (slope,) = torch.autograd.grad(change, moved)
        moved = moved.detach() + stride * slope.sign()
        moved = torch.minimum(torch.maximum(moved, clean - size), clean + size).clamp(0.0, 1.0)
    return moved[:, :1], moved[:, 1:]


def noisy(images: Tensor, deviation: float, generator: torch.Generator | None = None) -> Tensor:
    """Images in [0, 1] with Gaussian noise of a standard deviation, the same in every pixel."""
    noise = torch.randn(images.shape, generator=generator, device="cpu").to(images)
    return (images + deviation * noise).clamp(0.0, 1.0)
