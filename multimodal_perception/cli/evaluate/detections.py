"""`evaluate detections`: detection metrics and latency of the pipeline on labelled frames."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from multimodal_perception.cli.drive_options import add_class_arguments, check_class_arguments
from multimodal_perception.cli.recordings import open_recording, print_notes
from multimodal_perception.configuration import UserError, load
from multimodal_perception.datasets.dataset import Dataset
from multimodal_perception.datasets.kitti import KittiDataset
from multimodal_perception.datasets.nuscenes_tables import NuScenesDataset
from multimodal_perception.datasets.open_dataset import DATASET_NAMES, PATH_HELP
from multimodal_perception.evaluation.breakdown import breakdown, observable_labels
from multimodal_perception.evaluation.detections import (
    MAX_RANGE_M,
    centre_in_any_camera,
    evaluate_detections,
)
from multimodal_perception.evaluation.kitti_frames import kitti_frame
from multimodal_perception.evaluation.kitti_metrics import METRICS, KittiFrame, kitti_metrics
from multimodal_perception.evaluation.nuscenes_metrics import (
    ERRORS,
    NuScenesProtocol,
    ScoredFrame,
)
from multimodal_perception.evaluation.report import write_json
from multimodal_perception.evaluation.tracking import TrackingScore, missing_velocities_as_zero
from multimodal_perception.frame import Boxes3D, SensorFrame
from multimodal_perception.pipeline_builder import PipelineConfig, build_pipeline, open_detector

FrameCallback = Callable[[int, SensorFrame, Boxes3D], None]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dataset",
        choices=DATASET_NAMES,
        help="format of the data at --root; by default detected from the files",
    )
    parser.add_argument("--root", default="synthetic", help=PATH_HELP)
    parser.add_argument(
        "--detector",
        help="auto, geometric, fusion, a plug-in, or the name or folder of a model; +REFINEMENT after "
        "it selects another model of the second stage, +none no second stage "
        "(default: as in --pipeline)",
    )
    parser.add_argument(
        "--pipeline",
        type=Path,
        help="YAML file with the keys below `pipeline:` of config/perception.yaml",
    )
    parser.add_argument(
        "--metrics",
        nargs="+",
        choices=("nuscenes", "kitti"),
        default=("nuscenes",),
        help="metrics besides recall and precision at 1 m; kitti needs a KITTI dataset",
    )
    add_class_arguments(parser)
    parser.add_argument("--repeats", type=int, default=5, help="timed runs per frame")
    parser.add_argument("--json", type=Path, help="write the result to this JSON file")


def run(args: argparse.Namespace) -> int:
    check_class_arguments(args)
    config = PipelineConfig() if args.pipeline is None else load(PipelineConfig, args.pipeline)
    dataset = open_recording(args.root, args.dataset)
    if "kitti" in args.metrics and not isinstance(dataset, KittiDataset):
        raise UserError(
            "--metrics kitti: needs a dataset in KITTI's layout, because only its labels contain "
            "occlusion and truncation"
        )
    overrides = {} if args.detector is None else {"detector": open_detector(args.detector, config)}
    pipeline = build_pipeline(config, **overrides)
    pipeline.process(dataset[0])  # compile the kernels of stages that only run on real frames
    scored: list[ScoredFrame] = []
    kitti: list[KittiFrame] = []
    max_range = MAX_RANGE_M if args.max_range is None else args.max_range
    tracking = TrackingScore(max_range)
    callback = _collect_results(dataset, args.metrics, scored, kitti, tracking)
    frames = tqdm(dataset, unit="frame")
    result = evaluate_detections(frames, pipeline.process, args.repeats, max_range, callback)
    print_notes(dataset)
    result["detector"] = pipeline.detector.name
    if "nuscenes" in args.metrics:
        scored = missing_velocities_as_zero(scored)
        protocol = NuScenesProtocol.for_classes(args.classes, args.max_range)
        result["nuscenes"] = breakdown(scored, protocol)
    if tracking.frames:
        result["tracking"] = tracking.metrics()
    if "kitti" in args.metrics:
        result["kitti"] = kitti_metrics(kitti)
    _print(dataset.name, result)
    if args.json is not None:
        write_json(args.json, result)
    return 0


def _collect_results(
    dataset: Dataset,
    metrics: list[str],
    scored: list[ScoredFrame],
    kitti: list[KittiFrame],
    tracking: TrackingScore,
) -> FrameCallback:
    """A callback that adds the boxes and labels of each frame to the inputs of the metrics."""

    def add_frame(index: int, frame: SensorFrame, boxes: Boxes3D) -> None:
        assert frame.labels is not None
        if boxes.track_ids is not None and frame.labels.track_ids is not None:
            tracking.add(boxes, frame.labels)
        observable = observable_labels(frame.labels)
        truth = frame.labels.select(observable)
        if isinstance(dataset, NuScenesDataset):
            scored.append(ScoredFrame(boxes, truth, dataset.attributes(index)[observable]))
        elif isinstance(dataset, KittiDataset):  # KITTI has labels only inside the image
            truth = truth.select(centre_in_any_camera(truth, frame))
            scored.append(ScoredFrame(boxes.select(centre_in_any_camera(boxes, frame)), truth))
        else:
            scored.append(ScoredFrame(boxes, truth))
        if "kitti" in metrics and isinstance(dataset, KittiDataset) and frame.cameras:
            labels = dataset.annotations(index)
            if labels is not None:
                kitti.append(kitti_frame(frame, boxes, labels))

    return add_frame


def _print(name: str, result: dict[str, Any]) -> None:
    table = Table(title=f"{name}: {result['frames']} frames, {result['detector']}")
    table.add_column("metric")
    table.add_column("value", justify="right")
    counts = result["counts"]
    row = f"{result['recall_1m']:.3f} ({counts['matched_labels']}/{counts['labels']})"
    table.add_row("recall at 1 m", row)
    row = f"{result['precision_1m']:.3f} ({counts['matched_boxes']}/{counts['boxes']})"
    table.add_row("precision at 1 m", row)
    table.add_row("false positives per frame", f"{result['false_positives_per_frame']:.2f}")
    if "nuscenes" in result:
        _add_nuscenes(table, result["nuscenes"])
    if "tracking" in result:
        _add_tracking(table, result["tracking"])
    for metric in METRICS if "kitti" in result else ():
        for name, levels in result["kitti"][metric].items():
            labels = "/".join(str(n) for n in result["kitti"]["labels"][name].values())
            row = " / ".join(f"{ap:.1f}" for ap in levels.values())
            table.add_row(f"KITTI {metric} AP R40 {name}, {labels} labels", row)
    for stage, values in {"pipeline total": result["latency_ms"], **result["stage_ms"]}.items():
        table.add_row(f"{stage} p50 / p95", f"{values['p50']:.1f} / {values['p95']:.1f} ms")
    Console().print(table)


def _add_tracking(table: Table, metrics: dict[str, Any]) -> None:
    table.add_row("MOTA at 2 m", f"{metrics['mota']:.3f} ({metrics['labels']} labels)")
    table.add_row("id switches", f"{metrics['id_switches']} ({metrics['objects']} objects)")


def _add_nuscenes(table: Table, metrics: dict[str, Any]) -> None:
    table.add_row("mAP", f"{100 * metrics['map']:.1f} ({metrics['labels']} labels)")
    without = ", ".join(error.upper() for error in metrics["nds_excluded_errors"])
    table.add_row(f"NDS without {without}" if without else "NDS", f"{100 * metrics['nds']:.1f}")
    for error in ERRORS:
        measured = error not in metrics["nds_excluded_errors"]
        table.add_row(error.upper(), f"{metrics[error]:.3f}" if measured else "not measured")
    for name, values in metrics["by_class"].items():
        if values["labels"]:
            row = f"{100 * values['ap']:.1f} ({values['labels']} labels)"
            if math.isfinite(values["ave"]):
                row += f", AVE {values['ave']:.2f} m/s"
            table.add_row(f"AP {name}", row)
    for band, values in metrics["by_distance"].items():
        table.add_row(f"mAP {band} m", f"{100 * values['map']:.1f} ({values['labels']} labels)")
