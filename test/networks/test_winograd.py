"""The Winograd convolution is equal to the direct convolution."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from multimodal_perception.networks.twinlitenet import WinogradUnit
from multimodal_perception.networks.winograd import TILE, winograd_conv3x3


@given(
    batch=st.integers(1, 3),
    inputs=st.integers(1, 5),
    outputs=st.integers(1, 5),
    tiles=st.integers(1, 4),
    width=st.integers(1, 9),
    seed=st.integers(0, 2**32 - 1),
)
def test_winograd_matches_torch(
    batch: int, inputs: int, outputs: int, tiles: int, width: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, inputs, TILE * tiles, width, generator=generator)
    weight = torch.randn(outputs, inputs, 3, 3, generator=generator)
    bias = torch.randn(outputs, generator=generator)
    exact = F.conv2d(x.double(), weight.double(), bias.double(), padding=1)
    torch.testing.assert_close(
        winograd_conv3x3(x, weight, bias).double(), exact, atol=2e-4, rtol=0.0
    )


@pytest.mark.parametrize("height", [TILE * 2, TILE * 2 + 1])
def test_unit_supports_heights_that_are_not_multiples_of_the_tile(height: int) -> None:
    generator = torch.Generator().manual_seed(0)
    unit = WinogradUnit(3, 4, 3).eval()
    norm = unit.norm
    assert norm.running_mean is not None and norm.running_var is not None
    with torch.no_grad():
        norm.running_mean.normal_(generator=generator)
        norm.running_var.uniform_(0.2, 3.0, generator=generator)
        norm.bias.normal_(generator=generator)
        x = torch.randn(1, 3, height, 5, generator=generator)
        torch.testing.assert_close(unit(x), unit.act(norm(unit.conv(x))), atol=1e-4, rtol=1e-4)
