"""MoE-Fusion: image sizes, gates that select two experts, and card settings."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from multimodal_perception.configuration import UserError
from multimodal_perception.networks.moe_fusion import CHANNELS, EXPERTS, Gate, MoEFusion, build


@pytest.fixture(scope="module")
def network() -> MoEFusion:
    torch.manual_seed(0)
    return MoEFusion().eval()


@settings(max_examples=15)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 3))
def test_any_even_size_is_supported(rows: int, columns: int, batch: int) -> None:
    torch.manual_seed(0)
    with torch.inference_mode():
        result = MoEFusion().eval()(*torch.rand(2, batch, 1, 2 * rows, 2 * columns))
    assert result.fused.shape == (batch, 1, 2 * rows, 2 * columns)
    assert result.attention.shape == (batch, 1, rows, columns)
    assert torch.isfinite(result.fused).all()


def test_images_of_a_batch_are_independent(network: MoEFusion) -> None:
    visible, thermal = torch.rand(2, 3, 1, 16, 24)
    with torch.inference_mode():
        together = network(visible, thermal).fused
        single = [network(visible[k : k + 1], thermal[k : k + 1]).fused for k in range(3)]
    torch.testing.assert_close(together, torch.cat(single))


def test_both_images_affect_the_output(network: MoEFusion) -> None:
    visible, thermal = torch.rand(2, 1, 1, 16, 16)
    first = network(visible, thermal).fused
    assert (network(visible.flip(3), thermal).fused - first).abs().max() > 1e-2
    assert (network(visible, thermal.flip(3)).fused - first).abs().max() > 1e-2


@pytest.mark.parametrize("training", [True, False])
def test_gate_selects_two_experts(training: bool) -> None:
    torch.manual_seed(1)
    gate = Gate(8).train(training)
    weights, balance = gate(torch.randn(32, 8))
    assert weights.shape == (32, EXPERTS)
    assert ((weights > 0).sum(1) == 2).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(32))
    assert (balance > 0) == training


def test_balanced_gate_has_a_lower_loss_than_a_constant_one() -> None:
    torch.manual_seed(2)
    balanced, constant = Gate(4).train(), Gate(4).train()
    torch.nn.init.eye_(balanced.score.weight)
    torch.nn.init.zeros_(balanced.score.bias)
    torch.nn.init.zeros_(constant.score.weight)
    constant.score.bias.data = torch.tensor([9.0, 6.0, 0.0, 0.0])
    pooled = 5 * torch.eye(4).repeat(16, 1)
    assert balanced(pooled)[1] < 0.5 * constant(pooled)[1]


def test_network_built_from_a_card_clamps_its_output() -> None:
    network = build({"channels": 8}).eval()
    with torch.inference_mode():
        fused = network(50 * torch.rand(1, 1, 8, 8), torch.rand(1, 1, 8, 8))
    assert fused.min() >= 0 and fused.max() <= 1
    assert build({}).network.channels == CHANNELS


@pytest.mark.parametrize("bad", [{"channels": 1}, {"channels": "16"}, {"depth": 3}])
def test_invalid_settings_raise(bad: dict[str, object]) -> None:
    with pytest.raises(UserError, match="allowed: channels"):
        build(bad)
