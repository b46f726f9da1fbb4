"""Gradient balancing: closed forms, no effect where it is off, a training run with each method."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from multimodal_perception.configuration import ConfigurationError, build
from multimodal_perception.training.detector.gradient_balancing import (
    MAX_FACTOR,
    GradientBalancer,
    GradientBalancingConfig,
    equalising_factors,
    shapley,
    subsets,
)
from multimodal_perception.training.detector.train import DetectorTraining, train_proposals
from test.training.detector.tiny_samples import configured
from test.training.detector.tiny_samples import samples as samples


def balancer(**switches: object) -> tuple[GradientBalancer, nn.ModuleDict]:
    """Two branches of one weight each."""
    parts = nn.ModuleDict({n: nn.Linear(1, 1, bias=False) for n in ("lidar", "images")})
    branches = {name: [module] for name, module in parts.items()}
    return GradientBalancer(GradientBalancingConfig(**switches), branches), parts  # type: ignore[arg-type]


def test_losses_of_tasks_are_weighted_to_the_mean_gradient_norm() -> None:
    shared = nn.Parameter(torch.tensor([1.0, 1.0]))
    # Gradients (3, 4) and (0, 1): norms 5 and 1, mean 3, weights 0.6 and 3.
    losses = {"heat": 3 * shared[0] + 4 * shared[1], "box": shared[1].clone()}
    on, _ = balancer(tasks=True)
    total = on.total(losses, shared)
    torch.testing.assert_close(total, torch.tensor(0.6 * 7.0 + 3.0 * 1.0))
    total.backward()
    torch.testing.assert_close(shared.grad, torch.tensor([1.8, 2.4 + 3.0]))
    off, _ = balancer()
    assert float(off.total(losses, shared)) == 8.0
    with torch.no_grad():
        assert float(on.total(losses, shared)) == 8.0  # no gradients in evaluation


def test_a_task_without_gradient_is_left_out() -> None:
    shared, other = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    on, _ = balancer(tasks=True)
    total = on.total({"heat": 2 * shared.sum(), "box": 5 * other.sum()}, shared)
    torch.testing.assert_close(total, torch.tensor(7.0))


def test_factors_are_bounded_and_ignore_unusable_norms() -> None:
    torch.testing.assert_close(
        equalising_factors(torch.tensor([2.0, 6.0])), torch.tensor([2.0, 2 / 3])
    )
    assert equalising_factors(torch.tensor([1e-6, 1.0])).tolist() == pytest.approx(
        [MAX_FACTOR, 0.5], rel=1e-5
    )
    assert equalising_factors(torch.tensor([0.0, 3.0])).tolist() == [1.0, 1.0]
    assert equalising_factors(torch.tensor([math.nan, 3.0])).tolist() == [1.0, 1.0]
    assert equalising_factors(torch.zeros(2)).tolist() == [1.0, 1.0]


def test_gradients_of_branches_are_scaled_to_the_same_norm() -> None:
    on, parts = balancer(modalities=True)
    for name, value in (("lidar", 8.0), ("images", -2.0)):
        parts[name].weight.grad = torch.full((1, 1), value)  # type: ignore[union-attr]
    on.scale()
    assert float(parts["lidar"].weight.grad) == 5.0  # type: ignore[union-attr,arg-type]
    assert float(parts["images"].weight.grad) == -5.0  # type: ignore[union-attr,arg-type]
    off, parts = balancer(tasks=True)
    parts["lidar"].weight.grad = torch.full((1, 1), 8.0)
    off.scale()
    assert float(parts["lidar"].weight.grad) == 8.0  # type: ignore[arg-type]


def test_contributions_are_shapley_values() -> None:
    # The glove game: only 1 with 2, or 1 with 3, is worth something.
    names = ("1", "2", "3")
    worths = {s: float("1" in s and len(s) > 1) for s in subsets(names)}
    torch.testing.assert_close(shapley(names, worths), [2 / 3, 1 / 6, 1 / 6])


def test_agm_slows_a_modality_whose_contribution_has_grown() -> None:
    on, parts = balancer(agm=0.5, agm_interval=10)
    assert on.is_due(0) and on.is_due(20) and not on.is_due(5)
    losses = {frozenset(): 4.0, frozenset({"lidar"}): 2.0, frozenset({"images"}): 4.0}
    losses[frozenset({"lidar", "images"})] = 2.0
    on.measure(lambda names: torch.tensor(losses[names]))
    assert on.factors.tolist() == [1.0, 1.0]  # the first measurement is the mean
    # The LiDAR saved 2 of 4, of a loss of 2: shares 1 and 0, r is e and 1/e. Now images save 1 as well.
    losses[frozenset({"images"})], losses[frozenset({"lidar", "images"})] = 3.0, 1.0
    on.measure(lambda names: torch.tensor(losses[names]))
    # Contributions 2 and 1 of a loss of 1: r is e and 1/e again, the mean.
    torch.testing.assert_close(on.factors, torch.ones(2))
    losses[frozenset({"images"})], losses[frozenset({"lidar"})] = 2.0, 3.0
    on.measure(lambda names: torch.tensor(losses[names]))
    # Contributions 1 and 2: r is 1/e and e; the mean log ratio has fallen to (1 + 1 - 1) / 3.
    low, high = math.exp(-1), math.exp(1)
    expected = [
        math.exp(-0.5 * (low - math.exp(1 / 3))),
        math.exp(-0.5 * (high - math.exp(-1 / 3))),
    ]
    torch.testing.assert_close(on.factors, torch.tensor(expected))
    assert on.factors[0] > 1 > on.factors[1]
    parts["images"].weight.grad = torch.ones(1, 1)
    on.scale()
    torch.testing.assert_close(parts["images"].weight.grad, on.factors[1].reshape(1, 1))
    again, _ = balancer(agm=0.5, agm_interval=10)
    again.load_state_dict(on.state_dict())
    torch.testing.assert_close(again.factors, on.factors)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"gradient_balancing": {"modalities": True, "agm": 1.0}}, "choose one"),
        (
            {"stage": "refinement", "gradient_balancing": {"tasks": True}},
            "only available in the stage proposals",
        ),
        (
            {"network": {"global_fusion": False}, "gradient_balancing": {"modalities": True}},
            "require network.global_fusion",
        ),
        ({"gradient_balancing": {"agm": -1.0}}, r"gradient_balancing\.agm: allowed: 0"),
    ],
)
def test_contradicting_settings_are_refused(values: dict, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        build(DetectorTraining, values, "t.yaml")


def test_each_method_changes_a_training_and_no_method_does_not(
    samples: Path, tmp_path: Path
) -> None:
    def trained(name: str, steps: int = 2, **switches: object) -> list[torch.Tensor]:
        config = dataclasses.replace(
            configured("proposals", steps),
            gradient_balancing=GradientBalancingConfig(**switches),  # type: ignore[arg-type]
        )
        return list(train_proposals(config, samples, tmp_path / name).parameters())

    plain = trained("plain")
    off = trained("off", agm_interval=3)
    assert all(torch.equal(a, b) for a, b in zip(plain, off, strict=True))
    for name, switches in (
        ("tasks", {"tasks": True}),
        ("modalities", {"modalities": True}),
        ("agm", {"agm": 1.0, "agm_interval": 1}),
    ):
        parameters = trained(name, **switches)  # type: ignore[arg-type]
        assert all(bool(p.isfinite().all()) for p in parameters)
        assert not all(torch.equal(a, b) for a, b in zip(plain, parameters, strict=True))
    state = torch.load(tmp_path / "agm" / "checkpoint.pt", weights_only=True)
    assert int(state["gradient_balancing"]["measurements"]) == 2
