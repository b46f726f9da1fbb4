"""Opinions of several sources about a class, and their combination by Dempster's rule.

An opinion about K classes has a belief b_k for each class and an uncertainty u, all in [0, 1] with the
sum 1 (Josang 2016, subjective logic). It corresponds to a Dirichlet distribution with parameters
alpha_k = e_k + 1, where e_k >= 0 is the evidence of the class: with S = sum of alpha, b_k = e_k / S and
u = K / S (Sensoy et al. 2018, section 3; Han et al. 2021, "Trusted multi-view classification" (TMC),
section 3.2). Masses of occupancy cells, with conflict and ageing, are in occupancy.evidence.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.geometry.stamps import NANOSECONDS_PER_SECOND

Array = NDArray[np.float64]
# Uncertainty below which an opinion is certain; its evidence would be infinite.
SMALLEST_UNCERTAINTY = 1e-9


@dataclass(frozen=True)
class Opinions:
    """Opinions about N objects: belief (N, K) and uncertainty (N,), float64.

    Raises ValueError for other shapes, or if the masses of a row are negative or do not have the sum 1.
    """

    belief: Array
    uncertainty: Array

    def __post_init__(self) -> None:
        belief = np.asarray(self.belief, np.float64)
        uncertainty = np.asarray(self.uncertainty, np.float64)
        if belief.ndim != 2 or uncertainty.shape != belief.shape[:1] or belief.shape[1] < 2:
            raise ValueError("belief must be (N, K) with K >= 2, and uncertainty (N,)")
        total = belief.sum(axis=1) + uncertainty
        lowest = min(belief.min(initial=0.0), uncertainty.min(initial=0.0))
        if not (np.abs(total - 1.0) <= 1e-6).all() or lowest < -1e-9:
            raise ValueError("beliefs and uncertainty must be at least 0 and have the sum 1")
        # Rounding can leave masses just below 0.
        object.__setattr__(self, "belief", np.maximum(belief, 0.0))
        object.__setattr__(self, "uncertainty", np.maximum(uncertainty, 0.0))

    def __len__(self) -> int:
        return len(self.uncertainty)

    @property
    def classes(self) -> int:
        """Number K of classes."""
        return self.belief.shape[1]

    def probability(self) -> Array:
        """Mean of the Dirichlet distribution (N, K): b_k + u / K, the pignistic probability."""
        return self.belief + self.uncertainty[:, None] / self.classes

    def evidence(self) -> Array:
        """Evidence (N, K): b_k K / u (TMC, section 3.3)."""
        limited = np.maximum(self.uncertainty, SMALLEST_UNCERTAINTY)
        return self.belief * (self.classes / limited)[:, None]


def from_evidence(evidence: NDArray[np.floating]) -> Opinions:
    """Opinions of evidence (N, K) >= 0, such as the softplus of the outputs of a network.

    Raises ValueError for negative or infinite evidence and NaN.
    """
    e = np.asarray(evidence, np.float64)
    if e.ndim != 2 or not np.isfinite(e).all() or e.min(initial=0.0) < 0:
        raise ValueError("evidence must be (N, K), finite and not negative")
    strength = e.sum(axis=1) + e.shape[1]
    return Opinions(e / strength[:, None], e.shape[1] / strength)


def vacuous(count: int, classes: int) -> Opinions:
    """Opinions without any belief, of a source that is missing."""
    return Opinions(np.zeros((count, classes)), np.ones(count))


def discount(opinions: Opinions, reliability: float | NDArray[np.floating]) -> Opinions:
    """Opinions of a source with a reliability in [0, 1], one number or (N,) (Shafer 1976, p. 252).

    The belief is multiplied by the reliability, and the rest becomes uncertainty. Raises ValueError.
    """
    r = np.broadcast_to(np.asarray(reliability, np.float64), (len(opinions),))
    if not ((r >= 0) & (r <= 1)).all():
        raise ValueError("reliability must be in [0, 1]")
    belief = opinions.belief * r[:, None]
    return Opinions(belief, 1.0 - belief.sum(axis=1))


@dataclass(frozen=True)
class Combination:
    """Combined opinions, and the mass of contradiction (N,) before it is normalised away."""

    opinions: Opinions
    conflict: Array


def combine(sources: Sequence[Opinions]) -> Combination:
    """Combine the opinions of one or more sources by Dempster's rule (TMC, section 3.3).

    For two sources, with C the sum over i != j of b1_i b2_j: b_k = (b1_k b2_k + b1_k u2 + b2_k u1) /
    (1 - C) and u = u1 u2 / (1 - C). For any number of sources, the product over the sources of (b_k + u)
    minus that of u is the joint mass of class k, and the product of u that of uncertainty; this is
    computed with logarithms, so that the order does not matter and many sources do not underflow. If the
    sources contradict each other completely, the result is vacuous. Raises ValueError without sources or
    for sources of different sizes.
    """
    if not sources:
        raise ValueError("at least one source is needed")
    first = sources[0]
    if any(s.belief.shape != first.belief.shape for s in sources):
        raise ValueError("all sources must have opinions about the same objects and classes")
    with np.errstate(divide="ignore"):
        either = sum(np.log(s.belief + s.uncertainty[:, None]) for s in sources)
        unknown = sum(np.log(s.uncertainty) for s in sources)
    either, unknown = np.asarray(either), np.asarray(unknown)
    largest = either.max(axis=1)
    known = np.isfinite(largest)
    shift = np.where(known, largest, 0.0)
    rest = np.exp(unknown - shift)
    joint = np.maximum(np.exp(either - shift[:, None]) - rest[:, None], 0.0)
    total = joint.sum(axis=1) + rest
    known &= total > 0
    scale = 1.0 / np.where(known, total, 1.0)
    belief = np.where(known[:, None], joint * scale[:, None], 0.0)
    combined = Opinions(belief, np.where(known, rest * scale, 1.0))
    agreeing = np.where(known, total * np.exp(shift), 0.0)
    return Combination(combined, np.clip(1.0 - agreeing, 0.0, 1.0))


def contradiction(first: Opinions, second: Opinions) -> Array:
    """Mass (N,) with which two sources contradict each other: the sum over i != j of b1_i b2_j."""
    agreeing = (first.belief * second.belief).sum(axis=1)
    both = first.belief.sum(axis=1) * second.belief.sum(axis=1)
    return np.clip(both - agreeing, 0.0, 1.0)


@dataclass(frozen=True)
class ReliabilityConfig:
    """Parameters of the reliability of sensors, which follows from the errors of their opinions.

    Attributes:
        time_constant_s: Time constant of the running mean of the errors of a sensor's opinions. Increase
            it for a steadier weight; decrease it to lower the weight of a wrong sensor faster.
        tolerated_error: Running mean of the errors (0 to 1) up to which a sensor has its full weight.
            Increase it if correct sensors lose weight because of objects that are hard to classify.
        warn_reliability: Reliability (0 to 1, the factor of the weight) below which /diagnostics warns
            about a sensor. Increase it to be warned earlier about a sensor whose opinions are wrong.
    """

    time_constant_s: float = field(default=1.0, metadata={"min": 0.01, "max": 600.0, "unit": "s"})
    tolerated_error: float = field(default=0.2, metadata={"min": 0.0, "max": 0.99})
    warn_reliability: float = field(default=0.5, metadata={"min": 0.0, "max": 1.0})


class SourceReliability:
    """Reliability of each source in [0, 1], from the running mean of its errors."""

    def __init__(self, config: ReliabilityConfig | None = None) -> None:
        self.config = config or ReliabilityConfig()
        self._errors: dict[str, tuple[int, float]] = {}

    def update(self, stamp_ns: int, errors: Mapping[str, tuple[float, float]]) -> None:
        """Add the errors of one frame.

        errors: by source, the sum of the errors of its objects, such as their contradiction with the
        confirmed class, and the sum of the weights that they could have at most. Sources without weight
        keep their error. Stamps that go back clear all errors.
        """
        if any(stamp_ns < last for last, _ in self._errors.values()):
            self._errors.clear()
        for name, (wrong, weight) in errors.items():
            if not weight > 0:
                continue
            error = min(max(wrong / weight, 0.0), 1.0)
            last_ns, mean = self._errors.get(name, (stamp_ns, 0.0))
            elapsed_s = (stamp_ns - last_ns) / NANOSECONDS_PER_SECOND
            gain = 1.0 - np.exp(-elapsed_s / self.config.time_constant_s)
            self._errors[name] = stamp_ns, mean + gain * (error - mean)

    def error(self, source: str) -> float:
        """Running mean of the errors of a source; 0 for unknown sources."""
        return float(self._errors.get(source, (0, 0.0))[1])

    def reliability(self, source: str) -> float:
        """1 up to the tolerated error, then linear to 0 at the error 1; 1 for unknown sources."""
        tolerated = self.config.tolerated_error
        excess = self.error(source) - tolerated
        return float(np.clip(1.0 - excess / (1.0 - tolerated), 0.0, 1.0))

    def unreliable(self) -> list[str]:
        """Sources whose reliability is below warn_reliability, in alphabetical order."""
        limit = self.config.warn_reliability
        return sorted(name for name in self._errors if self.reliability(name) < limit)


def source_errors(
    sources: Mapping[str, Opinions], confirmed: Mapping[int, int] | NDArray[np.integer]
) -> dict[str, tuple[float, float]]:
    """Errors of each source for SourceReliability.update.

    confirmed: confirmed class of objects by their index, for example of tracks with several
    observations; or classes (N,), negative for objects that are not confirmed. The error of an opinion
    is its belief in other classes, and its weight is its whole belief: a vacuous opinion is no error.
    """
    pairs = confirmed.items() if isinstance(confirmed, Mapping) else enumerate(confirmed.tolist())
    rows = [(index, label) for index, label in pairs if label >= 0]
    return {name: _errors(opinions, rows) for name, opinions in sources.items()}


def _errors(opinions: Opinions, rows: Iterable[tuple[int, int]]) -> tuple[float, float]:
    wrong = weight = 0.0
    for index, label in rows:
        belief = float(opinions.belief[index].sum())
        weight += belief
        wrong += belief - float(opinions.belief[index, label])
    return wrong, weight
