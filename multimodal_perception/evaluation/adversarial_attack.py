"""Adversarial and random perturbations of images, for evaluations and for adversarial training.

PAIF (Liu et al. 2023) perturbs both images of a visible-thermal pair during training, adversarially and
with noise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def projected_gradient_ascent(
    objective: Callable[[list[Tensor]], Tensor],
    images: Sequence[Tensor],
    bounds: Sequence[Tensor | float],
    ranges: Sequence[tuple[float, float]],
    steps: int,
    relative_step: float,
    generator: torch.Generator | None = None,
) -> list[Tensor]:
    """Images that differ from the given ones by at most a bound per value and increase an objective.

    Projected gradient ascent (Madry et al. 2018) from a uniformly random start, with steps along the
    sign of the gradient. objective: from the images to a scalar; it may ignore some of them. bounds,
    ranges: bound (or a tensor of bounds that can be broadcast) and smallest and largest value of each
    image. relative_step: length of a step as a fraction of the bound.
    """
    lows = [(x - b).clamp(min=r[0]) for x, b, r in zip(images, bounds, ranges, strict=True)]
    highs = [(x + b).clamp(max=r[1]) for x, b, r in zip(images, bounds, ranges, strict=True)]

    def project(moved: list[Tensor]) -> list[Tensor]:
        limits = zip(moved, lows, highs, strict=True)
        return [torch.minimum(torch.maximum(x, low), high) for x, low, high in limits]

    noise = [torch.rand(x.shape, generator=generator, device="cpu").to(x) for x in images]
    start = zip(images, bounds, noise, strict=True)
    current = project([x + b * (2.0 * n - 1.0) for x, b, n in start])
    for _ in range(steps):
        leaves = [x.detach().requires_grad_(True) for x in current]
        gradients = torch.autograd.grad(objective(leaves), leaves, allow_unused=True)
        moves = zip(current, bounds, gradients, strict=True)
        current = project(
            [x if g is None else x + relative_step * b * g.sign() for x, b, g in moves]
        )
    return current


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

    def change(images: list[Tensor]) -> Tensor:
        output = fuse(images[0][:, :1], images[0][:, 1:])
        return (output - clean_output).float().square().mean()

    (perturbed,) = projected_gradient_ascent(
        change, [clean], [epsilon], [(0.0, 1.0)], steps, 2.0 / steps, generator
    )
    return perturbed[:, :1], perturbed[:, 1:]


def add_gaussian_noise(
    images: Tensor, deviation: float, generator: torch.Generator | None = None
) -> Tensor:
    """Images in [0, 1] with additive Gaussian noise of the given standard deviation."""
    noise = torch.randn(images.shape, generator=generator, device="cpu").to(images)
    return (images + deviation * noise).clamp(0.0, 1.0)
