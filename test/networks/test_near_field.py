"""The near field's network: absent sensors do not count, losses by closed form, dilations chosen."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from scipy.special import digamma, gammaln

from multimodal_perception.configuration import ConfigurationError
from multimodal_perception.networks.near_field import (
    ContentAwareDilation,
    NearField,
    NearFieldSettings,
    build_near_field,
    evidential_loss,
)


@pytest.fixture(scope="module")
def network() -> Iterator[NearField]:
    # Without trained weights features fade to numbers so small that they slow a processor down.
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    yield NearField().eval()
    torch.set_flush_denormal(False)  # the other tests' numbers are their own


def inputs(seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(1, 4, 3, 112, 192, generator=generator)
    lookup = 2 * torch.rand(1, 4, 2, 72, 72, 2, generator=generator) - 1
    sound = torch.rand(1, 5, 72, 72, generator=generator)
    return [images, lookup, sound, torch.ones(1)]


def test_what_an_absent_sensor_holds_changes_nothing(network: NearField) -> None:
    images, lookup, sound, _ = inputs()
    lookup[:, 2] = -2.0  # the third camera is absent
    other = images.clone()
    other[:, 2] = 100.0
    with torch.inference_mode():
        first, looked = network(images, lookup, sound, torch.ones(1))
        second, _ = network(other, lookup, sound, torch.ones(1))
        assert torch.equal(first, second)
        assert looked.max() == 3
        mute, _ = network(images, lookup, sound, torch.zeros(1))
        deaf, _ = network(images, lookup, 7 * sound, torch.zeros(1))
        assert torch.equal(mute, deaf) and not torch.allclose(mute, first)
        lookup[:] = -2.0
        dark, looked = network(images, lookup, sound, torch.ones(1))
        darker, _ = network(-images, lookup, sound, torch.ones(1))
        assert torch.equal(dark, darker) and not looked.any()
    assert first.shape == (1, 6, 72, 72) and (first >= 0).all()


def test_a_cell_takes_the_feature_of_the_pixel_that_sees_it(network: NearField) -> None:
    # One camera, whose left half is dark and right half bright; cells look left or right.
    images, lookup, _, _ = inputs()
    lookup[:] = -2.0
    lookup[:, 0, :, :, :36] = torch.tensor([-0.5, 0.0])
    lookup[:, 0, :, :, 36:] = torch.tensor([0.5, 0.0])
    images[:, 0] = -1.0
    images[:, 0, :, :, 96:] = 1.0
    with torch.inference_mode():
        fine, coarse = network.features(images[0])
        lifted, looked = network._lift(fine[None], coarse[None], lookup)
    left, right = lifted[0, :48, :, :36], lifted[0, :48, :, 36:]
    assert torch.allclose(left, left[:, :1, :1].expand_as(left), atol=1e-5)
    assert torch.allclose(right, right[:, :1, :1].expand_as(right), atol=1e-5)
    assert not torch.allclose(left[:, 0, 0], right[:, 0, 0])
    assert (looked == 1).all()


def test_dilation_is_the_one_that_the_content_chooses() -> None:
    torch.manual_seed(1)
    layer = ContentAwareDilation(4).eval()
    x = torch.randn(1, 4, 12, 12)
    with torch.inference_mode():
        layer.choose.weight.zero_()
        for k, branch in enumerate(layer.branches):
            layer.choose.bias.copy_(torch.nn.functional.one_hot(torch.tensor(k), 3) * 50.0)
            expected = torch.relu(x + layer.norm(branch(x)))
            assert torch.allclose(layer(x), expected, atol=1e-5)
            assert branch.dilation == (2**k, 2**k)


def test_the_loss_is_that_of_the_paper_and_ignores_unlabelled_cells() -> None:
    evidence = torch.tensor([3.0, 0.5, 0.0]).reshape(1, 3, 1, 1).repeat(1, 1, 1, 2)
    labels = torch.tensor([[[0, 255]]])
    alpha = evidence[0, :, 0, 0].numpy() + 1
    fit = digamma(alpha.sum()) - digamma(alpha[0])
    wrong = [1.0, 1.5, 1.0]  # the true class's evidence removed
    total = sum(wrong)
    kl = gammaln(total) - gammaln(3) - sum(gammaln(a) for a in wrong)
    kl += sum((a - 1) * (digamma(a) - digamma(total)) for a in wrong)
    found = evidential_loss(evidence, labels, torch.ones(1, 1, 2), 0.3)
    assert float(found) == pytest.approx(fit + 0.3 * kl, rel=1e-5)
    weighted = evidential_loss(
        evidence, torch.tensor([[[0, 1]]]), torch.tensor([[[1.0, 3.0]]]), 0.0
    )
    other = digamma(alpha.sum()) - digamma(alpha[1])
    assert float(weighted) == pytest.approx((fit + 3 * other) / 4, rel=1e-5)
    nobody = evidential_loss(evidence, torch.full((1, 1, 2), 255), torch.ones(1, 1, 2), 1.0)
    assert float(nobody) == 0 and math.isfinite(float(nobody))


@pytest.mark.parametrize("part", ["content_aware", "two_stage"])
def test_each_part_can_be_left_out_and_a_typo_is_refused(part: str, network: NearField) -> None:
    assert getattr(network.settings, part)
    lesser = build_near_field({part: False})
    assert isinstance(lesser, NearField) and not getattr(lesser.settings, part)
    with torch.inference_mode():
        evidence, _ = lesser(*inputs())
    assert evidence.shape == (1, 6, 72, 72)
    assert lesser.settings == NearFieldSettings(**{part: False})
    with pytest.raises(ConfigurationError, match="near_field settings"):
        build_near_field({"two_stages": True})
