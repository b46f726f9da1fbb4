"""Gradients of tasks and of modalities brought to one level, so that none drowns the others.

FULLER (Huang et al. 2023): between tasks at the last layer that they share (inter-gradient), between the
modalities' branches before they meet (intra-gradient). Adaptive gradient modulation (Li et al. 2023): a
modality that tells more than it used to, beside the others, learns more slowly. Every rank of a
distributed training comes to the same factors.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

# Factors stay within this of 1 either way: a gradient near zero must not be blown up without end.
MOST = 10.0
TINY = 1e-12
Parts = Mapping[str, Sequence[nn.Module]]


@dataclass(frozen=True)
class CalibrationConfig:
    """Which calibrations run; all are off.

    inter: tasks at their last shared layer. intra: the modalities' branches. modulation: strength
    (alpha) of adaptive gradient modulation, 0 is none; every: steps between its measurements, each of
    which costs a forward pass for every set of modalities, of two that is four.
    """

    inter: bool = False
    intra: bool = False
    modulation: float = field(default=0.0, metadata={"min": 0.0, "max": 10.0})
    every: int = field(default=20, metadata={"min": 1, "max": 100_000})

    def __post_init__(self) -> None:
        if self.intra and self.modulation:
            raise ValueError("intra and modulation both scale the branches: choose one")

    @property
    def any(self) -> bool:
        return self.inter or self.intra or self.modulation > 0


class GradientCalibration(nn.Module):
    """The calibrations of one training. What it remembers is its state, so that it can be resumed."""

    factors: Tensor
    usual: Tensor
    measured: Tensor

    def __init__(self, config: CalibrationConfig, branches: Parts) -> None:
        """branches: the modules of each modality, which no other uses."""
        super().__init__()
        self.config = config
        self.names = list(branches)
        self._parts = {
            name: [p for module in modules for p in module.parameters() if p.requires_grad]
            for name, modules in branches.items()
        }
        self.register_buffer("factors", torch.ones(len(self.names)))
        self.register_buffer("usual", torch.zeros(len(self.names)))  # mean logarithm of the ratio
        self.register_buffer("measured", torch.zeros((), dtype=torch.int64))

    def total(self, losses: Mapping[str, Tensor], shared: Tensor) -> Tensor:
        """The sum of the tasks' losses, each weighted so that its gradient at `shared` has their mean
        norm (inter-gradient); plainly summed where that is off."""
        if not self.config.inter or not torch.is_grad_enabled():
            return torch.stack([v.float() for v in losses.values()]).sum()
        norms = []
        for loss in losses.values():
            (gradient,) = torch.autograd.grad(loss, shared, retain_graph=True, allow_unused=True)
            norms.append(loss.new_zeros(()) if gradient is None else gradient.float().norm())
        weights = levelled(_over_ranks(torch.stack(norms).float()))
        return sum(
            (w * v for w, v in zip(weights, losses.values(), strict=True)), weights.sum() * 0
        )

    def scale(self) -> None:
        """Scale the gradients of the branches (intra-gradient, or as was measured), after they have been
        joined over all ranks."""
        if self.config.intra:
            norms = [_norm(parameters) for parameters in self._parts.values()]
            self.factors.copy_(levelled(torch.stack(norms)))
        elif not self.config.modulation:
            return
        for factor, parameters in zip(self.factors, self._parts.values(), strict=True):
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad *= factor.to(parameter.grad.device)

    def due(self, step: int) -> bool:
        """Whether modulation measures at this step."""
        return self.config.modulation > 0 and step % self.config.every == 0

    @torch.no_grad()
    def measure(self, loss_with: Callable[[frozenset[str]], Tensor]) -> None:
        """Measure what each modality tells, and set the factors by it.

        loss_with: the loss of a batch when only these modalities are there. A modality's share is its
        Shapley value of the loss that it saves, relative to the loss of all; r is exp of how far it is
        above the mean of the others, and its factor exp(-alpha (r - tau)), tau being r's running mean.
        """
        losses = {names: float(loss_with(names)) for names in subsets(self.names)}
        whole = max(abs(losses[frozenset(self.names)]), TINY)
        shares = shapley(self.names, {names: -loss / whole for names, loss in losses.items()})
        told = _over_ranks(torch.tensor(shares, device=self.factors.device))
        others = (told.sum() - told) / max(len(self.names) - 1, 1)
        limit = math.log(MOST)
        ratio = (told - others).nan_to_num(0.0).clamp(-limit, limit)
        self.measured += 1
        self.usual += (ratio - self.usual) / self.measured
        apart = ratio.exp() - self.usual.exp()
        self.factors.copy_((-self.config.modulation * apart).exp().clamp(1 / MOST, MOST))


def subsets(names: Sequence[str]) -> list[frozenset[str]]:
    """All sets of names, the empty one too."""
    sizes = range(len(names) + 1)
    return [frozenset(c) for size in sizes for c in itertools.combinations(names, size)]


def shapley(names: Sequence[str], worths: Mapping[frozenset[str], float]) -> list[float]:
    """The Shapley value of each name: its mean gain over all orders of joining. worths: of subsets."""
    shares = []
    for name in names:
        share = 0.0
        for chosen, worth in worths.items():
            if name not in chosen:
                weight = math.factorial(len(chosen)) * math.factorial(len(names) - len(chosen) - 1)
                share += weight * (worths[chosen | {name}] - worth) / math.factorial(len(names))
        shares.append(share)
    return shares


def levelled(norms: Tensor) -> Tensor:
    """Factors (K,) that bring norms (K,) to their mean, as far as MOST allows; 1 where a norm is zero or
    no number, which has no say in the mean."""
    usable = norms.isfinite() & (norms > TINY)
    if not bool(usable.any()):
        return torch.ones_like(norms)
    factors = (norms[usable].mean() / norms.clamp(min=TINY)).clamp(1 / MOST, MOST)
    return torch.where(usable, factors, torch.ones_like(norms))


def _norm(parameters: Sequence[Tensor]) -> Tensor:
    gradients = [p.grad.float().norm() for p in parameters if p.grad is not None]
    return torch.stack(gradients).norm() if gradients else torch.zeros(())


def _over_ranks(values: Tensor) -> Tensor:
    """The mean of all ranks' values."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return values
    values = values.contiguous()
    torch.distributed.all_reduce(values)
    return values / torch.distributed.get_world_size()
