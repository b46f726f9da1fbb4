"""Recall and precision of boxes against labels, by distance of centres on the ground plane."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.frame import CLASS_NAMES, Boxes3D, SensorFrame
from multimodal_perception.geometry import poses
from multimodal_perception.perception import Perception

LABELLED = ("car", "van", "truck", "pedestrian", "cyclist")
# nuScenes' scale of matching (Caesar et al. 2020, section 3.1) has 0.5, 1, 2 and 4 m.
MATCH_M = 1.0
MIN_POINTS = 10
MAX_RANGE_M = 40.0


@dataclass
class DetectionScore:
    """Counts over frames: labels that counted and those found; boxes that counted and those right.

    per_class: labels' class to [found, labels]. predicted: boxes' class to [right, boxes].
    max_range: metres from the vehicle up to which labels and boxes count.
    """

    labels: int = 0
    found: int = 0
    boxes: int = 0
    right: int = 0
    frames: int = 0
    max_range: float = MAX_RANGE_M
    per_class: dict[str, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0]))
    predicted: dict[str, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0]))

    def add(self, boxes: Boxes3D, frame: SensorFrame) -> None:
        """Count one frame. Raises ValueError when it has no labels."""
        if frame.labels is None:
            raise ValueError("the frame has no labels")
        truth = frame.labels
        counts = countable(truth, self.max_range)
        self.frames += 1
        matched = match(boxes.boxes, boxes.scores, truth.boxes, MATCH_M, counts)
        found = set(matched[matched >= 0].tolist())
        for i in np.flatnonzero(counts):
            name = truth.class_names[truth.labels[i]]
            self.labels += 1
            self.found += int(i) in found
            self.per_class[name][0] += int(i) in found
            self.per_class[name][1] += 1
        # A label that does not count (too far, too few points) makes its box neither right nor wrong.
        ignored = match(boxes.boxes, boxes.scores, truth.boxes, MATCH_M, ~counts) >= 0
        judged = in_view(boxes, frame) & near(boxes, self.max_range) & ~(ignored & (matched < 0))
        for i in np.flatnonzero(judged):
            name = boxes.class_names[boxes.labels[i]]
            self.boxes += 1
            self.right += int(matched[i] >= 0)
            self.predicted[name][0] += int(matched[i] >= 0)
            self.predicted[name][1] += 1

    @property
    def recall(self) -> float:
        """Share of the labels found; NaN without labels."""
        return self.found / self.labels if self.labels else float("nan")

    @property
    def precision(self) -> float:
        """Share of the boxes that are right; NaN without boxes."""
        return self.right / self.boxes if self.boxes else float("nan")

    @property
    def false_per_frame(self) -> float:
        """Wrong boxes a labelled frame; NaN without one."""
        return (self.boxes - self.right) / self.frames if self.frames else float("nan")


def match(
    boxes: NDArray[np.floating],
    scores: NDArray[np.floating],
    truth: NDArray[np.floating],
    distance: float,
    allowed: NDArray[np.bool_],
) -> NDArray[np.int64]:
    """Index (N,) of the label of each box, -1 without one: best score first, nearest free label.

    boxes: (N, 7), scores: (N,), truth: (M, 7), allowed: (M,) which labels may be taken.
    """
    result = np.full(len(boxes), -1, np.int64)
    free = np.array(allowed, bool)
    for i in np.argsort(-np.asarray(scores), kind="stable"):
        away = np.hypot(*(truth[:, :2] - boxes[i, :2]).T)
        away[~free] = np.inf
        if len(away) and away.min() <= distance:
            result[i] = int(away.argmin())
            free[result[i]] = False
    return result


def evaluate(
    frames: Iterable[SensorFrame],
    process: Callable[[SensorFrame], Perception],
    repeats: int = 5,
    max_range: float = MAX_RANGE_M,
    told: Callable[[int, SensorFrame, Boxes3D], None] | None = None,
) -> dict[str, Any]:
    """Score a pipeline on labelled frames, and time it: the median of `repeats` runs a frame.

    told: is given the number, frame and boxes of each labelled frame, for other measures.

    Keys: frames, labelled_frames, recall_1m, precision_1m, false_per_frame, max_range, counts,
    per_class, predicted, latency_ms and stage_ms {p50, p95}.
    """
    score, count, labelled = DetectionScore(max_range=max_range), 0, 0
    times: dict[str, list[float]] = defaultdict(list)
    for frame in frames:
        runs = [process(frame) for _ in range(max(repeats, 1))]
        for stage in runs[0].stage_ms:
            times[stage].append(float(np.median([r.stage_ms[stage] for r in runs])))
        count += 1
        if frame.labels is not None:
            labelled += 1
            score.add(runs[-1].boxes, frame)
            if told is not None:
                told(count - 1, frame, runs[-1].boxes)
    totals = times.pop("total", [])
    return {
        "frames": count,
        "labelled_frames": labelled,
        "recall_1m": score.recall,
        "precision_1m": score.precision,
        "false_per_frame": score.false_per_frame,
        "max_range": max_range,
        "counts": {
            "labels": score.labels,
            "found": score.found,
            "boxes": score.boxes,
            "right": score.right,
        },
        "per_class": {
            n: {"recall_1m": f / m, "labels": m} for n, (f, m) in sorted(score.per_class.items())
        },
        "predicted": {
            n: {"precision_1m": r / m, "boxes": m} for n, (r, m) in sorted(score.predicted.items())
        },
        "latency_ms": percentiles(totals),
        "stage_ms": {stage: percentiles(values) for stage, values in times.items()},
    }


def percentiles(values: Iterable[float]) -> dict[str, float]:
    """p50 and p95; NaN of nothing."""
    array = np.array(list(values), np.float64)
    if not len(array):
        return {"p50": float("nan"), "p95": float("nan")}
    return {"p50": float(np.percentile(array, 50)), "p95": float(np.percentile(array, 95))}


def in_view(boxes: Boxes3D, frame: SensorFrame) -> NDArray[np.bool_]:
    """Boxes (N,) whose middle a camera has in its image, all where the frame has no image.

    KITTI labels nothing outside of its image.
    """
    if not frame.cameras:
        return np.ones(len(boxes), bool)
    return seen_by(boxes, frame, frame.cameras)


def seen_by(boxes: Boxes3D, frame: SensorFrame, sensors: Iterable[str]) -> NDArray[np.bool_]:
    """Boxes (N,) whose middle any of these cameras and thermal cameras has in its image."""
    seen = np.zeros(len(boxes), bool)
    for name in sensors if len(boxes) else ():
        sensor_from_base = poses.inverse(frame.reference_from_sensor(name))
        centres = poses.transform_points(sensor_from_base, boxes.boxes[:, :3])
        seen |= frame.intrinsics[name].project(centres)[1]
    return seen


def near(boxes: Boxes3D, max_range: float) -> NDArray[np.bool_]:
    """Boxes (N,) no further than that from the vehicle, metres."""
    return np.hypot(boxes.boxes[:, 0], boxes.boxes[:, 1]) <= max_range


def countable(truth: Boxes3D, max_range: float) -> NDArray[np.bool_]:
    """Labels (N,) that count: of LABELLED, near, and with enough LiDAR points."""
    wanted = np.isin(truth.labels, [CLASS_NAMES.index(n) for n in LABELLED])
    seen = np.ones(len(truth), bool) if truth.num_points is None else truth.num_points >= MIN_POINTS
    return wanted & near(truth, max_range) & seen
