"""Loss of networks whose outputs are evidence of classes (Dirichlet distributions).

Sensoy et al. 2018, "Evidential deep learning to quantify classification uncertainty"; Han et al. 2021,
"Trusted multi-view classification" (TMC), section 3.4, equations 8 to 10.
"""

from __future__ import annotations

import torch
from torch import Tensor


def expected_cross_entropy(evidence: Tensor, truth: Tensor) -> Tensor:
    """Expectation (N,) of the cross entropy under the Dirichlet distributions of evidence (N, K).

    With alpha = evidence + 1 and S = sum of alpha: digamma(S) - digamma(alpha) of the true class. truth:
    (N,) class indices.
    """
    alpha = evidence + 1.0
    chosen = alpha.gather(1, truth[:, None])[:, 0]
    return torch.digamma(alpha.sum(1)) - torch.digamma(chosen)


def divergence_from_uniform(alpha: Tensor) -> Tensor:
    """Kullback-Leibler divergence (N,) of Dirichlet distributions alpha (N, K) from the uniform one."""
    total, classes = alpha.sum(1), alpha.shape[1]
    log_beta = torch.lgamma(total) - torch.lgamma(alpha).sum(1)
    log_beta = log_beta - torch.lgamma(torch.tensor(float(classes), dtype=alpha.dtype))
    difference = torch.digamma(alpha) - torch.digamma(total)[:, None]
    return log_beta + ((alpha - 1.0) * difference).sum(1)


def evidential_loss(
    evidence: Tensor, truth: Tensor, divergence_weight: float, weights: Tensor | None = None
) -> Tensor:
    """Weighted mean loss of evidence (N, K) >= 0; 0 without objects.

    The divergence of the evidence of the wrong classes from zero evidence is added. truth: (N,) class
    indices. divergence_weight: its weight, 0 to 1; trainings anneal it from 0. weights: (N,), None for
    equal ones.
    """
    if not len(truth):
        return evidence.sum() * 0.0
    true = torch.nn.functional.one_hot(truth, evidence.shape[1]).to(evidence.dtype)
    wrong = 1.0 + evidence * (1.0 - true)
    loss = expected_cross_entropy(evidence, truth)
    loss = loss + divergence_weight * divergence_from_uniform(wrong)
    if weights is None:
        return loss.mean()
    return (weights * loss).sum() / weights.sum().clamp(min=1e-6)


def annealed(progress: float) -> float:
    """Weight of the divergence at a progress of the annealing from 0 to 1; limited to that range."""
    return min(max(progress, 0.0), 1.0)
