"""Reliability of the sensors from their opinions about tracked objects.

A sensor whose opinions are wrong for some time gets a lower weight, and is named in a status. Its
opinions are compared with those of the other sensors: with their combination, if at least two of them
are certain about an object, otherwise with the class of the object's track. The track alone is not
sufficient, because the class that the detector gives it may depend on the wrong sensor.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.box_evidence import GROUPS, BoxEvidence, class_groups
from multimodal_perception.frame import Boxes3D
from multimodal_perception.geometry.stamps import NANOSECONDS_PER_SECOND
from multimodal_perception.opinions import (
    Combination,
    Opinions,
    ReliabilityConfig,
    SourceReliability,
    combine,
    discount,
    source_errors,
)
from multimodal_perception.perception import Level, StageStatus

# An opinion with a lower uncertainty is certain. The combination of the other sources is the reference
# if at least this number of them is certain.
MAX_CERTAIN_UNCERTAINTY, MIN_CERTAIN_SOURCES = 0.5, 2
# There is a reference only if the combination has at least this belief in one group, and at most this
# conflict.
MIN_REFERENCE_BELIEF, MAX_REFERENCE_CONFLICT = 0.5, 0.5
# A track is confirmed after this number of boxes and this time, if this fraction of its boxes are of one
# group. Tracks without a box for MAX_TRACK_GAP_S are deleted.
CONFIRMED_BOXES, CONFIRMED_S, CONFIRMED_SHARE, MAX_TRACK_GAP_S = 5, 1.0, 0.8, 5.0


@dataclass
class _Track:
    first_ns: int
    last_ns: int
    boxes: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(GROUPS), np.int64))


class EvidenceMonitor:
    """An EvidenceCombiner (see stages) that lowers the weight of unreliable sources.

    counts: restarts (stamps that go back).
    """

    def __init__(self, config: ReliabilityConfig | None = None) -> None:
        self.counts: Counter[str] = Counter()
        self._reliability = SourceReliability(config)
        self._tracks: dict[int, _Track] = {}
        self._stamp_ns: int | None = None
        self._status: StageStatus | None = None

    def update(self, boxes: Boxes3D) -> Boxes3D:
        """The boxes with the opinions of their sensors combined with the weights from earlier frames.

        The errors of this frame then change the weights for the next one. Boxes without evidence are
        returned unchanged. boxes: of one frame, with track ids if there is a tracker.
        """
        evidence = boxes.evidence
        if evidence is None:
            return boxes
        if self._stamp_ns is not None and boxes.stamp_ns < self._stamp_ns:
            self.counts["restarts"] += 1
            self._tracks.clear()
        self._stamp_ns = boxes.stamp_ns
        weights = self.weights(evidence)
        combined = evidence.with_weights(weights)
        confirmed = self._confirmed(boxes)
        opinions = evidence.opinions()
        self._reliability.update(boxes.stamp_ns, _errors(opinions, weights, confirmed))
        self._status = self._describe(evidence)
        return replace(boxes, evidence=combined)

    def weights(self, evidence: BoxEvidence) -> dict[str, float]:
        """Weight of each source, 0 to 1: that in the evidence times the reliability of the source."""
        given = zip(evidence.sources, evidence.weights, strict=True)
        return {name: weight * self._reliability.reliability(name) for name, weight in given}

    @property
    def evidence_status(self) -> StageStatus | None:
        """State of the sources; None before the first frame with opinions of sensors.

        WARN with the names of the sources whose opinions are wrong. Values by source: reliability.NAME,
        error.NAME (running mean) and mean_uncertainty.NAME (of the last frame, of the boxes that it
        observes).
        """
        return self._status

    def _describe(self, evidence: BoxEvidence) -> StageStatus:
        reliability = {name: self._reliability.reliability(name) for name in evidence.sources}
        values: dict[str, float] = {}
        for k, (name, value) in enumerate(reliability.items()):
            values[f"reliability.{name}"] = value
            values[f"error.{name}"] = self._reliability.error(name)
            given = evidence.uncertainty[:, k]
            given = given[given < 1.0]
            values[f"mean_uncertainty.{name}"] = float(given.mean()) if len(given) else 1.0
        wrong = [name for name in self._reliability.unreliable() if name in reliability]
        if not wrong:
            return StageStatus("evidence", Level.OK, "ok", values)
        named = ", ".join(f"{name} (weight {reliability[name]:.2f})" for name in wrong)
        message = f"opinions contradict the tracked objects or the other sensors: {named}"
        return StageStatus("evidence", Level.WARN, message, values)

    def _confirmed(self, boxes: Boxes3D) -> NDArray[np.int64]:
        """Group (N,) of each box's track, -1 for boxes without a confirmed track."""
        result = np.full(len(boxes), -1, np.int64)
        now_ns = boxes.stamp_ns
        groups = class_groups(boxes.class_names)[boxes.labels]
        ids = np.full(len(boxes), -1) if boxes.track_ids is None else boxes.track_ids
        for row, (track_id, group) in enumerate(zip(ids.tolist(), groups.tolist(), strict=True)):
            if track_id < 0 or group < 0:
                continue
            track = self._tracks.setdefault(track_id, _Track(now_ns, now_ns))
            track.last_ns = now_ns
            track.boxes[group] += 1
            total = int(track.boxes.sum())
            age_s = (now_ns - track.first_ns) / NANOSECONDS_PER_SECOND
            best = int(track.boxes.argmax())
            share = track.boxes[best] / total
            if total >= CONFIRMED_BOXES and age_s >= CONFIRMED_S and share >= CONFIRMED_SHARE:
                result[row] = best
        limit_ns = now_ns - round(MAX_TRACK_GAP_S * NANOSECONDS_PER_SECOND)
        self._tracks = {k: t for k, t in self._tracks.items() if t.last_ns >= limit_ns}
        return result


def _errors(
    opinions: Mapping[str, Opinions],
    weights: Mapping[str, float],
    confirmed: NDArray[np.int64],
) -> dict[str, tuple[float, float]]:
    """Errors of each source, see SourceReliability.update."""
    given = {name: o for name, o in opinions.items() if (o.uncertainty < 1.0).any()}
    discounted = {name: discount(o, weights[name]) for name, o in given.items()}
    result: dict[str, tuple[float, float]] = {}
    for name, opinion in given.items():
        others = [other for other in given if other != name]
        reference = confirmed
        if len(others) >= MIN_CERTAIN_SOURCES:
            certain = sum(
                (given[n].uncertainty < MAX_CERTAIN_UNCERTAINTY).astype(np.int64) for n in others
            )
            combined = combine([discounted[n] for n in others])
            reference = _reference(combined, np.asarray(certain), confirmed)
        result |= source_errors({name: opinion}, reference)
    return result


def _reference(
    others: Combination, certain: NDArray[np.int64], confirmed: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Group (N,) that a source's opinions are compared with, -1 where it is not known.

    others: combination of all other sources. certain: (N,) how many of them are certain.
    """
    belief = others.opinions.belief
    agreed = belief.max(axis=1) >= MIN_REFERENCE_BELIEF
    agreed &= others.conflict <= MAX_REFERENCE_CONFLICT
    enough = certain >= MIN_CERTAIN_SOURCES
    return np.where(enough, np.where(agreed, belief.argmax(axis=1), -1), confirmed)
