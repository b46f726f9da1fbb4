"""The difference between recorded and simulated frames, as one detector measures it.

The same detector is evaluated on labelled recordings and on simulated drives with a similar rig. Where
its AP by class, distance and number of LiDAR points agrees, the simulated objects are as hard to
detect as the recorded ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from multimodal_perception.evaluation.breakdown import (
    breakdown,
    observable_labels,
    with_point_counts,
)
from multimodal_perception.evaluation.nuscenes_metrics import (
    NuScenesProtocol,
    ScoredFrame,
    benchmark_names,
)
from multimodal_perception.frame import SensorFrame
from multimodal_perception.pipeline_builder import PipelineConfig, build_pipeline
from multimodal_perception.stages import Detector
from multimodal_perception.tracking import TrackingConfig

# Cells with fewer labels in the recording have an AP that depends on single objects.
MIN_LABELS = 20


def score_frames(
    frames: Iterable[SensorFrame], detector: Detector, protocol: NuScenesProtocol
) -> dict[str, Any]:
    """The metrics of `breakdown` of a detector, and statistics of the labels.

    objects: mean number of labels per frame by class, up to the evaluation range. points: median number
    of LiDAR points of the labels by class. Frames without labels are skipped.
    """
    config = PipelineConfig(occupancy="none", tracking=TrackingConfig(enabled=False))
    pipeline = build_pipeline(config, detector=detector)
    scored: list[ScoredFrame] = []
    for frame in frames:
        if frame.labels is None:
            continue
        truth = frame.labels.select(observable_labels(frame.labels))
        boxes = with_point_counts(pipeline.process(frame).boxes, frame)
        scored.append(ScoredFrame(boxes, with_point_counts(truth, frame)))
    result = breakdown(scored, protocol)
    result["frames"] = len(scored)
    result |= _label_statistics(scored, protocol)
    return result


def _label_statistics(frames: Sequence[ScoredFrame], protocol: NuScenesProtocol) -> dict[str, Any]:
    points: dict[str, list[int]] = {name: [] for name in protocol.ranges}
    for frame in frames:
        truth = frame.truth
        distance = np.hypot(truth.boxes[:, 0], truth.boxes[:, 1])
        for k, name in enumerate(benchmark_names(truth, protocol).tolist()):
            if name in points and distance[k] <= protocol.ranges[name]:
                assert truth.num_points is not None
                points[name].append(int(truth.num_points[k]))
    count = max(len(frames), 1)
    return {
        "objects": {name: len(values) / count for name, values in points.items()},
        "points": {name: float(np.median(v)) if v else None for name, v in points.items()},
    }


def comparison_rows(
    recorded: Mapping[str, Any], simulated: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """One row for each class and group: all labels, each distance band, and each band of points.

    simulated: metrics by name, such as the profile. Keys of a row: class, group, recorded {ap, labels},
    and one entry of the same form for each name in `simulated`; AP in percent. Groups without recorded
    labels are left out.
    """
    rows = []
    for name in recorded["by_class"]:
        for group, path in _groups(recorded):
            entry = _entry(recorded, path, name)
            if not entry["labels"]:
                continue
            row = {"class": name, "group": group, "recorded": entry}
            row |= {key: _entry(metrics, path, name) for key, metrics in simulated.items()}
            rows.append(row)
    return rows


def _groups(metrics: Mapping[str, Any]) -> list[tuple[str, tuple[str, ...]]]:
    groups: list[tuple[str, tuple[str, ...]]] = [("all", ())]
    groups += [(f"{band} m", ("by_distance", band)) for band in metrics["by_distance"]]
    groups += [(f"{band} points", ("by_points", band)) for band in metrics.get("by_points", {})]
    return groups


def _entry(metrics: Mapping[str, Any], path: Sequence[str], name: str) -> dict[str, Any]:
    part: Any = metrics
    for key in path:
        part = part.get(key)
        if part is None:
            return {"ap": None, "labels": 0}
    values = part["by_class"].get(name)
    if values is None or not values["labels"]:
        return {"ap": None, "labels": 0}
    return {"ap": 100.0 * values["ap"], "labels": values["labels"]}
