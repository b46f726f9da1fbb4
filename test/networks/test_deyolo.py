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


def blank(module: torch.nn.Module) -> torch.nn.Module:
    for parameter in module.parameters():
        torch.nn.init.zeros_(parameter)
    return module.eval()


@torch.no_grad()
def test_channels_are_weighed_by_the_other_stream() -> None:
    block = blank(ChannelEnhancement(8))
    block.mixed[-1].bias.data.fill_(2.0)  # what both say: 2 for each channel
    a, b = streams()
    # The MLP without weights says a half: sigmoid(0.5 * 2).
    half = torch.sigmoid(torch.tensor(1.0))
    out = block((a, b), masks())
    torch.testing.assert_close(out[0], a * half)
    torch.testing.assert_close(out[1], b * half)
    # Where the thermal stream is found to matter, the visible one is raised, and the other way not.
    block.own[2].weight.data.fill_(10.0)
    block.own[0].bias.data.fill_(-0.5)
    block.own[0].weight.data.fill_(1.0)
    strong = torch.ones_like(b)
    raised = block((torch.zeros_like(a) + 0.01, strong), masks())
    assert (raised[0] / 0.01).min() > 0.85 and raised[1].max() < 0.75


@torch.no_grad()
def test_a_missing_stream_weighs_by_its_token_and_what_it_holds_does_not_count() -> None:
    torch.manual_seed(0)
    block = ChannelEnhancement(8).eval()
    a, b = streams()
    mask = masks(b=0.0)
    same = torch.zeros_like(b)
    expected = block((a, same), mask)[0]
    block.absent.data[1] = 5.0
    assert not torch.allclose(block((a, same), mask)[0], expected)
    full = block((a, same), masks())[0]  # not missing: the token is not asked
    block.absent.data[1] = -5.0
    torch.testing.assert_close(block((a, same), masks())[0], full)


@torch.no_grad()
def test_pixels_are_weighed_by_the_other_stream() -> None:
    block = blank(PixelEnhancement(8))
    a, b = streams()
    # sigmoid(0) for both, sigmoid(0.5 + 0) for each.
    weight = torch.sigmoid(torch.tensor(0.5))
    out = block((a, b))
    torch.testing.assert_close(out[0], a * weight)
    torch.testing.assert_close(out[1], b * weight)
    # A place that only the second stream finds important is raised in the first one alone.
    block.near[1].weight.data[:, :, 1, 1] = 1.0
    block.own[1].weight.data[:, 0, 2, 2] = 1.0
    spot = torch.zeros(1, 8, 8, 12)
    spot[..., 4, 6] = 1.0
    first, second = block((torch.ones_like(spot), spot))
    assert first[0, 0, 4, 6] > 0.99 and first[0, 0, 1, 1] == pytest.approx(weight.item())
    assert second[0, 0, 4, 6] == pytest.approx(weight.item())


@torch.no_grad()
def test_the_focus_begins_as_the_identity_and_reaches_twice_as_far_along_each_axis() -> None:
    block = BidirectionalFocus(8)
    a, _ = streams()
    torch.testing.assert_close(block.eval()(a), a)
    torch.nn.init.ones_(block.mix[-1].weight)
    for conv in (block.along_rows, block.along_columns, block.mix[2]):
        torch.nn.init.ones_(conv.weight)
    x = torch.zeros(1, 8, 16, 16)
    x[..., 8, 8] = 1.0
    reached = (block(x) - x)[0, 0] > 0
    rows, columns = torch.nonzero(reached, as_tuple=True)
    # A kernel of 3 among every second pixel: two away along one axis, one along the other.
    assert (columns[rows == 8] - 8).tolist() == [-2, -1, 0, 1, 2]
    assert (rows[columns == 8] - 8).tolist() == [-2, -1, 0, 1, 2]
    assert not reached[6, 6] and reached[7, 6] and reached[6, 7]


@torch.no_grad()
def test_the_focus_loses_no_pixel_and_swaps_none() -> None:
    block = BidirectionalFocus(4)
    for conv in (block.along_rows, block.along_columns):
        torch.nn.init.zeros_(conv.weight)
        conv.weight.data[:, :, 1, 1] = 1.0
    x = torch.rand(1, 4, 6, 10)
    seen = []
    block.mix.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    block.eval()(x)
    torch.testing.assert_close(seen[0], torch.cat([x, x], 1))
