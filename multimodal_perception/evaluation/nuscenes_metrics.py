"""The nuScenes detection metrics (Caesar et al. 2020, section 3.1): mAP by centre distance, and NDS.

A box is a true positive if its centre lies within 0.5, 1, 2 or 4 m of an unmatched label of its class,
on the ground plane. AP is the normalised area under the precision-recall curve above a precision and
recall of 0.1; mAP is the mean over distances and classes. The errors of the true positives at 2 m are
ATE (translation, metres), ASE (scale, 1 - IoU of the sizes), AOE (orientation, radians), AVE (velocity,
m/s) and AAE (attribute, fraction of wrong attributes).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.frame import Boxes3D
from multimodal_perception.kernels import njit

ERRORS = ("ate", "ase", "aoe", "ave", "aae")
# Evaluation range of the classes, metres from the vehicle: detection_cvpr_2019 of nuScenes.
CLASS_RANGES = {
    "car": 50.0,
    "truck": 50.0,
    "bus": 50.0,
    "pedestrian": 40.0,
    "cyclist": 40.0,
    "cone": 30.0,
    "barrier": 30.0,
}
# Classes that are evaluated by default. Cones and barriers must be requested.
MOVING_CLASSES = ("car", "truck", "bus", "pedestrian", "cyclist")
# Undefined errors: a cone has no orientation; cones and barriers do not move and have no attributes.
CONES, BARRIERS = ("cone", "traffic_cone", "Cones"), ("barrier", "Barriers")
UNDEFINED_ERRORS = {
    **dict.fromkeys(CONES, ("aoe", "ave", "aae")),
    **dict.fromkeys(BARRIERS, ("ave", "aae")),
}
# Vans that are at least this long and high are cargo vans: minivans are lower (up to 1.9 m) or shorter,
# panel vans and delivery vans start at 5.3 m and 2.0 m. Metres.
LARGE_VAN_LENGTH, LARGE_VAN_HEIGHT = 5.0, 1.95
RECALLS = np.linspace(0.0, 1.0, 101)  # recalls at which the precision is sampled


@dataclass(frozen=True)
class NuScenesProtocol:
    """Parameters of the metrics.

    ranges: evaluation range by class, metres from the vehicle; other classes are not evaluated.
    aliases: class to the class as which it is evaluated; cars of nuScenes include vans. large_vans:
    class as which boxes of the class van are evaluated from LARGE_VAN_LENGTH and LARGE_VAN_HEIGHT on;
    empty for the same class as of other vans. distances: matching distances of the AP, metres.
    error_distance: matching distance of the errors, metres. min_recall, min_precision: lower limits of
    the area under the curve. max_boxes: maximum number of boxes per frame. fill_missing: if true, as in
    the devkit, a class without labels has AP 0 and errors 1, and an error that cannot be measured is 1,
    as is AVE if no box has a velocity. If false, these values are NaN and excluded from the means.
    """

    ranges: Mapping[str, float] = field(default_factory=lambda: dict(CLASS_RANGES))
    aliases: Mapping[str, str] = field(default_factory=lambda: {"van": "car"})
    large_vans: str = ""
    distances: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)
    error_distance: float = 2.0
    min_recall: float = 0.1
    min_precision: float = 0.1
    max_boxes: int = 500
    fill_missing: bool = False

    @classmethod
    def for_classes(
        cls, classes: Sequence[str] = MOVING_CLASSES, max_range: float | None = None
    ) -> NuScenesProtocol:
        """The protocol for some classes of CLASS_RANGES, with ranges of at most max_range metres."""
        protocol = cls({name: CLASS_RANGES[name] for name in classes})
        return protocol if max_range is None else protocol.limit_range(max_range)

    def limit_range(self, max_range: float) -> NuScenesProtocol:
        """The same protocol with ranges of at most max_range metres."""
        return replace(self, ranges={n: min(r, max_range) for n, r in self.ranges.items()})


@dataclass(frozen=True)
class ScoredFrame:
    """The predicted boxes and the labels of one frame, in the same coordinate frame at the vehicle.

    predicted: N boxes. truth: the M evaluated labels. true_attributes, attributes: attribute indices
    (M,) of the labels and (N,) of the boxes, int64, -1 for none; or None if not available. tags:
    properties of the frame, such as {"condition": "night"}.
    """

    predicted: Boxes3D
    truth: Boxes3D
    true_attributes: NDArray[np.int64] | None = None
    attributes: NDArray[np.int64] | None = None
    tags: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for boxes, attributes in (
            (self.truth, self.true_attributes),
            (self.predicted, self.attributes),
        ):
            if attributes is not None and attributes.shape != (len(boxes),):
                raise ValueError("attributes must have one value per box")
        if not np.isfinite(self.predicted.scores).all():
            raise ValueError("scores must be finite")
        for boxes in (self.predicted, self.truth):
            if not np.isfinite(boxes.boxes).all() or not (boxes.boxes[:, 3:6] > 0).all():
                raise ValueError("boxes must be finite and have a positive size")


@dataclass(frozen=True)
class _BoxArrays:
    """The boxes (or labels) of one class in all frames, ordered by frame.

    frames: (K,) index of the frame. boxes: (K, 7). scores: (K,). velocities: (K, 2), NaN if unknown.
    attributes: (K,), -1 if there is none.
    """

    frames: NDArray[np.int64]
    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    velocities: NDArray[np.float64]
    attributes: NDArray[np.int64]


def nuscenes_metrics(
    frames: Sequence[ScoredFrame], protocol: NuScenesProtocol | None = None
) -> dict[str, Any]:
    """The metrics over frames.

    Keys: map; nds; nds_excluded_errors; the mean ate, ase, aoe, ave, aae; labels; boxes; by_class, with
    ap, ap_at by distance, the errors, labels and boxes. Values that cannot be measured are NaN. NDS
    (equation 3) has weight 5 for mAP and 1 for each error, clipped at 1. Errors that cannot be measured
    are excluded from it (nds_excluded_errors). NDS values with different exclusions are not comparable.
    """
    protocol = protocol or NuScenesProtocol()
    boxes = [_evaluated(f.predicted, f.attributes, protocol, True) for f in frames]
    labels = [_evaluated(f.truth, f.true_attributes, protocol, False) for f in frames]
    has_velocities = any(f.predicted.velocities is not None for f in frames)
    by_class = {
        name: _class_metrics(
            _concatenate(boxes, name),
            _concatenate(labels, name),
            len(frames),
            name,
            protocol,
            has_velocities,
        )
        for name in protocol.ranges
    }
    mean_ap = _mean([c["ap"] for c in by_class.values()])
    errors = {e: _mean([c[e] for c in by_class.values()]) for e in ERRORS}
    measured = [e for e in errors.values() if np.isfinite(e)]
    score = 5.0 * mean_ap + sum(1.0 - min(1.0, e) for e in measured)
    return {
        "map": mean_ap,
        "nds": score / (5.0 + len(measured)),
        "nds_excluded_errors": [name for name, e in errors.items() if not np.isfinite(e)],
        **errors,
        "labels": sum(c["labels"] for c in by_class.values()),
        "boxes": sum(c["boxes"] for c in by_class.values()),
        "by_class": by_class,
    }


_NamedBoxes = tuple[NDArray[np.str_], _BoxArrays]


def benchmark_names(boxes: Boxes3D, protocol: NuScenesProtocol) -> NDArray[np.str_]:
    """Class (N,) as which each box is evaluated. The result may contain classes without a range."""
    aliases = protocol.aliases
    width = max(len(n) for n in (*boxes.class_names, *aliases.values(), protocol.large_vans))
    names = np.array([aliases.get(n, n) for n in boxes.class_names], f"<U{width}")
    result = names[np.asarray(boxes.labels, np.int64)]
    if protocol.large_vans and "van" in boxes.class_names:
        is_van = np.asarray(boxes.labels) == boxes.class_names.index("van")
        is_large = (boxes.boxes[:, 3] >= LARGE_VAN_LENGTH) & (boxes.boxes[:, 5] >= LARGE_VAN_HEIGHT)
        result[is_van & is_large] = protocol.large_vans
    return result


def _evaluated(
    boxes: Boxes3D,
    attributes: NDArray[np.int64] | None,
    protocol: NuScenesProtocol,
    limit: bool,
) -> _NamedBoxes:
    """Class names (K,) and arrays of the evaluated boxes of one frame.

    limit: keep only the protocol's max_boxes boxes of the highest scores.
    """
    names = benchmark_names(boxes, protocol)
    max_range = np.array([protocol.ranges.get(n, 0.0) for n in names.tolist()], np.float64)
    distance = np.linalg.norm(boxes.boxes[:, :2].astype(np.float64), axis=1)
    selected = np.flatnonzero(distance < max_range)
    if limit and len(selected) > protocol.max_boxes:
        best = np.argsort(-boxes.scores[selected], kind="stable")[: protocol.max_boxes]
        selected = selected[np.sort(best)]
    n = len(boxes)
    velocities = np.full((n, 2), np.nan) if boxes.velocities is None else boxes.velocities
    attributes = np.full(n, -1, np.int64) if attributes is None else attributes
    arrays = _BoxArrays(
        np.zeros(len(selected), np.int64),
        boxes.boxes[selected].astype(np.float64),
        boxes.scores[selected].astype(np.float64),
        np.asarray(velocities, np.float64)[selected],
        attributes[selected],
    )
    return names[selected], arrays


def _concatenate(frames: Sequence[_NamedBoxes], name: str) -> _BoxArrays:
    """The boxes of one class in all frames."""
    parts: list[_BoxArrays] = []
    for index, (names, arrays) in enumerate(frames):
        rows = np.flatnonzero(names == name)
        parts.append(
            _BoxArrays(
                np.full(len(rows), index, np.int64),
                arrays.boxes[rows],
                arrays.scores[rows],
                arrays.velocities[rows],
                arrays.attributes[rows],
            )
        )
    return _BoxArrays(
        np.concatenate([np.zeros(0, np.int64), *(p.frames for p in parts)]),
        np.concatenate([np.zeros((0, 7)), *(p.boxes for p in parts)]),
        np.concatenate([np.zeros(0), *(p.scores for p in parts)]),
        np.concatenate([np.zeros((0, 2)), *(p.velocities for p in parts)]),
        np.concatenate([np.zeros(0, np.int64), *(p.attributes for p in parts)]),
    )


def _class_metrics(
    boxes: _BoxArrays,
    labels: _BoxArrays,
    frames: int,
    name: str,
    protocol: NuScenesProtocol,
    has_velocities: bool,
) -> dict[str, Any]:
    """AP and errors of one class. has_velocities: whether the predicted boxes have velocities."""
    if len(labels.boxes):
        aps, errors = _ap_and_errors(boxes, labels, frames, name, protocol)
        if not has_velocities and not protocol.fill_missing:
            errors["ave"] = float("nan")
    else:
        ap, error = (0.0, 1.0) if protocol.fill_missing else (np.nan, np.nan)
        aps, errors = dict.fromkeys(protocol.distances, ap), dict.fromkeys(ERRORS, error)
    undefined = dict.fromkeys(UNDEFINED_ERRORS.get(name, ()), np.nan)
    return {
        "ap": float(np.mean(list(aps.values()))),
        "ap_at": {f"{distance:g}": ap for distance, ap in aps.items()},
        **errors,
        **undefined,
        "labels": len(labels.boxes),
        "boxes": len(boxes.boxes),
    }


def _ap_and_errors(
    boxes: _BoxArrays, labels: _BoxArrays, frames: int, name: str, protocol: NuScenesProtocol
) -> tuple[dict[float, float], dict[str, float]]:
    """AP by distance and the errors of a class that has labels."""
    # By descending score; the last one of equal scores first, like the devkit.
    order = np.lexsort((np.arange(len(boxes.scores)), boxes.scores))[::-1]
    starts = np.searchsorted(labels.frames, np.arange(frames + 1))
    count = len(labels.boxes)

    def match(distance: float) -> NDArray[np.int64]:
        matched = _match(order, boxes.frames, boxes.boxes, starts, labels.boxes, distance)
        return np.asarray(matched)[order]

    aps = {d: _average_precision(match(d) >= 0, count, protocol) for d in protocol.distances}
    matched = match(protocol.error_distance)
    measurable = _measurable_errors(labels)
    errors = {
        error: _mean_error(values, matched >= 0, boxes.scores[order], count, protocol)
        if measurable[error] or protocol.fill_missing
        else float("nan")
        for error, values in _errors(matched, order, boxes, labels, name).items()
    }
    return aps, errors


def _measurable_errors(labels: _BoxArrays) -> dict[str, bool]:
    """Whether the labels have the values from which each error is computed."""
    return {
        **dict.fromkeys(ERRORS, True),
        "ave": bool(np.isfinite(labels.velocities).all(axis=1).any()),
        "aae": bool((labels.attributes >= 0).any()),
    }


def _average_precision(
    true_positive: NDArray[np.bool_], labels: int, protocol: NuScenesProtocol
) -> float:
    """Normalised area under the precision-recall curve above min_precision and min_recall.

    true_positive: (N,) for the boxes by descending score. labels: number of labels.
    """
    if not true_positive.any():
        return 0.0
    hits = np.cumsum(true_positive)
    precision = hits / np.arange(1, len(true_positive) + 1)
    sampled = np.interp(RECALLS, hits / labels, precision, right=0)
    above = sampled[_first_recall_index(protocol) :] - protocol.min_precision
    return min(float(np.maximum(above, 0.0).mean() / (1.0 - protocol.min_precision)), 1.0)


def _errors(
    match: NDArray[np.int64],
    order: NDArray[np.int64],
    boxes: _BoxArrays,
    labels: _BoxArrays,
    name: str,
) -> dict[str, NDArray[np.float64]]:
    """Errors (K,) of the true positives by descending score; NaN if label or box have no such value.

    match: (N,) index of the label, -1 without one, of the boxes in the given order (N,).
    """
    box_index, label_index = order[match >= 0], match[match >= 0]
    a, b = boxes.boxes[box_index], labels.boxes[label_index]
    common = np.minimum(a[:, 3:6], b[:, 3:6]).prod(axis=1)
    union = a[:, 3:6].prod(axis=1) + b[:, 3:6].prod(axis=1) - common
    # A barrier has no front: its orientation is defined modulo pi.
    period = np.pi if name in BARRIERS else 2 * np.pi
    yaw_error = (b[:, 6] - a[:, 6] + period / 2) % period - period / 2
    velocity_error = boxes.velocities[box_index] - labels.velocities[label_index]
    true_attributes = labels.attributes[label_index]
    wrong_attribute = (boxes.attributes[box_index] != true_attributes).astype(np.float64)
    return {
        "ate": np.linalg.norm(a[:, :2] - b[:, :2], axis=1),
        "ase": 1.0 - common / union,
        "aoe": np.abs(yaw_error),
        "ave": np.linalg.norm(velocity_error, axis=1),
        "aae": np.where(true_attributes >= 0, wrong_attribute, np.nan),
    }


def _mean_error(
    errors: NDArray[np.float64],
    true_positive: NDArray[np.bool_],
    scores: NDArray[np.float64],
    labels: int,
    protocol: NuScenesProtocol,
) -> float:
    """Mean, over recalls from min_recall to the maximum recall, of the cumulative mean error.

    errors: (K,) of the true positives. true_positive, scores: (N,) of all boxes. All are ordered by
    descending score. The result is 1 if the recall is below min_recall or no error is known.
    """
    if not len(errors):
        return 1.0
    known = np.isfinite(errors)
    count = np.cumsum(known)
    running = np.cumsum(np.where(known, errors, 0.0))
    running = running / np.maximum(count, 1) if known.any() else np.ones(len(errors))
    score_at_recall = np.interp(RECALLS, np.cumsum(true_positive) / labels, scores, right=0)
    sampled = np.interp(score_at_recall[::-1], scores[true_positive][::-1], running[::-1])[::-1]
    first = _first_recall_index(protocol)
    last = int(np.flatnonzero(score_at_recall).max(initial=0))
    return 1.0 if last < first else float(sampled[first : last + 1].mean())


def _first_recall_index(protocol: NuScenesProtocol) -> int:
    return round(100 * protocol.min_recall) + 1


def _mean(values: Sequence[float]) -> float:
    known = [v for v in values if np.isfinite(v)]
    return float(np.mean(known)) if known else float("nan")


@njit(nogil=True)
def _match(order, frames, boxes, starts, truth, distance):  # type: ignore[no-untyped-def]
    """Index (N,) of the label of each box, -1 without one.

    In the given order, each box takes the nearest unmatched label within the distance.
    """
    result = np.full(len(boxes), -1, np.int64)
    matched = np.zeros(len(truth), np.bool_)
    for i in order:
        nearest, best = np.inf, -1
        for k in range(starts[frames[i]], starts[frames[i] + 1]):
            if not matched[k]:
                dx, dy = boxes[i, 0] - truth[k, 0], boxes[i, 1] - truth[k, 1]
                separation = np.sqrt(dx * dx + dy * dy)
                if separation < nearest:
                    nearest, best = separation, k
        if nearest < distance:
            result[i] = best
            matched[best] = True
    return result
