"""The evidential loss against sampled and closed-form values."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from multimodal_perception.training.evidential_loss import (
    annealed,
    divergence_from_uniform,
    evidential_loss,
    expected_cross_entropy,
)


def test_expected_cross_entropy_equals_the_mean_over_samples() -> None:
    alpha = np.array([3.0, 1.5, 1.0])
    samples = np.random.default_rng(0).dirichlet(alpha, 200_000)
    evidence = torch.tensor(alpha - 1.0)[None]
    for label in (0, 1):
        found = expected_cross_entropy(evidence, torch.tensor([label]))
        assert float(found) == pytest.approx(float(-np.log(samples[:, label]).mean()), rel=0.02)


def test_divergence_from_the_uniform_distribution() -> None:
    alpha = torch.tensor([[1.0, 1.0, 1.0], [4.0, 2.0, 1.0]], dtype=torch.float64)
    uniform = torch.distributions.Dirichlet(torch.ones(3, dtype=torch.float64))
    expected = torch.distributions.kl_divergence(torch.distributions.Dirichlet(alpha), uniform)
    assert divergence_from_uniform(alpha).tolist() == pytest.approx(expected.tolist())


def test_the_divergence_only_adds_to_the_cost_of_wrong_evidence() -> None:
    truth = torch.tensor([0])
    wrong, right = torch.tensor([[0.0, 9.0]]), torch.tensor([[9.0, 0.0]])
    assert evidential_loss(wrong, truth, 1.0) > evidential_loss(wrong, truth, 0.0)
    assert evidential_loss(right, truth, 1.0) == evidential_loss(right, truth, 0.0)
    assert evidential_loss(right, truth, 1.0) < evidential_loss(torch.zeros(1, 2), truth, 1.0)


def test_weights_are_those_of_a_mean() -> None:
    evidence, truth = torch.tensor([[3.0, 0.5], [0.5, 2.0]]), torch.tensor([0, 0])
    first, second = (evidential_loss(evidence[k : k + 1], truth[k : k + 1], 0.7) for k in (0, 1))
    weighted = evidential_loss(evidence, truth, 0.7, torch.tensor([1.0, 3.0]))
    assert float(weighted) == pytest.approx(float(first + 3 * second) / 4)
    assert float(evidential_loss(evidence, truth, 0.7, torch.zeros(2))) == 0.0


def test_annealing_is_limited_to_0_and_1() -> None:
    assert [annealed(v) for v in (-1.0, 0.0, 0.25, 1.0, 3.0)] == [0.0, 0.0, 0.25, 1.0, 1.0]


def test_loss_without_objects_is_zero_and_has_a_gradient() -> None:
    evidence = torch.zeros((0, 3), requires_grad=True)
    loss = evidential_loss(evidence, torch.zeros(0, dtype=torch.int64), 0.5)
    loss.backward()
    assert loss.item() == 0.0
