"""Opinions of the sensors about each box in a form for messages, markers and tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from multimodal_perception.box_evidence import (
    MIN_SUPPORT,
    MODALITIES,
    BoxEvidence,
    class_groups,
    class_masses,
)
from multimodal_perception.frame import Boxes3D

# Letter of each modality in short texts.
LETTERS = {"lidar": "L", "camera": "C", "thermal": "T", "ultrasonic": "U"}


@dataclass(frozen=True)
class ObjectEvidence:
    """Opinions about one box.

    name: track id, or `box N` without one. class_name: of the box. masses: belief in the group of the
    class, disbelief and uncertainty by modality, with the sum 1; modalities without a sensor have 0, 0
    and 1. sensors: the same by camera and thermal camera, only of those that show the box, and before
    they are discounted. conflict, total_uncertainty:
    see BoxEvidence. probability: of the box's class by the combined opinion, NaN for unknown classes.
    supporting, contradicting: sensors with a belief or disbelief of at least MIN_SUPPORT.
    """

    name: str
    class_name: str
    masses: Mapping[str, tuple[float, float, float]]
    sensors: Mapping[str, tuple[float, float, float]]
    conflict: float
    total_uncertainty: float
    probability: float
    supporting: tuple[str, ...]
    contradicting: tuple[str, ...]

    @property
    def text(self) -> str:
        """Short text for a marker: the belief of each modality, `?` without an opinion."""
        parts = [
            f"{LETTERS[m]} {'?' if u >= 1.0 else f'{belief:.1f}'}"
            for m, (belief, _, u) in self.masses.items()
        ]
        return f"{' '.join(parts)} | conflict {self.conflict:.1f}"


def describe_objects(boxes: Boxes3D) -> list[ObjectEvidence]:
    """Opinions about each box, in the order of the boxes; empty if the boxes have none."""
    evidence = boxes.evidence
    if evidence is None:
        return []
    groups = class_groups(boxes.class_names)[boxes.labels]
    modalities = {
        name: _masses(*class_masses(o, groups), o.uncertainty)
        for name, o in evidence.modality_opinions().items()
    }
    sources = {
        name: _masses(*class_masses(o, groups), o.uncertainty)
        for name, o in evidence.opinions().items()
    }
    ids = [-1] * len(boxes) if boxes.track_ids is None else boxes.track_ids.tolist()
    probability = evidence.probability(groups)
    return [
        _describe(
            str(ids[row]) if ids[row] >= 0 else f"box {row}",
            boxes.class_names[boxes.labels[row]],
            {name: values[row] for name, values in modalities.items()},
            {name: values[row] for name, values in sources.items()},
            evidence,
            row,
            float(probability[row]),
        )
        for row in range(len(boxes))
    ]


def _masses(*parts: Any) -> list[tuple[float, float, float]]:
    return [(float(b), float(d), float(u)) for b, d, u in np.column_stack(parts)]


def _describe(
    name: str,
    class_name: str,
    modalities: Mapping[str, tuple[float, float, float]],
    sources: Mapping[str, tuple[float, float, float]],
    evidence: BoxEvidence,
    row: int,
    probability: float,
) -> ObjectEvidence:
    return ObjectEvidence(
        name,
        class_name,
        modalities,
        {n: m for n, m in sources.items() if n not in MODALITIES and m[2] < 1.0},
        float(evidence.conflict[row]),
        float(evidence.total_uncertainty[row]),
        probability,
        tuple(n for n, (belief, _, _) in sources.items() if belief >= MIN_SUPPORT),
        tuple(n for n, (_, disbelief, _) in sources.items() if disbelief >= MIN_SUPPORT),
    )
