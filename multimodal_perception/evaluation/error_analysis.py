"""Errors of a detector: confusion between classes, and the errors of one frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.evaluation.detections import match_by_distance
from multimodal_perception.evaluation.matched_boxes import evaluated_names, match_frames
from multimodal_perception.evaluation.nuscenes_metrics import NuScenesProtocol, ScoredFrame

# Boxes with a lower score are not counted in the confusion and as false boxes of a frame.
MIN_SCORE = 0.3
MISSED, NO_LABEL = "missed", "no label"
CURVE_RECALLS = np.linspace(0.0, 1.0, 51)


@dataclass(frozen=True)
class FrameErrors:
    """Evaluated boxes and labels of a frame, matched regardless of the class.

    label_of_box: (N,) matched label of each box of at least MIN_SCORE, -1 if none (a false box), -2 for
    boxes that are not evaluated. missed: (M,) evaluated labels without a box. names, label_names: (N,)
    and (M,) evaluated classes.
    """

    label_of_box: NDArray[np.int64]
    missed: NDArray[np.bool_]
    names: NDArray[np.str_]
    label_names: NDArray[np.str_]

    @property
    def count(self) -> int:
        """Missed objects, false boxes and boxes of the wrong class."""
        matched = np.flatnonzero(self.label_of_box >= 0)
        wrong = self.names[matched] != self.label_names[self.label_of_box[matched]]
        return int(self.missed.sum() + (self.label_of_box == -1).sum() + wrong.sum())


def frame_errors(frame: ScoredFrame, protocol: NuScenesProtocol) -> FrameErrors:
    """Match the boxes of a frame with its labels within the protocol's error distance."""
    names = evaluated_names(frame.predicted, protocol)
    label_names = evaluated_names(frame.truth, protocol)
    evaluated = (names != "") & (frame.predicted.scores >= MIN_SCORE)
    rows = np.flatnonzero(evaluated)
    match = match_by_distance(
        frame.predicted.boxes[rows],
        frame.predicted.scores[rows],
        frame.truth.boxes,
        protocol.error_distance,
        label_names != "",
    )
    label_of_box = np.full(len(names), -2, np.int64)
    label_of_box[rows] = match
    missed = label_names != ""
    missed[match[match >= 0]] = False
    return FrameErrors(label_of_box, missed, names, label_names)


def confusion(frames: Sequence[ScoredFrame], protocol: NuScenesProtocol) -> dict[str, Any]:
    """Counts by class of the label (rows, the last one without label) and of the box (columns).

    The last column has the missed labels. Boxes of at least MIN_SCORE.
    """
    classes = list(protocol.ranges)
    counts = np.zeros((len(classes) + 1, len(classes) + 1), np.int64)
    index = {name: k for k, name in enumerate(classes)}
    for frame in frames:
        errors = frame_errors(frame, protocol)
        for i in np.flatnonzero(errors.label_of_box >= -1):
            label = errors.label_of_box[i]
            row = index[str(errors.label_names[label])] if label >= 0 else len(classes)
            counts[row, index[str(errors.names[i])]] += 1
        for k in np.flatnonzero(errors.missed):
            counts[index[str(errors.label_names[k])], len(classes)] += 1
    return {
        "rows": [*classes, NO_LABEL],
        "columns": [*classes, MISSED],
        "counts": counts.tolist(),
        "min_score": MIN_SCORE,
    }


def precision_recall_curves(
    frames: Sequence[ScoredFrame], protocol: NuScenesProtocol
) -> dict[str, list[float]]:
    """Interpolated precision at CURVE_RECALLS by class, at the protocol's error distance."""
    matched = match_frames(frames, protocol)
    labels = np.concatenate(
        [np.zeros(0, np.str_), *(evaluated_names(f.truth, protocol) for f in frames)]
    )
    curves = {}
    for name in protocol.ranges:
        count = int((labels == name).sum())
        rows = np.flatnonzero(matched.names == name)
        if not count:
            continue
        order = rows[np.argsort(-matched.scores[rows], kind="stable")]
        true = np.cumsum(matched.matched[order])
        precision = true / np.arange(1, len(true) + 1)
        recall = true / count
        curves[name] = [
            float(precision[recall >= r - 1e-9].max(initial=0.0)) for r in CURVE_RECALLS
        ]
    return curves
