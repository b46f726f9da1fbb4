"""Share of the labelled objects near the vehicle that have a 3D box close to their position."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from multimodal_perception.evaluation.detections import (
    centre_in_any_camera,
    evaluated_labels,
    match_by_distance,
    within_range,
)
from multimodal_perception.frame import Boxes3D, SensorFrame

MAX_DISTANCE_M, MAX_RANGE_M = 2.0, 30.0
# Bands of the distance from the vehicle, metres.
BANDS = ((0.0, 10.0), (10.0, 20.0), (20.0, MAX_RANGE_M))


@dataclass
class NearObjectScore:
    """Counts of labels within MAX_RANGE_M that a box of any class is closer to than MAX_DISTANCE_M.

    labels_in_view: whether the data set has labels in the cameras' images only. found, labels: by band
    of the distance. boxes, correct: boxes within MAX_RANGE_M, and those on any label.
    """

    labels_in_view: bool = False
    found: dict[tuple[float, float], int] = field(default_factory=lambda: dict.fromkeys(BANDS, 0))
    labels: dict[tuple[float, float], int] = field(default_factory=lambda: dict.fromkeys(BANDS, 0))
    boxes: int = 0
    correct: int = 0

    def add(self, boxes: Boxes3D, frame: SensorFrame) -> None:
        """Count one frame. Raises ValueError if it has no labels."""
        truth = frame.labels
        if truth is None:
            raise ValueError("the frame has no labels")
        evaluated = evaluated_labels(truth, MAX_RANGE_M)
        if self.labels_in_view:
            evaluated &= centre_in_any_camera(truth, frame)
        matched = match_by_distance(
            boxes.boxes, boxes.scores, truth.boxes, MAX_DISTANCE_M, evaluated
        )
        has_box = np.isin(np.arange(len(truth)), matched[matched >= 0])
        distances = np.hypot(truth.boxes[:, 0], truth.boxes[:, 1])
        for low, high in BANDS:
            in_band = evaluated & (distances >= low) & (distances < high)
            self.labels[low, high] += int(in_band.sum())
            self.found[low, high] += int((in_band & has_box).sum())
        everything = np.ones(len(truth), np.bool_)
        on_label = match_by_distance(
            boxes.boxes, boxes.scores, truth.boxes, MAX_DISTANCE_M, everything
        )
        counted = within_range(boxes, MAX_RANGE_M)
        if self.labels_in_view:
            counted &= centre_in_any_camera(boxes, frame)
        self.boxes += int(counted.sum())
        self.correct += int((counted & (on_label >= 0)).sum())

    def merge(self, other: NearObjectScore) -> None:
        """Add the counts of other frames."""
        for band in BANDS:
            self.found[band] += other.found[band]
            self.labels[band] += other.labels[band]
        self.boxes += other.boxes
        self.correct += other.correct

    def summary(self) -> dict[str, Any]:
        """found, labels, share, precision, and the same by band of the distance; NaN without labels."""
        found, labels = sum(self.found.values()), sum(self.labels.values())
        return {
            "max_distance": MAX_DISTANCE_M,
            "max_range": MAX_RANGE_M,
            "found": found,
            "labels": labels,
            "share": _ratio(found, labels),
            "boxes": self.boxes,
            "precision": _ratio(self.correct, self.boxes),
            "by_distance": {
                f"{low:.0f}-{high:.0f}": {
                    "found": self.found[low, high],
                    "labels": self.labels[low, high],
                    "share": _ratio(self.found[low, high], self.labels[low, high]),
                }
                for low, high in BANDS
            },
        }


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
