"""MoE-Fusion: sizes, gates of two experts, settings of a card."""

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
def test_any_even_size_goes(rows: int, columns: int, batch: int) -> None:
    torch.manual_seed(0)
    with torch.inference_mode():
        result = MoEFusion().eval()(*torch.rand(2, batch, 1, 2 * rows, 2 * columns))
    assert result.fused.shape == (batch, 1, 2 * rows, 2 * columns)
    assert result.attention.shape == (batch, 1, rows, columns)
    assert torch.isfinite(result.fused).all()


def test_each_image_of_a_batch_is_fused_as_if_alone(network: MoEFusion) -> None:
    visible, thermal = torch.rand(2, 3, 1, 16, 24)
    with torch.inference_mode():
        together = network(visible, thermal).fused
        alone = [network(visible[k : k + 1], thermal[k : k + 1]).fused for k in range(3)]
    torch.testing.assert_close(together, torch.cat(alone))


def test_both_images_count(network: MoEFusion) -> None:
    visible, thermal = torch.rand(2, 1, 1, 16, 16)
    first = network(visible, thermal).fused
    assert (network(visible.flip(3), thermal).fused - first).abs().max() > 1e-2
    assert (network(visible, thermal.flip(3)).fused - first).abs().max() > 1e-2


@pytest.mark.parametrize("training", [True, False])
def test_a_gate_chooses_two_experts(training: bool) -> None:
    torch.manual_seed(1)
    gate = Gate(8).train(training)
    weights, balance = gate(torch.randn(32, 8))
    assert weights.shape == (32, EXPERTS)
    assert ((weights > 0).sum(1) == 2).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(32))
    assert (balance > 0) == training


def test_a_balanced_gate_costs_less_than_one_that_always_chooses_the_same() -> None:
    torch.manual_seed(2)
    even, lopsided = Gate(4).train(), Gate(4).train()
    torch.nn.init.eye_(even.score.weight)
    torch.nn.init.zeros_(even.score.bias)
    torch.nn.init.zeros_(lopsided.score.weight)
    lopsided.score.bias.data = torch.tensor([9.0, 6.0, 0.0, 0.0])
    pooled = 5 * torch.eye(4).repeat(16, 1)
    assert even(pooled)[1] < 0.5 * lopsided(pooled)[1]


def test_a_card_builds_it_and_what_runs_stays_within_the_range() -> None:
    network = build({"channels": 8}).eval()
    with torch.inference_mode():
        fused = network(50 * torch.rand(1, 1, 8, 8), torch.rand(1, 1, 8, 8))
    assert fused.min() >= 0 and fused.max() <= 1
    assert build({}).network.channels == CHANNELS


@pytest.mark.parametrize("bad", [{"channels": 1}, {"channels": "16"}, {"depth": 3}])
def test_other_settings_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(UserError, match="allowed: channels"):
        build(bad)
