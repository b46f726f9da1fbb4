"""Attacks stay within their size and do harm."""

from __future__ import annotations

import torch

from multimodal_perception.evaluation.adversarial_attack import attacked, noisy

IMAGES = torch.rand(2, 2, 1, 16, 16, generator=torch.Generator().manual_seed(0))


def contrast(visible: torch.Tensor, thermal: torch.Tensor) -> torch.Tensor:
    """A fusion that an alternating pattern moves most."""
    sign = torch.tensor([1.0, -1.0]).repeat(8)
    return 0.5 * (visible + thermal) * sign


def test_an_attack_keeps_to_its_size_and_the_range() -> None:
    moved = attacked(contrast, *IMAGES, 0.03, 3, torch.Generator().manual_seed(1))
    for image, clean in zip(moved, IMAGES, strict=True):
        assert (image - clean).abs().max() <= 0.03 + 1e-6
        assert image.min() >= 0 and image.max() <= 1


def test_an_attack_harms_more_than_noise_of_its_size() -> None:
    visible, thermal = IMAGES
    wanted = contrast(visible, thermal)
    generator = torch.Generator().manual_seed(2)
    moved = attacked(contrast, visible, thermal, 0.05, 5, generator)
    random = [(i + 0.05 * torch.rand(i.shape).sub(0.5).sign()).clamp(0, 1) for i in IMAGES]
    harm, chance = (float((contrast(*pair) - wanted).square().mean()) for pair in (moved, random))
    assert harm > 1.5 * chance


def test_noise_has_the_deviation_asked_for() -> None:
    flat = torch.full((1, 1, 100, 100), 0.5)
    noise = noisy(flat, 0.05, torch.Generator().manual_seed(3)) - flat
    assert abs(float(noise.std()) - 0.05) < 0.002 and abs(float(noise.mean())) < 0.002
    torch.testing.assert_close(noisy(flat, 0.0), flat)
