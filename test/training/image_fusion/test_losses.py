"""Losses of image fusion for images with known results."""

from __future__ import annotations

import math

import pytest
import torch

from multimodal_perception.networks.moe_fusion import Fusion
from multimodal_perception.training.image_fusion.losses import (
    FusionWeights,
    edge_loss,
    fusion_loss,
    sobel,
    stronger_gradient,
    structure_and_fidelity,
    target_brightness,
)


def pattern(seed: int, size: int = 64) -> torch.Tensor:
    noise = torch.rand(1, 1, size // 4, size // 4, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(noise, size=(size, size), mode="bilinear")


def test_gradient_of_a_ramp_is_its_slope() -> None:
    x = torch.arange(8.0).expand(1, 1, 8, 8)
    slopes = sobel(0.02 * x + 0.05 * x.transpose(2, 3))
    inside = slopes[0, :, 1:-1, 1:-1]
    torch.testing.assert_close(inside[0], torch.full((6, 6), 0.02))
    torch.testing.assert_close(inside[1], torch.full((6, 6), 0.05))


def test_stronger_gradient_keeps_its_sign() -> None:
    weak, steep = torch.full((1, 2, 1, 1), 0.1), torch.tensor([-0.3, 0.0]).reshape(1, 2, 1, 1)
    torch.testing.assert_close(stronger_gradient(weak, steep), steep)
    torch.testing.assert_close(stronger_gradient(steep, weak), steep)


def test_edge_loss_is_zero_for_the_source_with_edges() -> None:
    detailed, flat = pattern(0), torch.full((1, 1, 64, 64), 0.5)
    assert edge_loss(detailed, flat, detailed, 1.0) < 1e-6
    assert edge_loss(detailed, flat, detailed, 1.2) > 1e-3
    assert edge_loss(flat, flat, detailed, 1.0) > 1e-2


def test_target_brightness_follows_the_source_with_contrast() -> None:
    night, warm = torch.zeros(1, 1, 64, 64), pattern(1)
    none = torch.zeros_like(night)
    target = target_brightness(night, warm, none)
    assert target.shape == (1, 1, 16, 16)
    assert target.mean() > 0.8 * warm.mean()
    # Equal contrast: the mean of both; in the foreground the brighter one.
    background = target_brightness(warm, warm + 0.2, none)
    torch.testing.assert_close(background.mean(), warm.mean() + 0.1, rtol=0.02, atol=0)
    front = target_brightness(warm, warm + 0.2, none + 1)
    torch.testing.assert_close(front.mean(), warm.mean() + 0.2, rtol=0.02, atol=0)


def test_structure_and_fidelity_of_identical_images_are_one() -> None:
    image = pattern(2)
    structure, fidelity = structure_and_fidelity(image, image, image)
    assert structure == pytest.approx(1.0, abs=1e-4)
    assert fidelity == pytest.approx(1.0, abs=0.02)
    assert structure_and_fidelity(image.flip(3), image, image)[1] < 0.3


def test_mean_of_the_sources_has_a_smaller_loss_than_a_grey_image() -> None:
    visible, thermal = pattern(3), pattern(4)
    attention = torch.zeros(1, 1, 32, 32)
    losses = []
    for fused in (0.5 * (visible + thermal), torch.full_like(visible, 0.5)):
        fused.requires_grad_(True)
        result = Fusion(fused, attention, torch.zeros(()))
        total, parts = fusion_loss(result, visible, thermal, torch.zeros_like(visible))
        total.backward()
        assert fused.grad is not None and torch.isfinite(fused.grad).all()
        assert parts["attention"] == pytest.approx(math.log(2))
        losses.append(float(total))
    assert losses[0] < 0.8 * losses[1]


def test_weights_of_zero_remove_all_parts() -> None:
    image = pattern(5)
    result = Fusion(image.flip(2), torch.zeros(1, 1, 32, 32), torch.zeros(()))
    zero = FusionWeights(edges=0, brightness=0, ssim=0, vif=0, attention=0)
    total, parts = fusion_loss(result, image, image, torch.zeros_like(image), zero)
    assert total == pytest.approx(0.0, abs=1e-6) and parts["edges"] > 0
