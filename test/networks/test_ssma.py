"""SSMA gated fusion."""

import torch

from multimodal_perception.networks.ssma import GatedFusion


def test_gates_of_zero_and_one() -> None:
    block = GatedFusion(4, 6).eval()
    a, b = torch.randn(2, 1, 4, 5, 5)
    last = block.gate[2]
    torch.nn.init.zeros_(last.weight)
    torch.nn.init.constant_(last.bias, -100.0)
    closed = block((a, b))
    torch.testing.assert_close(closed, block((a + 3.0, b - 2.0)))
    torch.nn.init.constant_(last.bias, 100.0)
    torch.testing.assert_close(block((a, b)), block.out(torch.cat([a, b], 1)))
