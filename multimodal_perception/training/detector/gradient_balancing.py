"""Balancing of the gradients of tasks and modalities, so that none dominates the training.

FULLER (Huang et al. 2023) balances tasks at the last layer that they share (inter-gradient) and
modalities in their branches before the fusion (intra-gradient). Adaptive gradient modulation (AGM, Li
et al. 2023) slows the training of a modality whose contribution has grown relative to the others. All
ranks of a distributed training compute the same factors.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from multimodal_perception.training.distributed import mean_over_ranks

# Factors lie between 1 / MAX_FACTOR and MAX_FACTOR, so that gradients near zero are not amplified
# further.
MAX_FACTOR = 10.0
EPSILON = 1e-12


@dataclass(frozen=True)
class GradientBalancingConfig:
    """Methods of gradient balancing; all are off by default.

    Attributes:
        tasks: Scale the losses so that their gradients at the last shared layer have the same norm
            (FULLER's inter-gradient calibration). Enable it when one task dominates.
        modalities: Scale the gradients of the modalities' branches to the same norm (FULLER's
            intra-gradient calibration). Enable it when one modality dominates; not together with agm.
        agm: Strength (alpha) of adaptive gradient modulation. Increase it when one modality learns
            faster than the others, set 0 to disable it.
        agm_interval: Steps between two measurements of adaptive gradient modulation, each of which
            takes one forward pass for every subset of the modalities, four for two. Increase it to save
            time.
    """

    tasks: bool = False
    modalities: bool = False
    agm: float = field(default=0.0, metadata={"min": 0.0, "max": 10.0})
    agm_interval: int = field(default=20, metadata={"min": 1, "max": 100_000})

    def __post_init__(self) -> None:
        if self.modalities and self.agm:
            raise ValueError("modalities and agm both scale the branches: choose one")

    @property
    def any(self) -> bool:
        return self.tasks or self.modalities or self.agm > 0


class GradientBalancer(nn.Module):
    """The gradient balancing of one training. Its state is part of the checkpoint."""

    factors: Tensor
    mean_log_ratio: Tensor
    measurements: Tensor

    def __init__(
        self, config: GradientBalancingConfig, branches: Mapping[str, Sequence[nn.Module]]
    ) -> None:
        """branches: the modules of each modality that no other modality passes through."""
        super().__init__()
        self.config = config
        self.names = list(branches)
        self._parameters_of = {
            name: [p for module in modules for p in module.parameters() if p.requires_grad]
            for name, modules in branches.items()
        }
        self.register_buffer("factors", torch.ones(len(self.names)))
        self.register_buffer("mean_log_ratio", torch.zeros(len(self.names)))
        self.register_buffer("measurements", torch.zeros((), dtype=torch.int64))

    def total(self, losses: Mapping[str, Tensor], shared: Tensor) -> Tensor:
        """The sum of the losses of the tasks.

        With `tasks`, each loss is weighted so that the norm of its gradient at the parameter `shared` is
        the mean of the norms.
        """
        if not self.config.tasks or not torch.is_grad_enabled():
            return torch.stack([v.float() for v in losses.values()]).sum()
        norms = []
        for loss in losses.values():
            (gradient,) = torch.autograd.grad(loss, shared, retain_graph=True, allow_unused=True)
            norms.append(loss.new_zeros(()) if gradient is None else gradient.float().norm())
        weights = equalising_factors(mean_over_ranks(torch.stack(norms).float()))
        return sum(
            (w * v for w, v in zip(weights, losses.values(), strict=True)), weights.sum() * 0
        )

    def scale(self) -> None:
        """Scale the gradients of the branches, after they have been averaged over all ranks."""
        if self.config.modalities:
            norms = [
                _gradient_norm(parameters, self.factors.device)
                for parameters in self._parameters_of.values()
            ]
            self.factors.copy_(equalising_factors(torch.stack(norms)))
        elif not self.config.agm:
            return
        for factor, parameters in zip(self.factors, self._parameters_of.values(), strict=True):
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad *= factor.to(parameter.grad.device)

    def is_due(self, step: int) -> bool:
        """Whether adaptive gradient modulation measures at this step."""
        return self.config.agm > 0 and step % self.config.agm_interval == 0

    @torch.no_grad()
    def measure(self, loss_with: Callable[[frozenset[str]], Tensor]) -> None:
        """Measure the contribution of each modality and compute the factors of their gradients.

        loss_with: the loss of a batch with these modalities only. The contribution of a modality is the
        Shapley value of the reduction of the loss, relative to the loss with all modalities. With r =
        exp(contribution - mean contribution of the others) and tau the running (geometric) mean of r,
        its factor is exp(-alpha (r - tau)).
        """
        losses = {names: float(loss_with(names)) for names in subsets(self.names)}
        full_loss = max(abs(losses[frozenset(self.names)]), EPSILON)
        values = shapley(self.names, {names: -loss / full_loss for names, loss in losses.items()})
        contributions = mean_over_ranks(torch.tensor(values, device=self.factors.device))
        others = (contributions.sum() - contributions) / max(len(self.names) - 1, 1)
        limit = math.log(MAX_FACTOR)
        log_ratio = (contributions - others).nan_to_num(0.0).clamp(-limit, limit)
        self.measurements += 1
        self.mean_log_ratio += (log_ratio - self.mean_log_ratio) / self.measurements
        difference = log_ratio.exp() - self.mean_log_ratio.exp()
        self.factors.copy_((-self.config.agm * difference).exp().clamp(1 / MAX_FACTOR, MAX_FACTOR))


def subsets(names: Sequence[str]) -> list[frozenset[str]]:
    """All subsets of names, including the empty one."""
    sizes = range(len(names) + 1)
    return [frozenset(c) for size in sizes for c in itertools.combinations(names, size)]


def shapley(names: Sequence[str], worths: Mapping[frozenset[str], float]) -> list[float]:
    """The Shapley value of each name: its mean gain over all orders of joining. worths: of subsets."""
    values = []
    for name in names:
        value = 0.0
        for chosen, worth in worths.items():
            if name not in chosen:
                weight = math.factorial(len(chosen)) * math.factorial(len(names) - len(chosen) - 1)
                value += weight * (worths[chosen | {name}] - worth) / math.factorial(len(names))
        values.append(value)
    return values


def equalising_factors(norms: Tensor) -> Tensor:
    """Factors (K,) that scale norms (K,) to their mean, limited to MAX_FACTOR.

    A norm that is zero or not finite is left out of the mean and gets the factor 1.
    """
    usable = norms.isfinite() & (norms > EPSILON)
    if not bool(usable.any()):
        return torch.ones_like(norms)
    factors = (norms[usable].mean() / norms.clamp(min=EPSILON)).clamp(1 / MAX_FACTOR, MAX_FACTOR)
    return torch.where(usable, factors, torch.ones_like(norms))


def _gradient_norm(parameters: Sequence[Tensor], device: torch.device) -> Tensor:
    norms = [p.grad.float().norm() for p in parameters if p.grad is not None]
    return torch.stack(norms).norm() if norms else torch.zeros((), device=device)
