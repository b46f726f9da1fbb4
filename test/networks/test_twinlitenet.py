"""TwinLiteNet's PReLU and folded batch normalisation are equal to those of torch."""

from __future__ import annotations

import pytest
import torch

from multimodal_perception.networks.twinlitenet import PReLU, UpUnit


@pytest.mark.parametrize("slopes", [[-0.5, 0.0, 0.25, 3.0], [-0.5, 0.0, 0.25, 1.0]])
@pytest.mark.parametrize("training", [True, False])
def test_prelu_matches_torch_for_any_slope(slopes: list[float], training: bool) -> None:
    prelu = PReLU(4).eval()  # loading other slopes must reset use_maximum
    expected = torch.nn.PReLU(4)
    with torch.no_grad():
        expected.weight.copy_(torch.tensor(slopes))
    prelu.load_state_dict(expected.state_dict())
    x = torch.randn(2, 4, 5, 7, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(prelu(x), expected(x))
    torch.testing.assert_close(prelu.train(training)(x), expected(x))


def test_folded_normalisation_matches_batch_norm() -> None:
    unit = UpUnit(3, 5).eval()
    generator = torch.Generator().manual_seed(0)
    norm = unit.norm
    assert norm.running_mean is not None and norm.running_var is not None
    with torch.no_grad():
        norm.running_mean.normal_(generator=generator)
        norm.running_var.uniform_(0.2, 3.0, generator=generator)
        norm.weight.normal_(generator=generator)
        norm.bias.normal_(generator=generator)
        x = torch.randn(2, 3, 4, 6, generator=generator)
        torch.testing.assert_close(unit(x), unit.act(norm(unit.conv(x))))
