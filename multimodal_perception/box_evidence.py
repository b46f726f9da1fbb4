"""Opinions of the sensors about detected boxes: which of them support the class of a box.

A source is the LiDARs together, the ultrasonic sensors together, or a single camera or thermal camera.
Its opinion is about the group of classes that the object belongs to; `nothing` is the group of places
without an object, so that a source can also contradict a box.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.opinions import Combination, Opinions, combine, discount, vacuous

Array = NDArray[np.float64]
GROUPS = ("vehicle", "two_wheeler", "pedestrian", "static", "nothing")
NOTHING = GROUPS.index("nothing")
# Order of the modalities in messages and tables.
MODALITIES = ("lidar", "camera", "thermal", "ultrasonic")
GROUP_OF_CLASS = {
    **dict.fromkeys(("car", "van", "truck", "bus", "trailer"), "vehicle"),
    **dict.fromkeys(("cyclist", "motorcyclist"), "two_wheeler"),
    "pedestrian": "pedestrian",
    **dict.fromkeys(("cone", "barrier"), "static"),
}
# A source supports (contradicts) a box if its belief (disbelief) is at least this.
MIN_SUPPORT = 0.5


@dataclass(frozen=True)
class BoxEvidence:
    """Opinions of S sources about N boxes, and their combination by Dempster's rule.

    sources: names; `lidar`, `ultrasonic`, or a camera or thermal camera. modalities: modality of each
    source. weights: weight of each source, 0 to 1, with which its opinion is discounted before it is
    combined. All arrays are float64 with values from 0 to 1. belief: (N, S, K) over GROUPS, before it is
    discounted. uncertainty: (N, S); 1 for a source that does not observe the box. combined_belief: (N,
    K). total_uncertainty: (N,), of the combination. conflict: (N,), mass with which the sources
    contradict each other.
    """

    sources: tuple[str, ...]
    modalities: tuple[str, ...]
    weights: tuple[float, ...]
    belief: Array
    uncertainty: Array
    combined_belief: Array
    total_uncertainty: Array
    conflict: Array

    def __len__(self) -> int:
        return len(self.conflict)

    @classmethod
    def combined(
        cls,
        opinions: Mapping[str, Opinions],
        modalities: Mapping[str, str],
        weights: Mapping[str, float],
        count: int,
    ) -> BoxEvidence:
        """Combine the opinions of sources about `count` boxes.

        opinions: by source, over GROUPS. modalities: by source. weights: by source, 0 to 1; sources that
        it does not list have the weight 1. Raises ValueError for other weights, and for opinions about
        different numbers of boxes.
        """
        sources = tuple(opinions)
        used = tuple(float(weights.get(name, 1.0)) for name in sources)
        total = _combination(
            [discount(opinions[n], w) for n, w in zip(sources, used, strict=True)], count
        )
        belief = [o.belief for o in opinions.values()]
        uncertainty = [o.uncertainty for o in opinions.values()]
        return cls(
            sources,
            tuple(modalities[name] for name in sources),
            used,
            np.stack(belief, 1) if belief else np.zeros((count, 0, len(GROUPS))),
            np.stack(uncertainty, 1) if uncertainty else np.zeros((count, 0)),
            total.opinions.belief,
            total.opinions.uncertainty,
            total.conflict,
        )

    @classmethod
    def unknown(cls, count: int) -> BoxEvidence:
        """Evidence without any source, of boxes that were not assessed."""
        return cls.combined({}, {}, {}, count)

    def with_weights(self, weights: Mapping[str, float]) -> BoxEvidence:
        """The same opinions, combined with other weights by source."""
        known = dict(zip(self.sources, self.modalities, strict=True))
        return BoxEvidence.combined(self.opinions(), known, weights, len(self))

    def opinions(self) -> dict[str, Opinions]:
        """Opinions by source, before they are discounted."""
        return {
            name: Opinions(self.belief[:, k], self.uncertainty[:, k])
            for k, name in enumerate(self.sources)
        }

    def modality_opinions(self) -> dict[str, Opinions]:
        """Combined discounted opinions of each of MODALITIES; vacuous for those without a source."""
        result = {}
        for modality in MODALITIES:
            parts = [
                discount(opinion, weight)
                for opinion, weight, own in zip(
                    self.opinions().values(), self.weights, self.modalities, strict=True
                )
                if own == modality
            ]
            result[modality] = _combination(parts, len(self)).opinions
        return result

    def probability(self, groups: NDArray[np.int64]) -> Array:
        """Probability (N,) float64 of one group for each box by the combined opinion.

        groups: (N,) index into GROUPS; -1 gives NaN.
        """
        total = self.combined_belief + self.total_uncertainty[:, None] / len(GROUPS)
        return np.where(groups >= 0, total[np.arange(len(self)), groups], np.nan)

    def select(self, index: NDArray) -> BoxEvidence:
        """The evidence of boxes selected by a mask or by indices, in that order."""
        names = "belief", "uncertainty", "combined_belief", "total_uncertainty", "conflict"
        return replace(self, **{name: getattr(self, name)[index] for name in names})

    @classmethod
    def concatenate(cls, parts: Sequence[BoxEvidence]) -> BoxEvidence:
        """The evidence of all parts. A source is vacuous for the boxes of parts that do not have it."""
        modalities = {n: m for p in parts for n, m in zip(p.sources, p.modalities, strict=True)}
        weights = {n: w for p in parts for n, w in zip(p.sources, p.weights, strict=True)}
        opinions = {}
        for name in modalities:
            rows = [p.opinions().get(name, vacuous(len(p), len(GROUPS))) for p in parts]
            opinions[name] = Opinions(
                np.concatenate([o.belief for o in rows]),
                np.concatenate([o.uncertainty for o in rows]),
            )
        return cls.combined(opinions, modalities, weights, sum(map(len, parts)))


def class_groups(class_names: Iterable[str]) -> NDArray[np.int64]:
    """Index into GROUPS of each class; -1 for classes that no group contains, such as `unknown`."""
    groups = (GROUP_OF_CLASS.get(name) for name in class_names)
    return np.array([-1 if group is None else GROUPS.index(group) for group in groups], np.int64)


def class_masses(opinions: Opinions, groups: NDArray[np.int64]) -> tuple[Array, Array]:
    """Belief (N,) in the group of each object, and disbelief (N,): the belief in all other groups.

    groups: (N,) index into GROUPS; for -1, the belief is that in all groups except `nothing`.
    """
    rows = np.arange(len(opinions))
    something = 1.0 - opinions.uncertainty - opinions.belief[:, NOTHING]
    belief = np.where(groups >= 0, opinions.belief[rows, groups], np.maximum(something, 0.0))
    return belief, np.maximum(opinions.belief.sum(axis=1) - belief, 0.0)


def _combination(parts: Sequence[Opinions], count: int) -> Combination:
    if not parts:
        return Combination(vacuous(count, len(GROUPS)), np.zeros(count))
    return combine(parts)
