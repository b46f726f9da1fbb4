"""Evaluation of the pipeline on recorded drives: each drive by itself, and the figures of all of them.

A drive is one data set or bag. `evaluate_drive` runs in any process or machine; `combine` computes the
figures from the results in the order of the drives, independent of the process that computed each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from multimodal_perception.configuration import UserError
from multimodal_perception.datasets.bag import BagDataset
from multimodal_perception.datasets.dataset import Dataset
from multimodal_perception.datasets.kitti import KittiDataset
from multimodal_perception.datasets.nuscenes_tables import NuScenesDataset
from multimodal_perception.evaluation.breakdown import (
    breakdown,
    observable_labels,
    with_point_counts,
)
from multimodal_perception.evaluation.class_sets import CLASS_SETS
from multimodal_perception.evaluation.detections import (
    MAX_RANGE_M,
    DetectionScore,
    centre_in_any_camera,
    latency_summary,
    run_frames,
)
from multimodal_perception.evaluation.error_analysis import (
    FrameErrors,
    confusion,
    frame_errors,
    precision_recall_curves,
)
from multimodal_perception.evaluation.kitti_frames import kitti_frame
from multimodal_perception.evaluation.kitti_metrics import KittiFrame, kitti_metrics
from multimodal_perception.evaluation.near_objects import NearObjectScore
from multimodal_perception.evaluation.nuscenes_metrics import NuScenesProtocol, ScoredFrame
from multimodal_perception.evaluation.tracking import TrackingScore, missing_velocities_as_zero
from multimodal_perception.frame import SensorFrame
from multimodal_perception.perception import Perception
from multimodal_perception.visualization import error_view

# Data sets with this rig, for example KITTI converted to a bag, have labels in the image only.
RIG_WITH_LABELS_IN_VIEW = "kitti"


@dataclass(frozen=True)
class DriveSettings:
    """What to evaluate on each drive.

    protocol: of the nuScenes metrics. kitti: also compute KITTI's metrics. max_range: maximum distance
    of labels and boxes at 1 m, metres. repeats: timed runs per frame. pictures: number of the worst
    frames to draw.
    """

    protocol: NuScenesProtocol
    kitti: bool = False
    max_range: float = MAX_RANGE_M
    repeats: int = 1
    pictures: int = 0


@dataclass(frozen=True)
class WorstFrame:
    """A frame with many errors: their number, its name, and a picture as JPEG."""

    errors: int
    caption: str
    picture: bytes


@dataclass
class DriveResult:
    """Results of one drive, from which all figures are computed.

    name: of the data set. frames: number of frames, also those without labels. scored, kitti: the
    labelled frames. times: by stage, the milliseconds of each frame.
    """

    name: str
    detector: str
    score: DetectionScore
    tracking: TrackingScore
    near: NearObjectScore
    frames: int = 0
    scored: list[ScoredFrame] = field(default_factory=list)
    kitti: list[KittiFrame] = field(default_factory=list)
    times: dict[str, list[float]] = field(default_factory=dict)
    worst: list[WorstFrame] = field(default_factory=list)
    image_detector: str = "none"
    notes: list[str] = field(default_factory=list)


def evaluate_drive(
    dataset: Dataset,
    process: Callable[[SensorFrame], Perception],
    detector: str,
    settings: DriveSettings,
    progress: Callable[[Dataset], Iterable[SensorFrame]] = lambda dataset: dataset,
) -> DriveResult:
    """Run a pipeline on one drive. Raises UserError if its data cannot be read.

    detector: its name. progress: wraps the iteration over the frames, for a progress bar.
    """
    if settings.kitti and not isinstance(dataset, KittiDataset):
        raise UserError(
            "--metrics kitti: needs a dataset in KITTI's layout, because only its labels contain "
            "occlusion and truncation"
        )
    if not len(dataset):
        raise UserError(f"{dataset.name}: no frames")
    in_view = labels_in_view(dataset)
    result = DriveResult(
        dataset.name,
        detector,
        DetectionScore(max_range=settings.max_range, labels_in_view=in_view),
        TrackingScore(settings.max_range),
        NearObjectScore(in_view),
    )
    process(dataset[0])  # compile the kernels of stages that only run on real frames
    for index, frame, boxes, times in run_frames(progress(dataset), process, settings.repeats):
        result.frames += 1
        for stage, milliseconds in times.items():
            result.times.setdefault(stage, []).append(milliseconds)
        if frame.labels is not None:
            _add_frame(result, settings, dataset, index, frame, boxes)
    if isinstance(dataset, BagDataset):
        result.notes = list(dataset.log.notices.pop())
    return result


def labels_in_view(dataset: Dataset) -> bool:
    """Whether a data set has labels of the objects in the cameras' images only, as KITTI does."""
    return isinstance(dataset, KittiDataset) or dataset.rig.name == RIG_WITH_LABELS_IN_VIEW


def _add_frame(
    result: DriveResult,
    settings: DriveSettings,
    dataset: Dataset,
    index: int,
    frame: SensorFrame,
    boxes: Any,
) -> None:
    assert frame.labels is not None
    result.score.add(boxes, frame)
    result.near.add(boxes, frame)
    boxes = with_point_counts(boxes, frame)
    if boxes.track_ids is not None and frame.labels.track_ids is not None:
        result.tracking.add(boxes, frame.labels)
    observable = observable_labels(frame.labels)
    truth = frame.labels.select(observable)
    if isinstance(dataset, NuScenesDataset):
        scored = ScoredFrame(boxes, truth, dataset.attributes(index)[observable])
    elif result.score.labels_in_view:
        truth = truth.select(centre_in_any_camera(truth, frame))
        scored = ScoredFrame(boxes.select(centre_in_any_camera(boxes, frame)), truth)
    else:
        scored = ScoredFrame(boxes, truth)
    result.scored.append(scored)
    if settings.kitti and isinstance(dataset, KittiDataset) and frame.cameras:
        labels = dataset.annotations(index)
        if labels is not None:
            result.kitti.append(kitti_frame(frame, boxes, labels))
    if settings.pictures:
        _keep_worst(result, settings, f"{dataset.name}, frame {index}", frame, scored)


def _keep_worst(
    result: DriveResult, settings: DriveSettings, name: str, frame: SensorFrame, scored: ScoredFrame
) -> None:
    """Draw the frame if it is among the worst so far. The first of equally bad frames is kept."""
    errors = frame_errors(scored, settings.protocol)
    if errors.count == 0:
        return
    if len(result.worst) >= settings.pictures and errors.count <= result.worst[-1].errors:
        return
    missed, false = int(errors.missed.sum()), int((errors.label_of_box == -1).sum())
    wrong = errors.count - missed - false
    caption = f"{name}: {missed} missed, {false} false, {wrong} of the wrong class"
    picture = error_view.encode_jpeg(error_view.draw_errors(frame, _marked(scored, errors)))
    result.worst.append(WorstFrame(errors.count, caption, picture))
    result.worst.sort(key=lambda w: -w.errors)
    del result.worst[settings.pictures :]


def _marked(scored: ScoredFrame, errors: FrameErrors) -> list[Any]:
    """Boxes and labels of a frame with the colour of their outline."""
    matched = np.flatnonzero(errors.label_of_box >= 0)
    same = errors.names[matched] == errors.label_names[errors.label_of_box[matched]]
    return [
        (scored.predicted.select(matched[same]), error_view.CORRECT),
        (scored.predicted.select(matched[~same]), error_view.WRONG_CLASS),
        (scored.predicted.select(errors.label_of_box == -1), error_view.FALSE),
        (scored.truth.select(errors.missed), error_view.MISSED),
    ]


def combine(
    results: Sequence[DriveResult],
    protocol: NuScenesProtocol,
    metrics: Sequence[str] = ("nuscenes",),
    class_sets: Sequence[str] = (),
    max_range: float | None = None,
) -> dict[str, Any]:
    """Figures of all drives. class_sets, max_range: further class sets, and the limit of their ranges.

    Keys: those of evaluate_detections; detector; near_objects; nuscenes (see breakdown) with curves,
    confusion and class_sets; tracking; kitti; drives (name and frames); frame_ms (time of each frame).
    """
    first = results[0]
    score = DetectionScore(
        max_range=first.score.max_range, labels_in_view=first.score.labels_in_view
    )
    tracking = TrackingScore(first.tracking.max_range)
    near = NearObjectScore(first.near.labels_in_view)
    times: dict[str, list[float]] = {}
    for result in results:
        score.merge(result.score)
        tracking.merge(result.tracking)
        near.merge(result.near)
        for stage, values in result.times.items():
            times.setdefault(stage, []).extend(values)
    combined: dict[str, Any] = {
        "frames": sum(r.frames for r in results),
        "labelled_frames": score.frames,
        **score.summary(),
        **latency_summary(times),
        "detector": first.detector,
        "image_detector": first.image_detector,
        "drives": [{"name": r.name, "frames": r.frames} for r in results],
        "frame_ms": [round(v, 3) for v in times.get("total", [])],
    }
    if near.labels:
        combined["near_objects"] = near.summary()
    if "nuscenes" in metrics:
        scored = missing_velocities_as_zero([f for r in results for f in r.scored])
        combined["nuscenes"] = {
            **breakdown(scored, protocol),
            "curves": precision_recall_curves(scored, protocol),
            "confusion": confusion(scored, protocol),
            "class_sets": {
                name: breakdown(scored, CLASS_SETS[name].protocol(None, max_range))
                for name in class_sets
            },
        }
    if tracking.frames:
        combined["tracking"] = tracking.metrics()
    if "kitti" in metrics:
        combined["kitti"] = kitti_metrics([f for r in results for f in r.kitti])
    return combined


def worst_frames(results: Sequence[DriveResult], count: int) -> list[WorstFrame]:
    """The worst frames of all drives, in descending order of their errors."""
    frames = [w for r in results for w in r.worst]
    return sorted(frames, key=lambda w: -w.errors)[:count]
