"""nuScenes' figures whole and in parts: by class, by distance, by what frames are tagged with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.evaluation.nuscenes_metrics import (
    NuScenesProtocol,
    ScoredFrame,
    nuscenes_metrics,
)
from multimodal_perception.frame import Boxes3D

# Metres from the vehicle; labels and boxes both belong to the band that their centre lies in.
BANDS = ((0.0, 15.0), (15.0, 30.0), (30.0, 50.0))
MIN_POINTS = 1
MIN_VISIBILITY = 0.4


def counting(labels: Boxes3D) -> NDArray[np.bool_]:
    """Labels (N,) that some sensor can have seen: with a LiDAR point, or 0.4 of it in sight.

    nuScenes leaves out labels without LiDAR or radar points; visibility stands in for a rig without.
    All count where neither is known.
    """
    if labels.num_points is None and labels.visibility is None:
        return np.ones(len(labels), bool)
    seen = np.zeros(len(labels), bool)
    if labels.num_points is not None:
        seen |= labels.num_points >= MIN_POINTS
    if labels.visibility is not None:
        seen |= labels.visibility >= MIN_VISIBILITY
    return seen


def breakdown(
    frames: Sequence[ScoredFrame],
    protocol: NuScenesProtocol | None = None,
    bands: Sequence[tuple[float, float]] = BANDS,
) -> dict[str, Any]:
    """nuscenes_metrics of all frames, with by_distance and by_<tag>.

    by_distance: {"0-15": nuscenes_metrics, ...}, bands beyond every class's range left out. by_<tag>: by
    each value that the frames have of it the figures and their by_distance; frames without the tag are
    in none.
    """
    protocol = protocol or NuScenesProtocol()
    result = _banded(frames, protocol, bands)
    for tag in sorted({t for f in frames for t in f.tags}):
        values = sorted({f.tags[tag] for f in frames if tag in f.tags})
        result[f"by_{tag}"] = {
            value: _banded([f for f in frames if f.tags.get(tag) == value], protocol, bands)
            for value in values
        }
    return result


def _banded(
    frames: Sequence[ScoredFrame],
    protocol: NuScenesProtocol,
    bands: Sequence[tuple[float, float]],
) -> dict[str, Any]:
    farthest = max(protocol.ranges.values(), default=0.0)
    result = nuscenes_metrics(frames, protocol)
    result["by_distance"] = {
        f"{low:g}-{min(high, farthest):g}": nuscenes_metrics(
            [_between(f, low, high) for f in frames], protocol
        )
        for low, high in bands
        if low < farthest
    }
    return result


def _between(frame: ScoredFrame, low: float, high: float) -> ScoredFrame:
    def chosen(boxes: Boxes3D) -> NDArray[np.bool_]:
        away = np.hypot(boxes.boxes[:, 0], boxes.boxes[:, 1])
        return (away >= low) & (away < high)

    mine, theirs = chosen(frame.predicted), chosen(frame.truth)
    told, guessed = frame.true_attributes, frame.attributes
    return replace(
        frame,
        predicted=frame.predicted.select(mine),
        truth=frame.truth.select(theirs),
        true_attributes=None if told is None else told[theirs],
        attributes=None if guessed is None else guessed[mine],
    )
