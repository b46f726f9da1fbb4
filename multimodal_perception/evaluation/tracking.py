"""CLEAR MOT tracking metrics (Bernardin and Stiefelhagen 2008), matched by centre distance."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from multimodal_perception.evaluation.detections import MAX_RANGE_M, evaluated_labels, within_range
from multimodal_perception.evaluation.nuscenes_metrics import ScoredFrame
from multimodal_perception.frame import Boxes3D

# The matching distance of the nuScenes tracking task.
MATCH_DISTANCE_M = 2.0
NO_MATCH = 1e6  # cost of pairs beyond the matching distance


@dataclass
class TrackingScore:
    """Counts over the frames of one or several drives, in temporal order.

    max_range: maximum distance of labels and boxes from the vehicle, metres. labels: evaluated labels.
    objects: their track ids. misses: labels without a box. false_positives: boxes without a label.
    matches: pairs of label and box, and distance: the sum of their centre distances, metres.
    id_switches: by class, how often the track id of a label's box differs from the previous one.
    earlier_objects: number of objects of merged drives.
    """

    max_range: float = MAX_RANGE_M
    frames: int = 0
    labels: int = 0
    misses: int = 0
    false_positives: int = 0
    matches: int = 0
    distance: float = 0.0
    id_switches: Counter[str] = field(default_factory=Counter)
    objects: set[int] = field(default_factory=set)
    earlier_objects: int = 0
    _predicted_id: dict[int, int] = field(default_factory=dict)  # by track id of the label

    def add(self, boxes: Boxes3D, truth: Boxes3D) -> None:
        """Count one frame. Raises ValueError if boxes or labels have no track_ids."""
        if boxes.track_ids is None or truth.track_ids is None:
            raise ValueError("boxes and labels need track_ids")
        evaluated = evaluated_labels(truth, self.max_range)
        label_of_box = self._match(boxes, truth)
        # A box on an ignored label is neither a true nor a false positive.
        box_evaluated = within_range(boxes, self.max_range)
        box_evaluated &= np.append(evaluated, True)[label_of_box]
        matched = np.flatnonzero((label_of_box >= 0) & box_evaluated)
        self.frames += 1
        self.labels += int(evaluated.sum())
        self.misses += int(evaluated.sum()) - len(matched)
        self.false_positives += int((box_evaluated & (label_of_box < 0)).sum())
        self.matches += len(matched)
        self.objects |= set(truth.track_ids[evaluated].tolist())
        for i in matched:
            label = int(label_of_box[i])
            true_id, predicted_id = int(truth.track_ids[label]), int(boxes.track_ids[i])
            self.distance += float(
                np.hypot(*(boxes.boxes[i, :2] - truth.boxes[label, :2]).astype(np.float64))
            )
            if self._predicted_id.get(true_id, predicted_id) != predicted_id:
                self.id_switches[truth.class_names[truth.labels[label]]] += 1
            self._predicted_id[true_id] = predicted_id

    def merge(self, other: TrackingScore) -> None:
        """Add the counts of another drive, whose objects are others than those of this one."""
        for name in ("frames", "labels", "misses", "false_positives", "matches"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.distance += other.distance
        self.id_switches.update(other.id_switches)
        self.earlier_objects += len(other.objects) + other.earlier_objects

    def metrics(self) -> dict[str, Any]:
        """mota, motp_m (mean centre distance of the matches), id_switches and the counts.

        mota and motp_m are NaN without labels or matches.
        """
        id_switches = sum(self.id_switches.values())
        errors = self.misses + self.false_positives + id_switches
        return {
            "mota": 1.0 - errors / self.labels if self.labels else float("nan"),
            "motp_m": self.distance / self.matches if self.matches else float("nan"),
            "id_switches": id_switches,
            "id_switches_by_class": dict(sorted(self.id_switches.items())),
            "misses": self.misses,
            "false_positives": self.false_positives,
            "labels": self.labels,
            "objects": len(self.objects) + self.earlier_objects,
            "frames": self.frames,
        }

    def _match(self, boxes: Boxes3D, truth: Boxes3D) -> NDArray[np.int64]:
        """Index (N,) of the label of each box, -1 if there is none (section 2.1.3 of the paper).

        A label keeps its previous track while that is within the matching distance. The other labels
        are assigned with minimum total distance.
        """
        assert boxes.track_ids is not None and truth.track_ids is not None
        result = np.full(len(boxes), -1, np.int64)
        if not (len(boxes) and len(truth)):
            return result
        offset = boxes.boxes[:, None, :2].astype(np.float64) - truth.boxes[None, :, :2]
        distance = np.hypot(offset[..., 0], offset[..., 1])
        distance[~(distance <= MATCH_DISTANCE_M)] = NO_MATCH
        box_of_track = {int(t): i for i, t in enumerate(boxes.track_ids)}
        for k, true_id in enumerate(truth.track_ids.tolist()):
            if true_id not in self._predicted_id:
                continue
            box = box_of_track.get(self._predicted_id[true_id])
            if box is not None and distance[box, k] < NO_MATCH:
                result[box] = k
                distance[box, :] = distance[:, k] = NO_MATCH
        for i, k in zip(*linear_sum_assignment(distance), strict=True):
            if distance[i, k] < NO_MATCH:
                result[i] = k
        return result


def missing_velocities_as_zero(frames: list[ScoredFrame]) -> list[ScoredFrame]:
    """The frames with velocity 0 for boxes without a velocity estimate.

    Otherwise the mean velocity error would only include objects that have been tracked for several
    frames. If no box of any frame has a velocity, the frames stay without velocities.
    """
    velocities = [f.predicted.velocities for f in frames]
    if not any(v is not None and np.isfinite(v).any() for v in velocities):
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
        for f, v in zip(frames, velocities, strict=True)
    ]
