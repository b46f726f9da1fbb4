"""DEYOLO: channel and pixel enhancement between two streams, and the bi-directional focus."""

from __future__ import annotations

import pytest
import torch

from multimodal_perception.networks.deyolo import (
    BidirectionalFocus,
    ChannelEnhancement,
    PixelEnhancement,
)


def streams(channels: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    a, b = torch.randn(2, 2, channels, 8, 12, generator=generator)
    return a, b


def masks(a: float = 1.0, b: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.full((2, 1, 8, 12), a), torch.full((2, 1, 8, 12), b)


def zero_weights(module: torch.nn.Module) -> torch.nn.Module:
    for parameter in module.parameters():
        torch.nn.init.zeros_(parameter)
    return module.eval()


@torch.no_grad()
def test_channels_are_weighted_by_the_other_stream() -> None:
    block = zero_weights(ChannelEnhancement(8))
    block.mixture[-1].bias.data.fill_(2.0)  # the mixture: 2 for each channel
    a, b = streams()
    # The MLP with zero weights gives 0.5: sigmoid(0.5 * 2).
    weight = torch.sigmoid(torch.tensor(1.0))
    out = block((a, b), masks())
    torch.testing.assert_close(out[0], a * weight)
    torch.testing.assert_close(out[1], b * weight)
    # Strong features in the thermal stream enhance the visible one, but not the other way round.
    block.channel_mlp[2].weight.data.fill_(10.0)
    block.channel_mlp[0].bias.data.fill_(-0.5)
    block.channel_mlp[0].weight.data.fill_(1.0)
    strong = torch.ones_like(b)
    enhanced = block((torch.zeros_like(a) + 0.01, strong), masks())
    assert (enhanced[0] / 0.01).min() > 0.85 and enhanced[1].max() < 0.75


@torch.no_grad()
def test_missing_stream_is_replaced_by_its_token() -> None:
    torch.manual_seed(0)
    block = ChannelEnhancement(8).eval()
    a, b = streams()
    mask = masks(b=0.0)
    same = torch.zeros_like(b)
    expected = block((a, same), mask)[0]
    block.missing_token.data[1] = 5.0
    assert not torch.allclose(block((a, same), mask)[0], expected)
    full = block((a, same), masks())[0]  # not missing: the token is not used
    block.missing_token.data[1] = -5.0
    torch.testing.assert_close(block((a, same), masks())[0], full)


@torch.no_grad()
def test_pixels_are_weighted_by_the_other_stream() -> None:
    block = zero_weights(PixelEnhancement(8))
    a, b = streams()
    # sigmoid(0) for both, sigmoid(0.5 + 0) for each.
    weight = torch.sigmoid(torch.tensor(0.5))
    out = block((a, b))
    torch.testing.assert_close(out[0], a * weight)
    torch.testing.assert_close(out[1], b * weight)
    # A position that is salient only in the second stream is enhanced only in the first.
    block.small_kernel[1].weight.data[:, :, 1, 1] = 1.0
    block.combine[1].weight.data[:, 0, 2, 2] = 1.0
    spot = torch.zeros(1, 8, 8, 12)
    spot[..., 4, 6] = 1.0
    first, second = block((torch.ones_like(spot), spot))
    assert first[0, 0, 4, 6] > 0.99 and first[0, 0, 1, 1] == pytest.approx(weight.item())
    assert second[0, 0, 4, 6] == pytest.approx(weight.item())


@torch.no_grad()
def test_focus_starts_as_identity_and_doubles_the_receptive_field_along_each_axis() -> None:
    block = BidirectionalFocus(8)
    a, _ = streams()
    torch.testing.assert_close(block.eval()(a), a)
    torch.nn.init.ones_(block.mix[-1].weight)
    for conv in (block.along_rows, block.along_columns, block.mix[2]):
        torch.nn.init.ones_(conv.weight)
    x = torch.zeros(1, 8, 16, 16)
    x[..., 8, 8] = 1.0
    affected = (block(x) - x)[0, 0] > 0
    rows, columns = torch.nonzero(affected, as_tuple=True)
    # A 3x3 kernel on every second pixel: two pixels along one axis, one along the other.
    assert (columns[rows == 8] - 8).tolist() == [-2, -1, 0, 1, 2]
    assert (rows[columns == 8] - 8).tolist() == [-2, -1, 0, 1, 2]
    assert not affected[6, 6] and affected[7, 6] and affected[6, 7]


@torch.no_grad()
def test_focus_keeps_the_order_of_pixels() -> None:
    block = BidirectionalFocus(4)
    for conv in (block.along_rows, block.along_columns):
        torch.nn.init.zeros_(conv.weight)
        conv.weight.data[:, :, 1, 1] = 1.0
    x = torch.rand(1, 4, 6, 10)
    mix_inputs = []
    block.mix.register_forward_pre_hook(lambda module, inputs: mix_inputs.append(inputs[0]))
    block.eval()(x)
    torch.testing.assert_close(mix_inputs[0], torch.cat([x, x], 1))
