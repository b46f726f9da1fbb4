"""The fraction of near objects in images that a detector finds, with or without LiDAR."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.evaluation.detections import match_by_distance
from multimodal_perception.evaluation.matched_boxes import evaluated_names
from multimodal_perception.evaluation.nuscenes_metrics import NuScenesProtocol
from multimodal_perception.frame import Boxes3D

RANGE_M, MATCH_DISTANCE_M = 30.0, 2.0


@dataclass
class ImageRecall:
    """Counts of the evaluated labels within RANGE_M whose centre is in an image.

    min_score: boxes with a lower score are ignored; use the score from which the detector reports boxes.
    found: by class, labels with a box of any class within MATCH_DISTANCE_M; correct: of these, the ones
    with a box of their class. false_boxes: boxes within RANGE_M in an image without a label of any class
    within MATCH_DISTANCE_M.
    """

    min_score: float
    labels: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    found: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    correct: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    false_boxes: int = 0
    frames: int = 0

    def add(
        self,
        boxes: Boxes3D,
        boxes_in_image: NDArray[np.bool_],
        truth: Boxes3D,
        truth_in_image: NDArray[np.bool_],
        protocol: NuScenesProtocol,
    ) -> None:
        """Count one frame. boxes_in_image (N,), truth_in_image (M,): whether an image shows it."""
        self.frames += 1
        names, truth_names = evaluated_names(boxes, protocol), evaluated_names(truth, protocol)
        reported = np.flatnonzero((boxes.scores >= self.min_score) & (names != ""))
        shown = truth_in_image & (truth_names != "") & _within_range(truth)
        shape = boxes.boxes[reported], boxes.scores[reported], truth.boxes, MATCH_DISTANCE_M
        found = match_by_distance(*shape, shown)
        anything = match_by_distance(*shape, np.ones(len(truth), bool))
        for i in np.flatnonzero(shown):
            self.labels[str(truth_names[i])] += 1
        for box, label in zip(reported, found, strict=True):
            if label >= 0:
                name = str(truth_names[label])
                self.found[name] += 1
                self.correct[name] += int(names[box] == name)
        in_range = _within_range(boxes) & boxes_in_image
        self.false_boxes += int((in_range[reported] & (anything < 0)).sum())

    def metrics(self) -> dict[str, Any]:
        """Recalls, in total and by class; NaN without labels."""
        return {
            "range_m": RANGE_M,
            "distance_m": MATCH_DISTANCE_M,
            "min_score": self.min_score,
            "recall": _ratio(self.found, self.labels),
            "recall_of_class": _ratio(self.correct, self.labels),
            "labels": sum(self.labels.values()),
            "false_boxes_per_frame": self.false_boxes / self.frames
            if self.frames
            else float("nan"),
            "by_class": {
                name: {"recall": self.found[name] / count, "labels": count}
                for name, count in sorted(self.labels.items())
            },
        }


def _within_range(boxes: Boxes3D) -> NDArray[np.bool_]:
    return np.asarray(np.hypot(boxes.boxes[:, 0], boxes.boxes[:, 1]) < RANGE_M)


def _ratio(part: dict[str, int], whole: dict[str, int]) -> float:
    total = sum(whole.values())
    return sum(part.values()) / total if total else float("nan")
