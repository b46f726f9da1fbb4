"""nuScenes' detection metrics (Caesar et al. 2020, section 3.1): mAP by distance of centres, and NDS.

A box is right when its centre lies within 0.5, 1, 2 or 4 m of a free label of its class, on the ground
plane. AP is the area under precision over recall above a tenth of both; mAP the mean over distances and
classes. The errors of the right boxes at 2 m are ATE (translation, metres), ASE (scale, 1 - IoU of the
sizes), AOE (orientation, radians), AVE (velocity, m/s) and AAE (attribute, share that is wrong).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.frame import Boxes3D

ERRORS = ("ate", "ase", "aoe", "ave", "aae")
# How far the classes count, metres from the vehicle: nuScenes' detection_cvpr_2019.
RANGES = {
    "car": 50.0,
    "truck": 50.0,
    "bus": 50.0,
    "pedestrian": 40.0,
    "cyclist": 40.0,
    "cone": 30.0,
    "barrier": 30.0,
}
# What drives and walks; cones and barriers are scored where they are asked for.
MOVING = ("car", "truck", "bus", "pedestrian", "cyclist")
# A cone has no front, neither moves, and what cannot move has no attribute.
UNDEFINED = {"cone": ("aoe", "ave", "aae"), "barrier": ("ave", "aae")}
SAMPLES = np.linspace(0.0, 1.0, 101)  # recalls at which precision is read


@dataclass(frozen=True)
class NuScenesProtocol:
    """What counts and how.

    ranges: metres from the vehicle up to which a class counts; classes not named do not.
    aliases: class to the one that it counts as; nuScenes' cars include vans.
    fill_absent: as the devkit, a class without labels has AP 0 and errors of 1 and an error that no
    label can tell is 1, as is AVE where no frame's boxes have velocities. Otherwise these have no
    value (NaN) and means are over what has one.
    """

    ranges: Mapping[str, float] = field(default_factory=lambda: dict(RANGES))
    aliases: Mapping[str, str] = field(default_factory=lambda: {"van": "car"})
    distances: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)
    error_distance: float = 2.0
    min_recall: float = 0.1
    min_precision: float = 0.1
    most_boxes: int = 500
    fill_absent: bool = False

    @classmethod
    def of(
        cls, classes: Sequence[str] = MOVING, max_range: float | None = None
    ) -> NuScenesProtocol:
        """nuScenes' ranges of some classes of RANGES, none further than max_range metres."""
        protocol = cls({name: RANGES[name] for name in classes})
        return protocol if max_range is None else protocol.within(max_range)

    def within(self, metres: float) -> NuScenesProtocol:
        """The same with no class counting further than that."""
        return replace(self, ranges={n: min(r, metres) for n, r in self.ranges.items()})


@dataclass(frozen=True)
class ScoredFrame:
    """What was found in one frame and what is there, in the same frame of reference about the vehicle.

    truth: the labels that count. true_attributes, attributes: (M,) and (N,) int64, -1 for none, or
    None where nobody tells. tags: what the frame is, such as condition: night.
    """

    predicted: Boxes3D
    truth: Boxes3D
    true_attributes: NDArray[np.int64] | None = None
    attributes: NDArray[np.int64] | None = None
    tags: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for boxes, told in (
            (self.truth, self.true_attributes),
            (self.predicted, self.attributes),
        ):
            if told is not None and told.shape != (len(boxes),):
                raise ValueError("attributes must have one value a box")
        if not np.isfinite(self.predicted.scores).all():
            raise ValueError("scores must be finite")
        for boxes in (self.predicted, self.truth):
            if not np.isfinite(boxes.boxes).all() or not (boxes.boxes[:, 3:6] > 0).all():
                raise ValueError("boxes must be finite and have a size")


@dataclass(frozen=True)
class _Side:
    """Boxes of one class, frame by frame in a row: those found, or the labels.

    frames: (K,) index of each one's frame. boxes: (K, 7), scores (K,), velocities (K, 2) NaN where not
    told, attributes (K,) -1 where none.
    """

    frames: NDArray[np.int64]
    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    velocities: NDArray[np.float64]
    attributes: NDArray[np.int64]


def nuscenes_metrics(
    frames: Sequence[ScoredFrame], protocol: NuScenesProtocol | None = None
) -> dict[str, Any]:
    """Figures over frames.

    Keys: map; nds; nds_without: errors that have no part in it; the mean ate, ase, aoe, ave, aae;
    labels; boxes; by_class, each with ap, ap_at by distance, the errors, labels and boxes. NaN where
    there is nothing to measure. NDS (equation 3) weighs the mAP five times and each error once, where
    1 and more are the worst; an error without a value has no part in it, so that scores without one
    are not to be compared with scores with it.
    """
    protocol = protocol or NuScenesProtocol()
    found = [_counting(f.predicted, f.attributes, protocol, True) for f in frames]
    there = [_counting(f.truth, f.true_attributes, protocol, False) for f in frames]
    velocities = any(f.predicted.velocities is not None for f in frames)
    by_class = {
        name: _class_metrics(
            _side(found, name), _side(there, name), len(frames), name, protocol, velocities
        )
        for name in protocol.ranges
    }
    mean_ap = _mean([c["ap"] for c in by_class.values()])
    errors = {e: _mean([c[e] for c in by_class.values()]) for e in ERRORS}
    told = [e for e in errors.values() if np.isfinite(e)]
    parts = 5.0 * mean_ap + sum(1.0 - min(1.0, e) for e in told)
    return {
        "map": mean_ap,
        "nds": parts / (5.0 + len(told)),
        "nds_without": [name for name, e in errors.items() if not np.isfinite(e)],
        **errors,
        "labels": sum(c["labels"] for c in by_class.values()),
        "boxes": sum(c["boxes"] for c in by_class.values()),
        "by_class": by_class,
    }


_Counting = tuple[NDArray[np.str_], _Side]


def _counting(
    boxes: Boxes3D,
    attributes: NDArray[np.int64] | None,
    protocol: NuScenesProtocol,
    best: bool,
) -> _Counting:
    """Class (K,) and values of one frame's boxes that count; with `best` no more than most_boxes."""
    aliases = protocol.aliases
    words = np.array([aliases.get(n, n) for n in boxes.class_names])
    reach = np.array([protocol.ranges.get(n, 0.0) for n in words.tolist()])
    labels = np.asarray(boxes.labels, np.int64)
    away = np.linalg.norm(boxes.boxes[:, :2].astype(np.float64), axis=1)
    chosen = np.flatnonzero(away < reach[labels])
    if best and len(chosen) > protocol.most_boxes:
        top = np.argsort(-boxes.scores[chosen], kind="stable")[: protocol.most_boxes]
        chosen = chosen[np.sort(top)]
    n = len(boxes)
    velocities = np.full((n, 2), np.nan) if boxes.velocities is None else boxes.velocities
    attributes = np.full(n, -1, np.int64) if attributes is None else attributes
    side = _Side(
        np.zeros(len(chosen), np.int64),
        boxes.boxes[chosen].astype(np.float64),
        boxes.scores[chosen].astype(np.float64),
        np.asarray(velocities, np.float64)[chosen],
        attributes[chosen],
    )
    return words[labels[chosen]], side


def _side(frames: Sequence[_Counting], name: str) -> _Side:
    parts: list[_Side] = []
    for index, (words, side) in enumerate(frames):
        rows = np.flatnonzero(words == name)
        parts.append(
            _Side(
                np.full(len(rows), index, np.int64),
                side.boxes[rows],
                side.scores[rows],
                side.velocities[rows],
                side.attributes[rows],
            )
        )
    return _Side(
        np.concatenate([np.zeros(0, np.int64), *(p.frames for p in parts)]),
        np.concatenate([np.zeros((0, 7)), *(p.boxes for p in parts)]),
        np.concatenate([np.zeros(0), *(p.scores for p in parts)]),
        np.concatenate([np.zeros((0, 2)), *(p.velocities for p in parts)]),
        np.concatenate([np.zeros(0, np.int64), *(p.attributes for p in parts)]),
    )


def _class_metrics(
    found: _Side,
    there: _Side,
    frames: int,
    name: str,
    protocol: NuScenesProtocol,
    velocities: bool,
) -> dict[str, Any]:
    """velocities: whether the boxes found have any."""
    if len(there.boxes):
        aps, errors = _measured(found, there, frames, name, protocol)
        if not velocities and not protocol.fill_absent:
            errors["ave"] = float("nan")
    else:
        ap, error = (0.0, 1.0) if protocol.fill_absent else (np.nan, np.nan)
        aps, errors = dict.fromkeys(protocol.distances, ap), dict.fromkeys(ERRORS, error)
    undefined = dict.fromkeys(UNDEFINED.get(name, ()), np.nan)
    return {
        "ap": float(np.mean(list(aps.values()))),
        "ap_at": {f"{distance:g}": ap for distance, ap in aps.items()},
        **errors,
        **undefined,
        "labels": len(there.boxes),
        "boxes": len(found.boxes),
    }


def _measured(
    found: _Side, there: _Side, frames: int, name: str, protocol: NuScenesProtocol
) -> tuple[dict[float, float], dict[str, float]]:
    """AP by distance and the errors of a class that has labels."""
    # Best first; of equal scores the last one, as the devkit sorts.
    order = np.lexsort((np.arange(len(found.scores)), found.scores))[::-1]
    starts = np.searchsorted(there.frames, np.arange(frames + 1))
    labels = len(there.boxes)

    def match(distance: float) -> NDArray[np.int64]:
        matched = _match(order, found.frames, found.boxes, starts, there.boxes, distance)
        return np.asarray(matched)[order]

    aps = {d: _average_precision(match(d) >= 0, labels, protocol) for d in protocol.distances}
    matched = match(protocol.error_distance)
    told = _told(there)
    errors = {
        error: _mean_error(values, matched >= 0, found.scores[order], labels, protocol)
        if told[error] or protocol.fill_absent
        else float("nan")
        for error, values in _errors(matched, order, found, there, name).items()
    }
    return aps, errors


def _told(there: _Side) -> dict[str, bool]:
    """Which errors the labels can tell."""
    velocity = bool(np.isfinite(there.velocities).all(axis=1).any())
    return {
        **dict.fromkeys(ERRORS, True),
        "ave": velocity,
        "aae": bool((there.attributes >= 0).any()),
    }


def _average_precision(right: NDArray[np.bool_], labels: int, protocol: NuScenesProtocol) -> float:
    """Area under the precision that is left above the least, over the recalls above the least.

    right: (N,) of the boxes, best score first.
    """
    if not right.any():
        return 0.0
    hits = np.cumsum(right)
    precision = hits / np.arange(1, len(right) + 1)
    sampled = np.interp(SAMPLES, hits / labels, precision, right=0)
    least = protocol.min_precision
    counted = sampled[_first_sample(protocol) :]
    return min(float(np.maximum(counted - least, 0.0).mean() / (1.0 - least)), 1.0)


def _errors(
    match: NDArray[np.int64], order: NDArray[np.int64], found: _Side, there: _Side, name: str
) -> dict[str, NDArray[np.float64]]:
    """Errors of the right boxes, best score first; NaN where the label or the box does not tell."""
    mine, theirs = order[match >= 0], match[match >= 0]
    a, b = found.boxes[mine], there.boxes[theirs]
    common = np.minimum(a[:, 3:6], b[:, 3:6]).prod(axis=1)
    union = a[:, 3:6].prod(axis=1) + b[:, 3:6].prod(axis=1) - common
    # A barrier has no front: it is the same turned by half a turn.
    period = np.pi if name == "barrier" else 2 * np.pi
    turn = (b[:, 6] - a[:, 6] + period / 2) % period - period / 2
    wrong = (found.attributes[mine] != there.attributes[theirs]).astype(np.float64)
    return {
        "ate": np.linalg.norm(a[:, :2] - b[:, :2], axis=1),
        "ase": 1.0 - common / union,
        "aoe": np.abs(turn),
        "ave": np.linalg.norm(found.velocities[mine] - there.velocities[theirs], axis=1),
        "aae": np.where(there.attributes[theirs] >= 0, wrong, np.nan),
    }


def _mean_error(
    errors: NDArray[np.float64],
    right: NDArray[np.bool_],
    scores: NDArray[np.float64],
    labels: int,
    protocol: NuScenesProtocol,
) -> float:
    """Mean over recalls, from the least to the highest reached, of the mean error up to that recall.

    errors: (K,) of the right boxes; right, scores: (N,) of all; best score first. 1 where the least
    recall is not reached or no error is known.
    """
    if not len(errors):
        return 1.0
    known = np.isfinite(errors)
    count = np.cumsum(known)
    running = np.cumsum(np.where(known, errors, 0.0))
    running = running / np.maximum(count, 1) if known.any() else np.ones(len(errors))
    reached = np.interp(SAMPLES, np.cumsum(right) / labels, scores, right=0)
    sampled = np.interp(reached[::-1], scores[right][::-1], running[::-1])[::-1]
    first, last = _first_sample(protocol), int(np.flatnonzero(reached).max(initial=0))
    return 1.0 if last < first else float(sampled[first : last + 1].mean())


def _first_sample(protocol: NuScenesProtocol) -> int:
    return round(100 * protocol.min_recall) + 1


def _mean(values: Sequence[float]) -> float:
    known = [v for v in values if np.isfinite(v)]
    return float(np.mean(known)) if known else float("nan")


@numba.njit(cache=True, nogil=True)
def _match(order, frames, boxes, starts, truth, distance):  # type: ignore[no-untyped-def]
    """Index (N,) of each box's label, -1 without: in turn, each the nearest that is free."""
    result = np.full(len(boxes), -1, np.int64)
    taken = np.zeros(len(truth), np.bool_)
    for i in order:
        nearest, best = np.inf, -1
        for k in range(starts[frames[i]], starts[frames[i] + 1]):
            if not taken[k]:
                dx, dy = boxes[i, 0] - truth[k, 0], boxes[i, 1] - truth[k, 1]
                away = np.sqrt(dx * dx + dy * dy)
                if away < nearest:
                    nearest, best = away, k
        if nearest < distance:
            result[i] = best
            taken[best] = True
    return result
