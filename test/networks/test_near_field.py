"""The near-field network: masks of missing sensors, sampling, content-aware dilation, and the loss."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from multimodal_perception.configuration import ConfigurationError
from multimodal_perception.networks.near_field import (
    ContentAwareDilation,
    NearField,
    NearFieldSettings,
    build_near_field,
)


@pytest.fixture(scope="module")
def network() -> Iterator[NearField]:
    # With untrained weights, features become denormal numbers, which slow down the CPU.
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    yield NearField().eval()
    torch.set_flush_denormal(False)  # do not affect other tests


def inputs(seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(1, 4, 3, 112, 192, generator=generator)
    sample_uv = 2 * torch.rand(1, 4, 2, 72, 72, 2, generator=generator) - 1
    ultrasonic_grid = torch.rand(1, 5, 72, 72, generator=generator)
    return [images, sample_uv, ultrasonic_grid, torch.ones(1)]


def test_inputs_of_missing_sensors_have_no_effect(network: NearField) -> None:
    images, sample_uv, ultrasonic_grid, _ = inputs()
    sample_uv[:, 2] = -2.0  # the third camera is absent
    other = images.clone()
    other[:, 2] = 100.0
    with torch.inference_mode():
        first, camera_count = network(images, sample_uv, ultrasonic_grid, torch.ones(1))
        second, _ = network(other, sample_uv, ultrasonic_grid, torch.ones(1))
        assert torch.equal(first, second)
        assert camera_count.max() == 3
        without_ultrasonic, _ = network(images, sample_uv, ultrasonic_grid, torch.zeros(1))
        masked_ultrasonic, _ = network(images, sample_uv, 7 * ultrasonic_grid, torch.zeros(1))
        assert torch.equal(without_ultrasonic, masked_ultrasonic)
        assert not torch.allclose(without_ultrasonic, first)
        sample_uv[:] = -2.0
        without_cameras, camera_count = network(images, sample_uv, ultrasonic_grid, torch.ones(1))
        masked_cameras, _ = network(-images, sample_uv, ultrasonic_grid, torch.ones(1))
        assert torch.equal(without_cameras, masked_cameras) and not camera_count.any()
    assert first.shape == (1, 6, 72, 72) and (first >= 0).all()


def test_cell_gets_the_feature_of_its_pixel(network: NearField) -> None:
    # One camera with a dark left and a bright right half; each cell is in one of the halves.
    images, sample_uv, _, _ = inputs()
    sample_uv[:] = -2.0
    sample_uv[:, 0, :, :, :36] = torch.tensor([-0.5, 0.0])
    sample_uv[:, 0, :, :, 36:] = torch.tensor([0.5, 0.0])
    images[:, 0] = -1.0
    images[:, 0, :, :, 96:] = 1.0
    with torch.inference_mode():
        fine, coarse = network.backbone(images[0])
        lifted, camera_count = network._lift(fine[None], coarse[None], sample_uv)
    left, right = lifted[0, :48, :, :36], lifted[0, :48, :, 36:]
    assert torch.allclose(left, left[:, :1, :1].expand_as(left), atol=1e-5)
    assert torch.allclose(right, right[:, :1, :1].expand_as(right), atol=1e-5)
    assert not torch.allclose(left[:, 0, 0], right[:, 0, 0])
    assert (camera_count == 1).all()


def test_dilation_follows_the_predicted_weights() -> None:
    torch.manual_seed(1)
    layer = ContentAwareDilation(4).eval()
    x = torch.randn(1, 4, 12, 12)
    with torch.inference_mode():
        layer.dilation_logits.weight.zero_()
        for k, branch in enumerate(layer.branches):
            layer.dilation_logits.bias.copy_(torch.nn.functional.one_hot(torch.tensor(k), 3) * 50.0)
            expected = torch.relu(x + layer.norm(branch(x)))
            assert torch.allclose(layer(x), expected, atol=1e-5)
            assert branch.dilation == (2**k, 2**k)


@pytest.mark.parametrize("part", ["content_aware", "two_stage"])
def test_each_part_can_be_disabled_and_unknown_settings_raise(
    part: str, network: NearField
) -> None:
    assert getattr(network.settings, part)
    reduced = build_near_field({part: False})
    assert isinstance(reduced, NearField) and not getattr(reduced.settings, part)
    with torch.inference_mode():
        evidence, _ = reduced(*inputs())
    assert evidence.shape == (1, 6, 72, 72)
    assert reduced.settings == NearFieldSettings(**{part: False})
    with pytest.raises(ConfigurationError, match="near_field settings"):
        build_near_field({"two_stages": True})
