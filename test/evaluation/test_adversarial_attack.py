"""Adversarial perturbations stay within their bound and change the fused image."""

from __future__ import annotations

import torch

from multimodal_perception.evaluation.adversarial_attack import (
    add_gaussian_noise,
    projected_gradient_attack,
)

IMAGES = torch.rand(2, 2, 1, 16, 16, generator=torch.Generator().manual_seed(0))


def contrast(visible: torch.Tensor, thermal: torch.Tensor) -> torch.Tensor:
    """A fusion whose output is most sensitive to an alternating pattern."""
    sign = torch.tensor([1.0, -1.0]).repeat(8)
    return 0.5 * (visible + thermal) * sign


def test_perturbation_stays_within_epsilon_and_the_image_range() -> None:
    generator = torch.Generator().manual_seed(1)
    perturbed = projected_gradient_attack(contrast, *IMAGES, 0.03, 3, generator)
    for image, clean in zip(perturbed, IMAGES, strict=True):
        assert (image - clean).abs().max() <= 0.03 + 1e-6
        assert image.min() >= 0 and image.max() <= 1


def test_attack_changes_the_output_more_than_noise_of_equal_size() -> None:
    visible, thermal = IMAGES
    clean = contrast(visible, thermal)
    generator = torch.Generator().manual_seed(2)
    attacked = projected_gradient_attack(contrast, visible, thermal, 0.05, 5, generator)
    random = [(i + 0.05 * torch.rand(i.shape).sub(0.5).sign()).clamp(0, 1) for i in IMAGES]
    attack_change, random_change = (
        float((contrast(*pair) - clean).square().mean()) for pair in (attacked, random)
    )
    assert attack_change > 1.5 * random_change


def test_noise_has_the_requested_standard_deviation() -> None:
    flat = torch.full((1, 1, 100, 100), 0.5)
    noise = add_gaussian_noise(flat, 0.05, torch.Generator().manual_seed(3)) - flat
    assert abs(float(noise.std()) - 0.05) < 0.002 and abs(float(noise.mean())) < 0.002
    torch.testing.assert_close(add_gaussian_noise(flat, 0.0), flat)
