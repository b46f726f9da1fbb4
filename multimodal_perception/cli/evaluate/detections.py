"""How good and how fast the pipeline is on labelled frames."""

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
from multimodal_perception.configuration import UserError, load
from multimodal_perception.datasets.dataset import Dataset
from multimodal_perception.datasets.kitti import Kitti
from multimodal_perception.datasets.nuscenes_tables import NuScenes
from multimodal_perception.datasets.open_dataset import DATASET_NAMES, PATH_HELP, open_dataset
from multimodal_perception.detection.open_detector import open_detector
from multimodal_perception.evaluation.breakdown import breakdown, counting
from multimodal_perception.evaluation.detections import MAX_RANGE_M, evaluate, in_view
from multimodal_perception.evaluation.kitti_frames import kitti_frame
from multimodal_perception.evaluation.kitti_metrics import METRICS, KittiFrame, kitti_metrics
from multimodal_perception.evaluation.nuscenes_metrics import (
    ERRORS,
    NuScenesProtocol,
    ScoredFrame,
)
from multimodal_perception.evaluation.report import write_json
from multimodal_perception.evaluation.tracking import TrackingScore, unknown_as_standing
from multimodal_perception.frame import Boxes3D, SensorFrame
from multimodal_perception.pipeline import PipelineConfig, build_pipeline

Told = Callable[[int, SensorFrame, Boxes3D], None]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", choices=DATASET_NAMES, help="what lies at --root")
    parser.add_argument("--root", default="synthetic", help=PATH_HELP)
    parser.add_argument(
        "--detector", help="geometric, shipped, or a model; by default what --pipeline says"
    )
    parser.add_argument("--pipeline", type=Path, help="YAML file of PipelineConfig")
    parser.add_argument(
        "--metrics",
        nargs="+",
        choices=("nuscenes", "kitti"),
        default=("nuscenes",),
        help="beside recall and precision at 1 m; kitti needs KITTI's labels",
    )
    add_class_arguments(parser)
    parser.add_argument("--repeats", type=int, default=5, help="timed runs a frame")
    parser.add_argument("--json", type=Path, help="file for the result")


def run(args: argparse.Namespace) -> int:
    check_class_arguments(args)
    config = PipelineConfig() if args.pipeline is None else load(PipelineConfig, args.pipeline)
    dataset = open_dataset(args.root, args.dataset)
    if "kitti" in args.metrics and not isinstance(dataset, Kitti):
        raise UserError(
            "--metrics kitti: only data in KITTI's layout says what is hidden and cut off"
        )
    pipeline = build_pipeline(config)
    if args.detector is not None:
        pipeline.detector = open_detector(args.detector, config)
    pipeline.process(dataset[0])  # kernels of the stages that only real points reach
    scored: list[ScoredFrame] = []
    kitti: list[KittiFrame] = []
    max_range = MAX_RANGE_M if args.max_range is None else args.max_range
    tracking = TrackingScore(max_range)
    told = _remember(dataset, args.metrics, scored, kitti, tracking)
    frames = tqdm(dataset, unit="frame")
    result = evaluate(frames, pipeline.process, args.repeats, max_range, told)
    result["detector"] = pipeline.detector.name
    if "nuscenes" in args.metrics:
        scored = unknown_as_standing(scored)
        result["nuscenes"] = breakdown(scored, NuScenesProtocol.of(args.classes, args.max_range))
    if tracking.frames:
        result["tracking"] = tracking.figures()
    if "kitti" in args.metrics:
        result["kitti"] = kitti_metrics(kitti)
    _print(dataset.name, result)
    if args.json is not None:
        write_json(args.json, result)
    return 0


def _remember(
    dataset: Dataset,
    metrics: list[str],
    scored: list[ScoredFrame],
    kitti: list[KittiFrame],
    tracking: TrackingScore,
) -> Told:
    """Keeps what was found and what is there, as each of the metrics wants it."""

    def told(index: int, frame: SensorFrame, boxes: Boxes3D) -> None:
        assert frame.labels is not None
        if boxes.track_ids is not None and frame.labels.track_ids is not None:
            tracking.add(boxes, frame.labels)
        counted = counting(frame.labels)
        truth = frame.labels.select(counted)
        if isinstance(dataset, NuScenes):
            scored.append(ScoredFrame(boxes, truth, dataset.attributes(index)[counted]))
        elif isinstance(dataset, Kitti):  # nothing outside of its image is labelled
            truth = truth.select(in_view(truth, frame))
            scored.append(ScoredFrame(boxes.select(in_view(boxes, frame)), truth))
        else:
            scored.append(ScoredFrame(boxes, truth))
        if "kitti" in metrics and isinstance(dataset, Kitti) and frame.cameras:
            labels = dataset.annotations(index)
            if labels is not None:
                kitti.append(kitti_frame(frame, boxes, labels))

    return told


def _print(name: str, result: dict[str, Any]) -> None:
    table = Table(title=f"{name}: {result['frames']} frames, {result['detector']}")
    table.add_column("figure")
    table.add_column("value", justify="right")
    counts = result["counts"]
    table.add_row("recall_1m", f"{result['recall_1m']:.3f} ({counts['found']}/{counts['labels']})")
    row = f"{result['precision_1m']:.3f} ({counts['right']}/{counts['boxes']})"
    table.add_row("precision_1m", row)
    table.add_row("false_per_frame", f"{result['false_per_frame']:.2f}")
    if "nuscenes" in result:
        _add_nuscenes(table, result["nuscenes"])
    if "tracking" in result:
        _add_tracking(table, result["tracking"])
    for metric in METRICS if "kitti" in result else ():
        for kind, levels in result["kitti"][metric].items():
            labels = "/".join(str(n) for n in result["kitti"]["labels"][kind].values())
            row = " / ".join(f"{ap:.1f}" for ap in levels.values())
            table.add_row(f"KITTI {metric} AP R40 {kind}, {labels} labels", row)
    for stage, values in {"whole pipeline": result["latency_ms"], **result["stage_ms"]}.items():
        table.add_row(f"{stage} p50 / p95", f"{values['p50']:.1f} / {values['p95']:.1f} ms")
    Console().print(table)


def _add_tracking(table: Table, figures: dict[str, Any]) -> None:
    table.add_row("MOTA at 2 m", f"{figures['mota']:.3f} ({figures['labels']} labels)")
    table.add_row("id switches", f"{figures['id_switches']} ({figures['objects']} objects)")


def _add_nuscenes(table: Table, figures: dict[str, Any]) -> None:
    table.add_row("mAP", f"{100 * figures['map']:.1f} ({figures['labels']} labels)")
    without = ", ".join(error.upper() for error in figures["nds_without"])
    table.add_row(f"NDS without {without}" if without else "NDS", f"{100 * figures['nds']:.1f}")
    for error in ERRORS:
        measured = error not in figures["nds_without"]
        table.add_row(error.upper(), f"{figures[error]:.3f}" if measured else "not measured")
    for name, values in figures["by_class"].items():
        if values["labels"]:
            row = f"{100 * values['ap']:.1f} ({values['labels']} labels)"
            if math.isfinite(values["ave"]):
                row += f", AVE {values['ave']:.2f} m/s"
            table.add_row(f"AP {name}", row)
    for band, values in figures["by_distance"].items():
        table.add_row(f"mAP {band} m", f"{100 * values['map']:.1f} ({values['labels']} labels)")
