"""CMX: rectification and fusion of two streams, and the effect of their masks."""

import pytest
import torch

from multimodal_perception.networks.cmx import FeatureFusion, FeatureRectification, MaskToken


def streams(size: tuple[int, int] = (6, 5), channels: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    a, b = torch.randn(2, 2, channels, *size, generator=generator)
    return a, b


def masks(a: float, b: float, size: tuple[int, int] = (6, 5)) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.full((2, 1, *size), a), torch.full((2, 1, *size), b)


def test_rectification_with_zero_weights_adds_half_of_the_other_stream() -> None:
    block = FeatureRectification(8)
    for parameter in block.parameters():
        torch.nn.init.zeros_(parameter)
    a, b = streams()
    # Both sigmoids are 0.5: a + 0.5 * (0.5 b + 0.5 b).
    out = block((a, b), masks(1, 1))
    torch.testing.assert_close(out[0], a + 0.5 * b)
    torch.testing.assert_close(out[1], b + 0.5 * a)


def test_masked_stream_does_not_rectify_the_other() -> None:
    a, b = streams()
    out = FeatureRectification(8)((a, b), masks(1, 0))
    torch.testing.assert_close(out[0], a)
    assert not torch.equal(out[1], b)


def test_pooling_ignores_masked_pixels() -> None:
    a, _ = streams()
    mask = torch.zeros(2, 1, 6, 5)
    mask[..., :2, :] = 1.0
    pooled = FeatureRectification._pool(a, mask, torch.full((16,), 7.0))
    torch.testing.assert_close(pooled[:, :8], a[..., :2, :].mean(dim=(2, 3)))
    torch.testing.assert_close(pooled[:, 8:], a[..., :2, :].amax(dim=(2, 3)))
    none = FeatureRectification._pool(a, torch.zeros_like(mask), torch.full((16,), 7.0))
    assert (none == 7.0).all()


@pytest.mark.parametrize("repeat", [2, 3])
def test_context_is_independent_of_image_size_and_masked_pixels(repeat: int) -> None:
    block = FeatureFusion(8, 2).eval()
    u = torch.rand(1, 30, 8)
    once = block._context(u, torch.ones(1, 30, 1), 0)
    torch.testing.assert_close(
        block._context(u.repeat(1, repeat, 1), torch.ones(1, 30 * repeat, 1), 0), once
    )
    padded = torch.cat([u, torch.full((1, 4, 8), 1e3)], 1)
    mask = torch.cat([torch.ones(1, 30, 1), torch.zeros(1, 4, 1)], 1)
    torch.testing.assert_close(block._context(padded, mask, 0), once)
    torch.testing.assert_close(once.sum(dim=-2), torch.ones_like(once.sum(dim=-2)))  # over the keys


def test_fusion_keeps_the_shape_and_uses_both_streams() -> None:
    block = FeatureFusion(8, 2).eval()
    a, b = streams()
    out = block((a, b), masks(1, 1))
    assert out.shape == a.shape
    assert not torch.allclose(out, block((a, b + 1.0), masks(1, 1)))
    assert not torch.allclose(out, block((a + 1.0, b), masks(1, 1)))


def test_token_replaces_masked_pixels_even_nan() -> None:
    token = MaskToken(8)
    torch.nn.init.constant_(token.token, 2.0)
    a, _ = streams()
    mask = torch.ones(2, 1, 6, 5)
    mask[..., 0, 0] = 0.0
    a[..., 0, 0] = float("nan")
    out = token(a, mask)
    assert (out[..., 0, 0] == 2.0).all() and torch.equal(out[..., 1, :], a[..., 1, :])
