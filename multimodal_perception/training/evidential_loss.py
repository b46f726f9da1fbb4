"""Loss of networks whose outputs are evidence of classes (Dirichlet distributions).

Sensoy et al. 2018, "Evidential deep learning to quantify classification uncertainty"; Han et al. 2021,
"Trusted multi-view classification" (TMC), section 3.4. The near-field network has a loss of its own
(networks.near_field); no training of this package uses this module.
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


def evidential_loss(evidence: Tensor, truth: Tensor, progress: float) -> Tensor:
    """Mean loss of evidence (N, K) >= 0; 0 without objects.

    The divergence of the evidence of the wrong classes from zero evidence is added with a weight that is
    annealed from 0 to 1. progress: the weight, limited to [0, 1]; 0 at the start of the training.
    """
    if not len(truth):
        return evidence.sum() * 0.0
    true = torch.nn.functional.one_hot(truth, evidence.shape[1]).to(evidence.dtype)
    wrong = 1.0 + evidence * (1.0 - true)
    weight = min(max(progress, 0.0), 1.0)
    loss = expected_cross_entropy(evidence, truth) + weight * divergence_from_uniform(wrong)
    return loss.mean()
