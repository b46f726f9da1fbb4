"""Perturbations of image pairs that test the robustness of visible-thermal image fusion.

PAIF (Liu et al. 2023) perturbs both images of a pair during training, adversarially and with noise.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def projected_gradient_attack(
    fuse: Callable[[Tensor, Tensor], Tensor],
    visible: Tensor,
    thermal: Tensor,
    epsilon: float,
    steps: int,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Perturb both images by at most `epsilon` per pixel so that the fused image changes most.

    Images (B, 1, H, W) float32 in [0, 1]. Projected gradient ascent (Madry et al. 2018) on the mean
    squared change of the output of `fuse`, with steps along the sign of the gradient and a random
    initialisation.
    """
    clean = torch.cat([visible, thermal], 1)
    with torch.no_grad():
        clean_output = fuse(visible, thermal)
    step_size = 2.0 * epsilon / steps
    noise = torch.rand(clean.shape, generator=generator, device="cpu").to(clean)
    perturbed = (clean + epsilon * (2.0 * noise - 1.0)).clamp(0.0, 1.0)
    for _ in range(steps):
        perturbed.requires_grad_(True)
        output = fuse(perturbed[:, :1], perturbed[:, 1:])
        change = (output - clean_output).float().square().mean()
        (gradient,) = torch.autograd.grad(change, perturbed)
        perturbed = perturbed.detach() + step_size * gradient.sign()
        perturbed = torch.minimum(torch.maximum(perturbed, clean - epsilon), clean + epsilon)
        perturbed = perturbed.clamp(0.0, 1.0)
    return perturbed[:, :1], perturbed[:, 1:]


def add_gaussian_noise(
    images: Tensor, deviation: float, generator: torch.Generator | None = None
) -> Tensor:
    """Images in [0, 1] with additive Gaussian noise of the given standard deviation."""
    noise = torch.randn(images.shape, generator=generator, device="cpu").to(images)
    return (images + deviation * noise).clamp(0.0, 1.0)
