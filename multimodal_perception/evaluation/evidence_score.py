"""Figures of the sensors' opinions about boxes, for boxes that have some."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.box_evidence import GROUPS, class_groups, class_masses
from multimodal_perception.evaluation.confidence import ConfidenceScore
from multimodal_perception.frame import Boxes3D

# A box is at an object if the centre of a label is within this distance, metres.
MATCH_DISTANCE = 2.0


@dataclass
class EvidenceScore:
    """Accumulates the opinions about the boxes of many frames.

    A box is right if its class belongs to the group of the nearest label within MATCH_DISTANCE.
    """

    _probability: ConfidenceScore = field(default_factory=lambda: ConfidenceScore(GROUPS))
    _score: ConfidenceScore = field(default_factory=lambda: ConfidenceScore(GROUPS))
    _conflict: float = 0.0
    _uncertainty: float = 0.0
    _boxes: int = 0
    # Of each source: boxes that it observes, and sums of disbelief and uncertainty about them.
    _sources: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    def add(self, boxes: Boxes3D, labels: Boxes3D) -> None:
        """Add the boxes of a frame, if they have opinions. labels: of the frame."""
        evidence = boxes.evidence
        if evidence is None:
            return
        groups = class_groups(boxes.class_names)[boxes.labels]
        known = groups >= 0
        right = _nearest_group(boxes, labels)[known] == groups[known]
        self._probability.add(groups[known], evidence.probability(groups)[known], right)
        self._score.add(groups[known], boxes.scores[known], right)
        self._conflict += float(evidence.conflict.sum())
        self._uncertainty += float(evidence.total_uncertainty.sum())
        self._boxes += len(boxes)
        for name, opinion in evidence.opinions().items():
            observed = opinion.uncertainty < 1.0
            disbelief = class_masses(opinion, groups)[1][observed]
            sums = np.array([observed.sum(), disbelief.sum(), opinion.uncertainty[observed].sum()])
            self._sources[name] = self._sources.get(name, np.zeros(3)) + sums

    def merge(self, other: EvidenceScore) -> None:
        """Add the boxes of another score."""
        self._probability.merge(other._probability)
        self._score.merge(other._score)
        self._conflict += other._conflict
        self._uncertainty += other._uncertainty
        self._boxes += other._boxes
        for name, sums in other._sources.items():
            self._sources[name] = self._sources.get(name, np.zeros(3)) + sums

    def summary(self) -> dict[str, Any]:
        """The figures; empty without boxes.

        combined and score: ece, brier and error_auroc (see evaluation.confidence) of the probability of
        a box's group by the combined opinion, and of the score of the same boxes. mean_conflict,
        mean_uncertainty. sources: by sensor, number of boxes that it observes, and mean_disbelief and
        mean_uncertainty about them.
        """
        if not self._boxes:
            return {}
        names = "ece", "brier", "error_auroc"
        combined, score = self._probability.summary(), self._score.summary()
        return {
            "boxes": self._boxes,
            "combined": {name: combined[name] for name in names},
            "score": {name: score[name] for name in names},
            "mean_conflict": self._conflict / self._boxes,
            "mean_uncertainty": self._uncertainty / self._boxes,
            "sources": {
                name: {
                    "boxes": int(count),
                    "mean_disbelief": float(disbelief / count),
                    "mean_uncertainty": float(uncertainty / count),
                }
                for name, (count, disbelief, uncertainty) in sorted(self._sources.items())
                if count
            },
        }


def _nearest_group(boxes: Boxes3D, labels: Boxes3D) -> NDArray[np.int64]:
    """Group (N,) of the nearest label within MATCH_DISTANCE of each box, -1 without one."""
    if not len(labels) or not len(boxes):
        return np.full(len(boxes), -1, np.int64)
    offset = boxes.boxes[:, None, :2] - labels.boxes[None, :, :2]
    distance = np.hypot(offset[..., 0], offset[..., 1])
    group = class_groups(labels.class_names)[labels.labels][distance.argmin(axis=1)]
    return np.where(distance.min(axis=1) <= MATCH_DISTANCE, group, -1)
