"""TwinLiteNet's activation, that is written out for ONNX Runtime's sake, is torch's own."""

from __future__ import annotations

import torch

from multimodal_perception.networks.twinlitenet import PReLU


def test_the_activation_is_torchs_for_any_slope() -> None:
    ours = PReLU(4)
    with torch.no_grad():
        ours.weight.copy_(torch.tensor([-0.5, 0.0, 0.25, 3.0]))
    theirs = torch.nn.PReLU(4)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 4, 5, 7, generator=torch.Generator().manual_seed(0))
    assert torch.equal(ours(x), theirs(x))
