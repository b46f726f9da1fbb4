"""KITTI's object metrics (Geiger et al. 2012): AP over 40 recalls (Simonelli et al. 2019).

A box is right when it overlaps a free label of its class by more than 0.7 (cars) or 0.5 (people): of
volumes (3d), of footprints (bev) or of rectangles in the image (image). Harder labels than the
difficulty's, and those of a neighbouring class (vans, sitting persons), make a box neither right nor
wrong, and so does a rectangle less high than the difficulty's least; regions marked DontCare do so in
the image, where alone they have a place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numba
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.geometry.boxes import iou_3d, iou_bev

Metric = Literal["image", "bev", "3d"]
METRICS: tuple[Metric, ...] = ("image", "bev", "3d")
DIFFICULTIES = ("easy", "moderate", "hard")
# Pixels a rectangle is high at least, how much is hidden at most (0 nothing to 3 nearly all), and the
# share out of the image at most.
MIN_HEIGHT = (40.0, 25.0, 25.0)
MAX_OCCLUSION = (0, 1, 2)
MAX_TRUNCATION = (0.15, 0.3, 0.5)
NEIGHBOURS = {"Car": "Van", "Pedestrian": "Person_sitting"}
OVERLAPS = {"Car": 0.7, "Pedestrian": 0.5, "Cyclist": 0.5}
DONT_CARE = "DontCare"
RECALLS = 40
COUNTS, IGNORED, OTHER = 0, 1, -1


@dataclass(frozen=True)
class KittiObjects:
    """Objects of one frame in KITTI's terms: labels, or what was found.

    types: KITTI's names, N of them. boxes: (N, 7), of one frame of reference with z up. image_boxes:
    (N, 4) left, top, right, bottom, pixels. scores: (N,) or None for labels. occlusion (N,) int64 and
    truncation (N,): of labels alone. DontCare regions are labels whose box (7,) means nothing.
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
        told = [self.image_boxes] if self.scores is None else [self.image_boxes, self.scores]
        cared = np.array([t != DONT_CARE for t in self.types], bool)
        if not all(np.isfinite(v).all() for v in (*told, self.boxes[cared])):
            raise ValueError("boxes and scores must be finite")


@dataclass(frozen=True)
class KittiFrame:
    """What was found in one frame and its labels. tags: what the frame is."""

    found: KittiObjects
    truth: KittiObjects
    tags: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.found.scores is None:
            raise ValueError("what was found needs scores")
        if self.truth.occlusion is None or self.truth.truncation is None:
            raise ValueError("labels need occlusion and truncation")


@dataclass(frozen=True)
class _Roles:
    """One frame as one class and difficulty see it: which labels and boxes count, and how they overlap.

    labels: (M,) and boxes: (N,) int64, COUNTS, IGNORED or OTHER. overlap: (N, M). scores: (N,).
    stuff: (N,) bool, boxes in a DontCare region.
    """

    labels: NDArray[np.int64]
    boxes: NDArray[np.int64]
    overlap: NDArray[np.float64]
    scores: NDArray[np.float64]
    stuff: NDArray[np.bool_]


def kitti_metrics(
    frames: Sequence[KittiFrame], overlaps: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """AP R40 in percent by metric, class and difficulty, {"3d": {"Car": {"easy": ...}}}, and `labels`.

    overlaps: the least overlap of each class that is scored. NaN where no label counts. N labels reach
    no more than N of the 41 recalls: with few of them AP is low, by KITTI's rules.
    """
    overlaps = OVERLAPS if overlaps is None else overlaps
    result: dict[str, Any] = {"labels": {}}
    for metric in METRICS:
        common = [_overlap(f.found, f.truth, metric) for f in frames]
        result[metric] = {}
        for name, least in overlaps.items():
            result[metric][name] = {}
            for level, difficulty in enumerate(DIFFICULTIES):
                pairs = zip(frames, common, strict=True)
                roles = [_roles(f, o, name, level, metric, least) for f, o in pairs]
                result[metric][name][difficulty] = average_precision(roles, least)
                labels = sum(int((r.labels == COUNTS).sum()) for r in roles)
                result["labels"].setdefault(name, {})[difficulty] = labels
    return result


def average_precision(frames: Sequence[_Roles], least: float) -> float:
    """Mean of the best precision at or above each of 40 recalls, percent; NaN without labels."""
    labels = sum(int((f.labels == COUNTS).sum()) for f in frames)
    if not labels:
        return float("nan")
    hits = [_hit_scores(f.labels, f.boxes, f.overlap, f.scores, least) for f in frames]
    cuts = _score_cuts(np.concatenate(hits), labels)
    right, wrong = np.zeros(len(cuts)), np.zeros(len(cuts))
    for f in frames:
        counts = _counts(f.labels, f.boxes, f.overlap, f.scores, f.stuff, least, cuts)
        right, wrong = right + counts[0], wrong + counts[1]
    precision = np.zeros(RECALLS + 1)
    precision[: len(cuts)] = right / np.maximum(right + wrong, 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return float(100.0 * best[1:].mean())


def image_overlap(
    a: NDArray[np.floating], b: NDArray[np.floating], of_first: bool = False
) -> NDArray[np.float64]:
    """Intersection (N, M) of rectangles (N, 4) and (M, 4) over their union, or over the first's area."""
    a, b = np.asarray(a, np.float64)[:, None], np.asarray(b, np.float64)[None]
    size = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    common = np.maximum(size, 0.0).prod(axis=-1)
    area_a, area_b = ((r[..., 2:] - r[..., :2]).prod(axis=-1) for r in (a, b))
    whole = np.broadcast_to(area_a, common.shape) if of_first else area_a + area_b - common
    return np.divide(common, whole, out=np.zeros_like(common), where=common > 0)


def _overlap(found: KittiObjects, truth: KittiObjects, metric: Metric) -> NDArray[np.float64]:
    if metric == "image":
        return image_overlap(found.image_boxes, truth.image_boxes)
    overlap = (iou_bev if metric == "bev" else iou_3d)(found.boxes, truth.boxes)
    overlap[:, [t == DONT_CARE for t in truth.types]] = 0.0
    return overlap


def _roles(
    frame: KittiFrame,
    overlap: NDArray[np.float64],
    name: str,
    level: int,
    metric: Metric,
    least: float,
) -> _Roles:
    found, truth = frame.found, frame.truth
    assert found.scores is not None
    assert truth.occlusion is not None and truth.truncation is not None
    types = np.array(truth.types, np.str_)
    neighbour = NEIGHBOURS.get(name)
    height = truth.image_boxes[:, 3] - truth.image_boxes[:, 1]
    hidden = truth.occlusion > MAX_OCCLUSION[level]
    hard = hidden | (truth.truncation > MAX_TRUNCATION[level]) | (height <= MIN_HEIGHT[level])
    labels = np.where(types == name, np.where(hard, IGNORED, COUNTS), OTHER)
    if neighbour is not None:
        labels[types == neighbour] = IGNORED
    boxes = np.where(np.array(found.types, np.str_) == name, COUNTS, OTHER)
    # Of whatever class: so KITTI has it.
    boxes[np.abs(found.image_boxes[:, 3] - found.image_boxes[:, 1]) < MIN_HEIGHT[level]] = IGNORED
    regions = truth.image_boxes[(types == DONT_CARE) & (metric == "image")]
    stuff = (image_overlap(found.image_boxes, regions, of_first=True) > least).any(axis=1)
    scores = np.asarray(found.scores, np.float64)
    return _Roles(
        labels.astype(np.int64), boxes.astype(np.int64), overlap, scores, np.asarray(stuff)
    )


def _score_cuts(scores: NDArray[np.float64], labels: int) -> NDArray[np.float64]:
    """Scores of right boxes (K,), K at most 41, whose recalls come nearest to 0, 1/40, ..., 1."""
    cuts: list[float] = []
    ordered = np.sort(scores)[::-1]
    wanted = 0.0
    for i, score in enumerate(ordered.tolist()):
        recall, following = (i + 1) / labels, (i + 2) / labels
        if i < len(ordered) - 1 and following - wanted < wanted - recall:
            continue
        cuts.append(score)
        wanted += 1.0 / RECALLS
    return np.array(cuts)


@numba.njit(cache=True, nogil=True)
def _hit_scores(labels, boxes, overlap, scores, least):  # type: ignore[no-untyped-def]
    """Scores of the boxes that are right when all are kept: each label takes the best score."""
    free = boxes != OTHER
    hits = np.empty(len(labels))
    count = 0
    for m in range(len(labels)):
        if labels[m] == OTHER:
            continue
        chosen = -1
        for n in range(len(boxes)):
            if free[n] and overlap[n, m] > least and (chosen < 0 or scores[n] > scores[chosen]):
                chosen = n
        if chosen < 0:
            continue
        free[chosen] = False
        if labels[m] == COUNTS and boxes[chosen] == COUNTS:
            hits[count] = scores[chosen]
            count += 1
    return hits[:count]


@numba.njit(cache=True, nogil=True)
def _counts(labels, boxes, overlap, scores, stuff, least, cuts):  # type: ignore[no-untyped-def]
    """Right and wrong boxes (2, K) of those whose score is at least each cut (K,).

    Each label takes the box that overlaps it most, one that counts before one that is ignored.
    """
    counts = np.zeros((2, len(cuts)), np.int64)
    for k in range(len(cuts)):
        free = (boxes != OTHER) & (scores >= cuts[k])
        for m in range(len(labels)):
            if labels[m] == OTHER:
                continue
            chosen = -1
            for n in range(len(boxes)):
                if not free[n] or overlap[n, m] <= least:
                    continue
                better = chosen < 0 or (
                    boxes[n] == COUNTS
                    and (boxes[chosen] == IGNORED or overlap[n, m] > overlap[chosen, m])
                )
                if better:
                    chosen = n
            if chosen < 0:
                continue
            free[chosen] = False
            if labels[m] == COUNTS and boxes[chosen] == COUNTS:
                counts[0, k] += 1
        for n in range(len(boxes)):
            if free[n] and boxes[n] == COUNTS and not stuff[n]:
                counts[1, k] += 1
    return counts
