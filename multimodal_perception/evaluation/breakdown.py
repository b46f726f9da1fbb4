"""The nuScenes metrics of all frames, and by distance, LiDAR points and tags of the frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.evaluation.detections import match_by_distance
from multimodal_perception.evaluation.evidence_score import EvidenceScore
from multimodal_perception.evaluation.matched_boxes import evaluated_names, match_frames
from multimodal_perception.evaluation.nuscenes_metrics import (
    NuScenesProtocol,
    ScoredFrame,
    nuscenes_metrics,
)
from multimodal_perception.evaluation.uncertainty import (
    covariance_consistency,
    score_calibration,
    velocity_errors,
)
from multimodal_perception.frame import Boxes3D, SensorFrame
from multimodal_perception.geometry.boxes import count_points_in_boxes

# Distance bands, metres from the vehicle. Labels and boxes belong to the band of their centre.
DISTANCE_BANDS = ((0.0, 15.0), (15.0, 30.0), (30.0, 50.0))
# Numbers of LiDAR points on an object, upper limits excluded. The first band has the objects that only
# images or past sweeps show.
POINT_BANDS = ((0, 1), (1, 5), (5, 20), (20, 100), (100, 1_000_000))
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
    """nuscenes_metrics of all frames, extended by the keys below.

    by_distance: {"0-15": nuscenes_metrics, ...}, without bands beyond the range of every class.
    by_points: {"1-4": nuscenes_metrics, ...}, by the number of LiDAR points; only if labels and boxes
    have num_points. by_<tag>: for each value of the tag, the metrics (with by_distance) of the frames
    with that value. calibration, covariances, velocity: see evaluation.uncertainty. evidence: opinions
    of the sensors, see evaluation.evidence_score; only if boxes have some.
    """
    protocol = protocol or NuScenesProtocol()
    result = _metrics_by_distance(frames, protocol, bands)
    if frames and all(_has_point_counts(f) for f in frames):
        result["by_points"] = {
            _band_name(low, high): nuscenes_metrics(
                [_select_points(f, low, high, protocol) for f in frames], protocol
            )
            for low, high in POINT_BANDS
        }
    matched = match_frames(frames, protocol)
    result["calibration"] = score_calibration(matched)
    result["covariances"] = covariance_consistency(matched)
    evidence = EvidenceScore()
    for frame in frames:
        evidence.add(frame.predicted, frame.truth)
    if figures := evidence.summary():
        result["evidence"] = figures
    result["velocity"] = velocity_errors(matched)
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

    return _select(frame, in_band(frame.predicted), in_band(frame.truth))


def with_point_counts(boxes: Boxes3D, frame: SensorFrame) -> Boxes3D:
    """The boxes with the number of LiDAR points of a frame in each of them."""
    if not frame.lidars:
        return replace(boxes, num_points=np.zeros(len(boxes), np.int64))
    return replace(boxes, num_points=count_points_in_boxes(frame.points_in_base(), boxes.boxes))


def _has_point_counts(frame: ScoredFrame) -> bool:
    return frame.predicted.num_points is not None and frame.truth.num_points is not None


def _band_name(low: int, high: int) -> str:
    if high == POINT_BANDS[-1][1]:
        return f"{low}+"
    return f"{low}" if high == low + 1 else f"{low}-{high - 1}"


def _select_points(
    frame: ScoredFrame, low: int, high: int, protocol: NuScenesProtocol
) -> ScoredFrame:
    """The frame with only the boxes and labels with a number of LiDAR points, high excluded.

    A box that matches a label belongs to the band of the label, so that a box whose own number of points
    is in another band is neither a false one there nor missing here.
    """
    predicted, truth = frame.predicted, frame.truth
    assert predicted.num_points is not None and truth.num_points is not None
    points = predicted.num_points.copy()
    names, label_names = (evaluated_names(b, protocol) for b in (predicted, truth))
    for name in protocol.ranges:
        rows, labels = np.flatnonzero(names == name), np.flatnonzero(label_names == name)
        match = match_by_distance(
            predicted.boxes[rows],
            predicted.scores[rows],
            truth.boxes[labels],
            max(protocol.distances),
            np.ones(len(labels), bool),
        )
        points[rows[match >= 0]] = truth.num_points[labels[match[match >= 0]]]
    return _select(
        frame,
        (points >= low) & (points < high),
        (truth.num_points >= low) & (truth.num_points < high),
    )


def _select(
    frame: ScoredFrame, predicted: NDArray[np.bool_], truth: NDArray[np.bool_]
) -> ScoredFrame:
    """The frame with the boxes of the mask `predicted` and the labels of the mask `truth`."""
    true_attributes, attributes = frame.true_attributes, frame.attributes
    return replace(
        frame,
        predicted=frame.predicted.select(predicted),
        truth=frame.truth.select(truth),
        true_attributes=None if true_attributes is None else true_attributes[truth],
        attributes=None if attributes is None else attributes[predicted],
    )
