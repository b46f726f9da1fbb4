"""The nuScenes metrics of all frames, and by distance and by tags of the frames."""

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

# Distance bands, metres from the vehicle. Labels and boxes belong to the band of their centre.
DISTANCE_BANDS = ((0.0, 15.0), (15.0, 30.0), (30.0, 50.0))
MIN_POINTS = 1
MIN_VISIBILITY = 0.4


def observable_labels(labels: Boxes3D) -> NDArray[np.bool_]:
    """Mask (N,) of the labels with at least MIN_POINTS LiDAR points or visibility MIN_VISIBILITY.

    nuScenes ignores labels without LiDAR or radar points; the visibility replaces that criterion for
    rigs without these sensors. All labels are observable if neither value is given.
    """
    if labels.num_points is None and labels.visibility is None:
        return np.ones(len(labels), bool)
    observable = np.zeros(len(labels), bool)
    if labels.num_points is not None:
        observable |= labels.num_points >= MIN_POINTS
    if labels.visibility is not None:
        observable |= labels.visibility >= MIN_VISIBILITY
    return observable


def breakdown(
    frames: Sequence[ScoredFrame],
    protocol: NuScenesProtocol | None = None,
    bands: Sequence[tuple[float, float]] = DISTANCE_BANDS,
) -> dict[str, Any]:
    """nuscenes_metrics of all frames, extended by the keys by_distance and by_<tag>.

    by_distance: {"0-15": nuscenes_metrics, ...}, without bands beyond the range of every class.
    by_<tag>: for each value of the tag, the metrics (with by_distance) of the frames with that value.
    """
    protocol = protocol or NuScenesProtocol()
    result = _metrics_by_distance(frames, protocol, bands)
    for tag in sorted({t for f in frames for t in f.tags}):
        values = sorted({f.tags[tag] for f in frames if tag in f.tags})
        result[f"by_{tag}"] = {
            value: _metrics_by_distance(
                [f for f in frames if f.tags.get(tag) == value], protocol, bands
            )
            for value in values
        }
    return result


def _metrics_by_distance(
    frames: Sequence[ScoredFrame],
    protocol: NuScenesProtocol,
    bands: Sequence[tuple[float, float]],
) -> dict[str, Any]:
    farthest = max(protocol.ranges.values(), default=0.0)
    result = nuscenes_metrics(frames, protocol)
    result["by_distance"] = {
        f"{low:g}-{min(high, farthest):g}": nuscenes_metrics(
            [_select_distance(f, low, high) for f in frames], protocol
        )
        for low, high in bands
        if low < farthest
    }
    return result


def _select_distance(frame: ScoredFrame, low: float, high: float) -> ScoredFrame:
    """The frame with only the boxes and labels between two distances, metres."""

    def in_band(boxes: Boxes3D) -> NDArray[np.bool_]:
        distance = np.hypot(boxes.boxes[:, 0], boxes.boxes[:, 1])
        return (distance >= low) & (distance < high)

    predicted, truth = in_band(frame.predicted), in_band(frame.truth)
    true_attributes, attributes = frame.true_attributes, frame.attributes
    return replace(
        frame,
        predicted=frame.predicted.select(predicted),
        truth=frame.truth.select(truth),
        true_attributes=None if true_attributes is None else true_attributes[truth],
        attributes=None if attributes is None else attributes[predicted],
    )
