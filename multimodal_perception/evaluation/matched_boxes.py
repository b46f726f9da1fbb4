"""Evaluated boxes of all frames with the labels that they match, for metrics of the matched pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.evaluation.detections import match_by_distance
from multimodal_perception.evaluation.nuscenes_metrics import (
    NuScenesProtocol,
    ScoredFrame,
    benchmark_names,
)
from multimodal_perception.frame import Boxes3D


@dataclass(frozen=True)
class MatchedBoxes:
    """The N evaluated boxes of some frames and, for those that match a label, the label.

    names: (N,) evaluated class. scores: (N,). boxes: (N, 7). matched: (N,) whether a label of the class
    lies within the matching distance. labels: (N, 7), NaN without a label. velocities and
    label_velocities: (N, 2), NaN if unknown. covariances: (N, 6, 6) and velocity_covariances: (N, 2, 2)
    as in Boxes3D, NaN if unknown.
    """

    names: NDArray[np.str_]
    scores: NDArray[np.float64]
    boxes: NDArray[np.float64]
    matched: NDArray[np.bool_]
    labels: NDArray[np.float64]
    velocities: NDArray[np.float64]
    label_velocities: NDArray[np.float64]
    covariances: NDArray[np.float64]
    velocity_covariances: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.scores)

    def select(self, index: NDArray[np.bool_] | NDArray[np.int64]) -> MatchedBoxes:
        """The boxes of a mask (N,) or of indices."""
        return MatchedBoxes(*(values[index] for values in vars(self).values()))


def match_frames(
    frames: Sequence[ScoredFrame], protocol: NuScenesProtocol, distance: float | None = None
) -> MatchedBoxes:
    """Match the evaluated boxes of each frame with the evaluated labels of the same class.

    distance: largest distance of the centres on the ground plane, metres; by default that at which the
    protocol measures errors. In descending order of the scores, each box takes the nearest free label.
    """
    limit = protocol.error_distance if distance is None else distance
    parts = [part for frame in frames for part in _match_frame(frame, protocol, limit)]
    empty = MatchedBoxes(
        np.zeros(0, np.str_),
        *(np.zeros(0), np.zeros((0, 7)), np.zeros(0, np.bool_), np.zeros((0, 7))),
        *(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros((0, 6, 6)), np.zeros((0, 2, 2))),
    )
    fields = zip(*(vars(part).values() for part in [empty, *parts]), strict=True)
    return MatchedBoxes(*(np.concatenate(values) for values in fields))


def _match_frame(
    frame: ScoredFrame, protocol: NuScenesProtocol, distance: float
) -> Iterator[MatchedBoxes]:
    names, labels = evaluated_names(frame.predicted, protocol), frame.truth
    label_names = evaluated_names(labels, protocol)
    for name in protocol.ranges:
        rows, boxes = np.flatnonzero(names == name), frame.predicted
        truth = labels.select(np.flatnonzero(label_names == name))
        match = match_by_distance(
            boxes.boxes[rows], boxes.scores[rows], truth.boxes, distance, np.ones(len(truth), bool)
        )
        matched = match >= 0
        label_boxes = np.full((len(rows), 7), np.nan)
        label_boxes[matched] = truth.boxes[match[matched]]
        label_velocities = np.full((len(rows), 2), np.nan)
        if truth.velocities is not None:
            label_velocities[matched] = truth.velocities[match[matched]]
        yield MatchedBoxes(
            names[rows],
            boxes.scores[rows].astype(np.float64),
            boxes.boxes[rows].astype(np.float64),
            matched,
            label_boxes,
            _values(boxes.velocities, rows, (2,)),
            label_velocities,
            _values(boxes.covariances, rows, (6, 6)),
            _values(boxes.velocity_covariances, rows, (2, 2)),
        )


def evaluated_names(boxes: Boxes3D, protocol: NuScenesProtocol) -> NDArray[np.str_]:
    """Class (N,) as which each box is evaluated; empty text for boxes that are not evaluated."""
    names = benchmark_names(boxes, protocol)
    limits = np.array([protocol.ranges.get(n, 0.0) for n in names.tolist()], np.float64)
    distance = np.linalg.norm(boxes.boxes[:, :2].astype(np.float64), axis=1)
    return np.where(distance < limits, names, "")


def _values(
    values: NDArray[np.float32] | None, rows: NDArray[np.int64], shape: tuple[int, ...]
) -> NDArray[np.float64]:
    if values is None:
        return np.full((len(rows), *shape), np.nan)
    return values[rows].astype(np.float64)
