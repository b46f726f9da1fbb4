"""How well objects are followed: CLEAR MOT (Bernardin and Stiefelhagen 2008), by distance of centres."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from multimodal_perception.evaluation.detections import MAX_RANGE_M, countable, near
from multimodal_perception.evaluation.nuscenes_metrics import ScoredFrame
from multimodal_perception.frame import Boxes3D

# nuScenes' tracking task matches within 2 m as well.
MATCH_M = 2.0
FAR = 1e6


@dataclass
class TrackingScore:
    """Counts over the frames of one drive or of several, in their order.

    labels: that counted, of `objects` different ones; missed: those without a box; false: boxes
    without a label; switches: by class, how often a label's box has another id than its box before.
    distance: sum over the matches, metres.
    """

    max_range: float = MAX_RANGE_M
    frames: int = 0
    labels: int = 0
    missed: int = 0
    false: int = 0
    matches: int = 0
    distance: float = 0.0
    switches: Counter[str] = field(default_factory=Counter)
    objects: set[int] = field(default_factory=set)
    _id_of: dict[int, int] = field(default_factory=dict)

    def add(self, boxes: Boxes3D, truth: Boxes3D) -> None:
        """Count one frame. Raises ValueError when boxes or labels have no track_ids."""
        if boxes.track_ids is None or truth.track_ids is None:
            raise ValueError("boxes and labels need track_ids")
        counts = countable(truth, self.max_range)
        judged = near(boxes, self.max_range)
        label_of = self._matched(boxes, truth)
        # A label that does not count makes its box neither right nor wrong.
        judged &= np.append(counts, True)[label_of]
        found = np.flatnonzero((label_of >= 0) & judged)
        self.frames += 1
        self.labels += int(counts.sum())
        self.missed += int(counts.sum()) - len(found)
        self.false += int((judged & (label_of < 0)).sum())
        self.matches += len(found)
        self.objects |= set(truth.track_ids[counts].tolist())
        for i in found:
            label = int(label_of[i])
            number, mine = int(truth.track_ids[label]), int(boxes.track_ids[i])
            self.distance += float(
                np.hypot(*(boxes.boxes[i, :2] - truth.boxes[label, :2]).astype(np.float64))
            )
            if self._id_of.get(number, mine) != mine:
                self.switches[truth.class_names[truth.labels[label]]] += 1
            self._id_of[number] = mine

    def figures(self) -> dict[str, Any]:
        """mota, motp_m (mean distance of the matches), id_switches and counts; NaN without labels."""
        switches = sum(self.switches.values())
        wrong = self.missed + self.false + switches
        return {
            "mota": 1.0 - wrong / self.labels if self.labels else float("nan"),
            "motp_m": self.distance / self.matches if self.matches else float("nan"),
            "id_switches": switches,
            "id_switches_by_class": dict(sorted(self.switches.items())),
            "missed": self.missed,
            "false": self.false,
            "labels": self.labels,
            "objects": len(self.objects),
            "frames": self.frames,
        }

    def _matched(self, boxes: Boxes3D, truth: Boxes3D) -> NDArray[np.int64]:
        """Index (N,) of each box's label, -1 without (section 2.1.3 of the paper).

        A label keeps the track that it had while it is near; the others are paired at least distance.
        """
        assert boxes.track_ids is not None and truth.track_ids is not None
        result = np.full(len(boxes), -1, np.int64)
        if not (len(boxes) and len(truth)):
            return result
        off = boxes.boxes[:, None, :2].astype(np.float64) - truth.boxes[None, :, :2]
        away = np.hypot(off[..., 0], off[..., 1])
        away[~(away <= MATCH_M)] = FAR
        row_of = {int(t): i for i, t in enumerate(boxes.track_ids)}
        for k, number in enumerate(truth.track_ids.tolist()):
            row = row_of.get(self._id_of[number]) if number in self._id_of else None
            if row is not None and away[row, k] < FAR:
                result[row] = k
                away[row, :] = away[:, k] = FAR
        for i, k in zip(*linear_sum_assignment(away), strict=True):
            if away[i, k] < FAR:
                result[i] = k
        return result


def unknown_as_standing(frames: list[ScoredFrame]) -> list[ScoredFrame]:
    """The frames with velocity 0 for boxes without a known one; as they are where none has one.

    Otherwise the mean error would be that of the objects alone that are followed for long.
    """
    told = [f.predicted.velocities for f in frames]
    if not any(v is not None and np.isfinite(v).any() for v in told):
        return [replace(f, predicted=replace(f.predicted, velocities=None)) for f in frames]
    return [
        replace(
            f,
            predicted=replace(
                f.predicted,
                velocities=np.zeros((len(f.predicted), 2), np.float32)
                if v is None
                else np.nan_to_num(v, nan=0.0),
            ),
        )
        for f, v in zip(frames, told, strict=True)
    ]
