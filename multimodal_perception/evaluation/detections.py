"""Recall and precision of 3D boxes, matched with labels by centre distance on the ground plane."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.frame import CLASS_NAMES, Boxes3D, SensorFrame
from multimodal_perception.geometry import poses
from multimodal_perception.latency import latency_percentiles
from multimodal_perception.perception import Perception

EVALUATED_CLASSES = (
    "car", "van", "truck", "trailer", "pedestrian", "cyclist", "motorcyclist",
)  # fmt: skip
# One of the matching distances of nuScenes (0.5, 1, 2 and 4 m; Caesar et al. 2020, section 3.1).
MATCH_DISTANCE_M = 1.0
MIN_POINTS = 10
MAX_RANGE_M = 40.0


@dataclass
class DetectionScore:
    """Counts of labels and boxes over frames.

    labels: evaluated labels, of which matched_labels have a box. boxes: evaluated boxes, of which
    matched_boxes have a label (true positives). by_class: class of the label to [matched, labels].
    by_predicted_class: class of the box to [matched, boxes]. max_range: maximum distance of labels
    and boxes from the vehicle, metres. labels_in_view: whether the data set has labels in the cameras'
    images only, as KITTI does. If so, boxes outside of all images are not evaluated; if not, false boxes
    count all around the vehicle.
    """

    labels: int = 0
    matched_labels: int = 0
    boxes: int = 0
    matched_boxes: int = 0
    frames: int = 0
    max_range: float = MAX_RANGE_M
    labels_in_view: bool = False
    by_class: dict[str, list[int]] = field(default_factory=dict)
    by_predicted_class: dict[str, list[int]] = field(default_factory=dict)

    def add(self, boxes: Boxes3D, frame: SensorFrame) -> None:
        """Count one frame. Raises ValueError if it has no labels."""
        if frame.labels is None:
            raise ValueError("the frame has no labels")
        truth = frame.labels
        evaluated = evaluated_labels(truth, self.max_range)
        self.frames += 1
        label_of_box = match_by_distance(
            boxes.boxes, boxes.scores, truth.boxes, MATCH_DISTANCE_M, evaluated
        )
        matched_labels = set(label_of_box[label_of_box >= 0].tolist())
        for i in np.flatnonzero(evaluated):
            name = truth.class_names[truth.labels[i]]
            self.labels += 1
            self.matched_labels += int(i) in matched_labels
            _count(self.by_class, name, int(i) in matched_labels)
        # A box on an ignored label (too far, too few points) is neither a true nor a false positive.
        on_ignored = (
            match_by_distance(boxes.boxes, boxes.scores, truth.boxes, MATCH_DISTANCE_M, ~evaluated)
            >= 0
        )
        is_evaluated = within_range(boxes, self.max_range)
        if self.labels_in_view:
            is_evaluated &= centre_in_any_camera(boxes, frame)
        is_evaluated &= ~(on_ignored & (label_of_box < 0))
        for i in np.flatnonzero(is_evaluated):
            name = boxes.class_names[boxes.labels[i]]
            self.boxes += 1
            self.matched_boxes += int(label_of_box[i] >= 0)
            _count(self.by_predicted_class, name, bool(label_of_box[i] >= 0))

    def merge(self, other: DetectionScore) -> None:
        """Add the counts of other frames."""
        for name in ("labels", "matched_labels", "boxes", "matched_boxes", "frames"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for mine, theirs in (
            (self.by_class, other.by_class),
            (self.by_predicted_class, other.by_predicted_class),
        ):
            for name, (matched, total) in theirs.items():
                counts = mine.setdefault(name, [0, 0])
                counts[0] += matched
                counts[1] += total

    def summary(self) -> dict[str, Any]:
        """recall_1m, precision_1m, false_positives_per_frame, max_range, counts and by class."""
        return {
            "recall_1m": self.recall,
            "precision_1m": self.precision,
            "false_positives_per_frame": self.false_positives_per_frame,
            "max_range": self.max_range,
            "labels_in_view": self.labels_in_view,
            "counts": {
                "labels": self.labels,
                "matched_labels": self.matched_labels,
                "boxes": self.boxes,
                "matched_boxes": self.matched_boxes,
            },
            "by_class": {
                name: {"recall_1m": matched / labels, "labels": labels}
                for name, (matched, labels) in sorted(self.by_class.items())
            },
            "by_predicted_class": {
                name: {"precision_1m": matched / boxes, "boxes": boxes}
                for name, (matched, boxes) in sorted(self.by_predicted_class.items())
            },
        }

    @property
    def recall(self) -> float:
        """Fraction of the labels that have a box; NaN without labels."""
        return self.matched_labels / self.labels if self.labels else float("nan")

    @property
    def precision(self) -> float:
        """Fraction of the boxes that have a label; NaN without boxes."""
        return self.matched_boxes / self.boxes if self.boxes else float("nan")

    @property
    def false_positives_per_frame(self) -> float:
        """Boxes without a label per labelled frame; NaN without frames."""
        if not self.frames:
            return float("nan")
        return (self.boxes - self.matched_boxes) / self.frames


def match_by_distance(
    boxes: NDArray[np.floating],
    scores: NDArray[np.floating],
    truth: NDArray[np.floating],
    max_distance: float,
    allowed: NDArray[np.bool_],
) -> NDArray[np.int64]:
    """Index (N,) of the label matched with each box, -1 if there is none.

    In descending order of the scores, each box takes the nearest unmatched label within max_distance
    (metres). boxes: (N, 7), scores: (N,), truth: (M, 7), allowed: (M,) labels that may be matched.
    """
    result = np.full(len(boxes), -1, np.int64)
    free = np.array(allowed, bool)
    for i in np.argsort(-np.asarray(scores), kind="stable"):
        distances = np.hypot(*(truth[:, :2] - boxes[i, :2]).T)
        distances[~free] = np.inf
        if len(distances) and distances.min() <= max_distance:
            result[i] = int(distances.argmin())
            free[result[i]] = False
    return result


def evaluate_detections(
    frames: Iterable[SensorFrame],
    process: Callable[[SensorFrame], Perception],
    repeats: int = 5,
    max_range: float = MAX_RANGE_M,
    on_labelled_frame: Callable[[int, SensorFrame, Boxes3D], None] | None = None,
    labels_in_view: bool = False,
) -> dict[str, Any]:
    """Evaluate a pipeline on labelled frames and measure its latency.

    The latency of a frame is the median of `repeats` runs. on_labelled_frame: called with the index,
    the frame and the detected boxes of each labelled frame, for further metrics. labels_in_view: see
    DetectionScore.

    Keys of the result: frames, labelled_frames, recall_1m, precision_1m, false_positives_per_frame,
    max_range, counts, by_class (recall), by_predicted_class (precision), latency_ms {p50, p95},
    stage_ms {stage: {p50, p95}}.
    """
    score = DetectionScore(max_range=max_range, labels_in_view=labels_in_view)
    times: dict[str, list[float]] = defaultdict(list)
    count = 0
    for index, frame, boxes, stage_ms in run_frames(frames, process, repeats):
        for stage, milliseconds in stage_ms.items():
            times[stage].append(milliseconds)
        count += 1
        if frame.labels is not None:
            score.add(boxes, frame)
            if on_labelled_frame is not None:
                on_labelled_frame(index, frame, boxes)
    return {
        "frames": count,
        "labelled_frames": score.frames,
        **score.summary(),
        **latency_summary(times),
    }


def run_frames(
    frames: Iterable[SensorFrame], process: Callable[[SensorFrame], Perception], repeats: int
) -> Iterator[tuple[int, SensorFrame, Boxes3D, dict[str, float]]]:
    """Yield index, frame, boxes, and the median time of `repeats` runs by stage, milliseconds."""
    for index, frame in enumerate(frames):
        runs = [process(frame) for _ in range(max(repeats, 1))]
        times = {s: float(np.median([r.stage_ms[s] for r in runs])) for s in runs[0].stage_ms}
        yield index, frame, runs[-1].boxes, times


def latency_summary(times: Mapping[str, list[float]]) -> dict[str, Any]:
    """latency_ms of the stage "total" and stage_ms of the others, percentiles of milliseconds."""
    stages = {name: values for name, values in times.items() if name != "total"}
    return {
        "latency_ms": latency_percentiles(times.get("total", [])),
        "stage_ms": {name: latency_percentiles(values) for name, values in stages.items()},
    }


def _count(counts: dict[str, list[int]], name: str, matched: bool) -> None:
    """Add one to the counts [matched, all] of a class."""
    row = counts.setdefault(name, [0, 0])
    row[0] += int(matched)
    row[1] += 1


def centre_in_any_camera(boxes: Boxes3D, frame: SensorFrame) -> NDArray[np.bool_]:
    """Mask (N,) of the boxes with the centre in the image of a camera; all True without images.

    Needed for KITTI, which has labels only inside the image.
    """
    if not frame.cameras:
        return np.ones(len(boxes), bool)
    return centres_in_images(boxes, frame, frame.cameras)


def centres_in_images(
    boxes: Boxes3D, frame: SensorFrame, sensors: Iterable[str]
) -> NDArray[np.bool_]:
    """Mask (N,) of the boxes with the centre in the image of any of these (thermal) cameras."""
    visible = np.zeros(len(boxes), bool)
    for name in sensors if len(boxes) else ():
        sensor_from_base = poses.inverse(frame.reference_from_sensor(name))
        centres = poses.transform_points(sensor_from_base, boxes.boxes[:, :3])
        visible |= frame.intrinsics[name].project(centres)[1]
    return visible


def within_range(boxes: Boxes3D, max_range: float) -> NDArray[np.bool_]:
    """Mask (N,) of the boxes within max_range metres of the vehicle."""
    return np.hypot(boxes.boxes[:, 0], boxes.boxes[:, 1]) <= max_range


def evaluated_labels(truth: Boxes3D, max_range: float) -> NDArray[np.bool_]:
    """Mask (N,) of the labels of EVALUATED_CLASSES within range and with enough LiDAR points."""
    in_classes = np.isin(truth.labels, [CLASS_NAMES.index(n) for n in EVALUATED_CLASSES])
    enough_points = np.ones(len(truth), bool)
    if truth.num_points is not None:
        enough_points = truth.num_points >= MIN_POINTS
    return in_classes & within_range(truth, max_range) & enough_points
