"""TwinLiteNet's activation, that is written out for ONNX Runtime's sake, is torch's own."""

from __future__ import annotations

import torch

from multimodal_perception.networks.twinlitenet import PReLU, UpUnit


def test_the_activation_is_torchs_for_any_slope() -> None:
    ours = PReLU(4)
    with torch.no_grad():
        ours.weight.copy_(torch.tensor([-0.5, 0.0, 0.25, 3.0]))
    theirs = torch.nn.PReLU(4)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 4, 5, 7, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours(x), theirs(x))


def test_the_folded_normalisation_is_the_normalisation() -> None:
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
