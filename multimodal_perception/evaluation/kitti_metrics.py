"""The KITTI object metrics (Geiger et al. 2012): AP over 40 recalls (Simonelli et al. 2019).

A box is a true positive if its IoU with an unmatched label of its class exceeds 0.7 (cars) or 0.5
(pedestrians, cyclists). The IoU is that of the volumes (3d), the footprints (bev) or the image boxes
(image). A box is ignored if it matches a label that is too hard for the difficulty or of a similar class
(van, sitting person), or if its image box is lower than the minimum height. DontCare regions only exist
in the image and only affect the image metric.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.geometry.boxes import iou_3d, iou_bev
from multimodal_perception.kernels import njit

Metric = Literal["image", "bev", "3d"]
METRICS: tuple[Metric, ...] = ("image", "bev", "3d")
DIFFICULTIES = ("easy", "moderate", "hard")
# Limits by difficulty: height of the image box in pixels, occlusion (0 none to 3 unknown), and the
# fraction of the object outside the image.
MIN_HEIGHT = (40.0, 25.0, 25.0)
MAX_OCCLUSION = (0, 1, 2)
MAX_TRUNCATION = (0.15, 0.3, 0.5)
SIMILAR_TYPES = {"Car": "Van", "Pedestrian": "Person_sitting"}
MIN_OVERLAPS = {"Car": 0.7, "Pedestrian": 0.5, "Cyclist": 0.5}
DONT_CARE = "DontCare"
RECALLS = 40
# Status of a label or box for one class and difficulty; OTHER_CLASS takes no part in the matching.
EVALUATED, IGNORED, OTHER_CLASS = 0, 1, -1


@dataclass(frozen=True)
class KittiObjects:
    """The labels or the detections of one frame in KITTI's terms.

    types: N type names of KITTI. boxes: (N, 7) in a coordinate frame with z up. image_boxes: (N, 4)
    left, top, right, bottom, pixels. scores: (N,), None for labels. occlusion: (N,) int64, and
    truncation: (N,), only for labels. The 3D boxes of DontCare regions are not used.
    """

    types: tuple[str, ...]
    boxes: NDArray[np.floating]
    image_boxes: NDArray[np.floating]
    scores: NDArray[np.floating] | None = None
    occlusion: NDArray[np.int64] | None = None
    truncation: NDArray[np.floating] | None = None

    def __post_init__(self) -> None:
        n = len(self.types)
        if self.boxes.shape != (n, 7) or self.image_boxes.shape != (n, 4):
            raise ValueError("boxes must be (N, 7) and image_boxes (N, 4), N the number of types")
        for name in ("scores", "occlusion", "truncation"):
            values = getattr(self, name)
            if values is not None and values.shape != (n,):
                raise ValueError(f"{name} must be (N,)")
        used = np.array([t != DONT_CARE for t in self.types], bool)
        arrays = [self.image_boxes, self.boxes[used]]
        if self.scores is not None:
            arrays.append(self.scores)
        if not all(np.isfinite(a).all() for a in arrays):
            raise ValueError("boxes and scores must be finite")


@dataclass(frozen=True)
class KittiFrame:
    """The detections and the labels of one frame."""

    detections: KittiObjects
    truth: KittiObjects

    def __post_init__(self) -> None:
        if self.detections.scores is None:
            raise ValueError("detections need scores")
        if self.truth.occlusion is None or self.truth.truncation is None:
            raise ValueError("labels need occlusion and truncation")


@dataclass(frozen=True)
class _FrameStatus:
    """The status of the labels and boxes of one frame for one class and difficulty.

    labels: (M,) and boxes: (N,) int64, EVALUATED, IGNORED or OTHER_CLASS. overlap: (N, M) IoU. scores:
    (N,). in_dont_care: (N,) bool, boxes in a DontCare region.
    """

    labels: NDArray[np.int64]
    boxes: NDArray[np.int64]
    overlap: NDArray[np.float64]
    scores: NDArray[np.float64]
    in_dont_care: NDArray[np.bool_]


def kitti_metrics(
    frames: Sequence[KittiFrame], min_overlaps: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """AP R40 in percent by metric, class and difficulty, {"3d": {"Car": {"easy": ...}}}, and `labels`.

    min_overlaps: minimum IoU by class, for the evaluated classes. AP is NaN without evaluated labels.
    With N labels at most N of the 41 recalls are reached, so that AP is low for few labels, as in the
    KITTI evaluation.
    """
    min_overlaps = MIN_OVERLAPS if min_overlaps is None else min_overlaps
    result: dict[str, Any] = {"labels": {}}
    for metric in METRICS:
        overlaps = [_overlap(f.detections, f.truth, metric) for f in frames]
        result[metric] = {}
        for name, min_overlap in min_overlaps.items():
            result[metric][name] = {}
            for level, difficulty in enumerate(DIFFICULTIES):
                status = [
                    _frame_status(frame, overlap, name, level, metric, min_overlap)
                    for frame, overlap in zip(frames, overlaps, strict=True)
                ]
                result[metric][name][difficulty] = average_precision(status, min_overlap)
                labels = sum(int((s.labels == EVALUATED).sum()) for s in status)
                result["labels"].setdefault(name, {})[difficulty] = labels
    return result


def average_precision(frames: Sequence[_FrameStatus], min_overlap: float) -> float:
    """Mean interpolated precision at 40 recalls, percent; NaN without labels."""
    labels = sum(int((f.labels == EVALUATED).sum()) for f in frames)
    if not labels:
        return float("nan")
    scores = [
        _true_positive_scores(f.labels, f.boxes, f.overlap, f.scores, min_overlap) for f in frames
    ]
    thresholds = _score_thresholds(np.concatenate(scores), labels)
    true_positives, false_positives = np.zeros(len(thresholds)), np.zeros(len(thresholds))
    for f in frames:
        counts = _count_positives(
            f.labels, f.boxes, f.overlap, f.scores, f.in_dont_care, min_overlap, thresholds
        )
        true_positives, false_positives = true_positives + counts[0], false_positives + counts[1]
    precision = np.zeros(RECALLS + 1)
    precision[: len(thresholds)] = true_positives / np.maximum(true_positives + false_positives, 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return float(100.0 * best[1:].mean())


def image_overlap(
    a: NDArray[np.floating], b: NDArray[np.floating], of_first: bool = False
) -> NDArray[np.float64]:
    """IoU (N, M) of image boxes (N, 4) and (M, 4).

    of_first: divide the intersection by the area of the first box instead of the union.
    """
    a, b = np.asarray(a, np.float64)[:, None], np.asarray(b, np.float64)[None]
    size = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    common = np.maximum(size, 0.0).prod(axis=-1)
    area_a, area_b = ((r[..., 2:] - r[..., :2]).prod(axis=-1) for r in (a, b))
    area = np.broadcast_to(area_a, common.shape) if of_first else area_a + area_b - common
    return np.divide(common, area, out=np.zeros_like(common), where=common > 0)


def _overlap(detections: KittiObjects, truth: KittiObjects, metric: Metric) -> NDArray[np.float64]:
    """IoU (N, M) of detections and labels for a metric; 0 with DontCare regions in 3D."""
    if metric == "image":
        return image_overlap(detections.image_boxes, truth.image_boxes)
    overlap = (iou_bev if metric == "bev" else iou_3d)(detections.boxes, truth.boxes)
    overlap[:, [t == DONT_CARE for t in truth.types]] = 0.0
    return overlap


def _frame_status(
    frame: KittiFrame,
    overlap: NDArray[np.float64],
    name: str,
    level: int,
    metric: Metric,
    min_overlap: float,
) -> _FrameStatus:
    """Classify the labels and boxes of a frame for the class `name` and the difficulty `level`."""
    detections, truth = frame.detections, frame.truth
    assert detections.scores is not None
    assert truth.occlusion is not None and truth.truncation is not None
    types = np.array(truth.types, np.str_)
    similar = SIMILAR_TYPES.get(name)
    height = truth.image_boxes[:, 3] - truth.image_boxes[:, 1]
    occluded = truth.occlusion > MAX_OCCLUSION[level]
    hard = occluded | (truth.truncation > MAX_TRUNCATION[level]) | (height <= MIN_HEIGHT[level])
    labels = np.where(types == name, np.where(hard, IGNORED, EVALUATED), OTHER_CLASS)
    if similar is not None:
        labels[types == similar] = IGNORED
    boxes = np.where(np.array(detections.types, np.str_) == name, EVALUATED, OTHER_CLASS)
    # Low boxes of every class are ignored, as in the KITTI evaluation code.
    box_height = np.abs(detections.image_boxes[:, 3] - detections.image_boxes[:, 1])
    boxes[box_height < MIN_HEIGHT[level]] = IGNORED
    regions = truth.image_boxes[(types == DONT_CARE) & (metric == "image")]
    region_overlap = image_overlap(detections.image_boxes, regions, of_first=True)
    return _FrameStatus(
        labels.astype(np.int64),
        boxes.astype(np.int64),
        overlap,
        np.asarray(detections.scores, np.float64),
        np.asarray((region_overlap > min_overlap).any(axis=1)),
    )


def _score_thresholds(scores: NDArray[np.float64], labels: int) -> NDArray[np.float64]:
    """Score thresholds (K,), K at most 41, with recalls closest to 0, 1/40, ..., 1.

    scores: of the true positives.
    """
    thresholds: list[float] = []
    ordered = np.sort(scores)[::-1]
    target = 0.0
    for i, score in enumerate(ordered.tolist()):
        recall, next_recall = (i + 1) / labels, (i + 2) / labels
        if i < len(ordered) - 1 and next_recall - target < target - recall:
            continue
        thresholds.append(score)
        target += 1.0 / RECALLS
    return np.array(thresholds)


@njit(nogil=True)
def _true_positive_scores(labels, boxes, overlap, scores, min_overlap):  # type: ignore[no-untyped-def]
    """Scores of the true positives without a score threshold; labels take the highest score."""
    free = boxes != OTHER_CLASS
    hits = np.empty(len(labels))
    count = 0
    for m in range(len(labels)):
        if labels[m] == OTHER_CLASS:
            continue
        best = -1
        for n in range(len(boxes)):
            if free[n] and overlap[n, m] > min_overlap and (best < 0 or scores[n] > scores[best]):
                best = n
        if best < 0:
            continue
        free[best] = False
        if labels[m] == EVALUATED and boxes[best] == EVALUATED:
            hits[count] = scores[best]
            count += 1
    return hits[:count]


@njit(nogil=True)
def _count_positives(  # type: ignore[no-untyped-def]
    labels, boxes, overlap, scores, in_dont_care, min_overlap, thresholds
):
    """Numbers of true and false positives (2, K) for each score threshold (K,).

    Each label takes the box of the highest overlap, evaluated boxes before ignored ones.
    """
    counts = np.zeros((2, len(thresholds)), np.int64)
    for k in range(len(thresholds)):
        free = (boxes != OTHER_CLASS) & (scores >= thresholds[k])
        for m in range(len(labels)):
            if labels[m] == OTHER_CLASS:
                continue
            best = -1
            for n in range(len(boxes)):
                if not free[n] or overlap[n, m] <= min_overlap:
                    continue
                better = best < 0 or (
                    boxes[n] == EVALUATED
                    and (boxes[best] == IGNORED or overlap[n, m] > overlap[best, m])
                )
                if better:
                    best = n
            if best < 0:
                continue
            free[best] = False
            if labels[m] == EVALUATED and boxes[best] == EVALUATED:
                counts[0, k] += 1
        for n in range(len(boxes)):
            if free[n] and boxes[n] == EVALUATED and not in_dont_care[n]:
                counts[1, k] += 1
    return counts
