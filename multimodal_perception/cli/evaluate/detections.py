"""`evaluate detections`: detection metrics and latency of the pipeline on labelled frames."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from multimodal_perception.cli.drive_options import (
    add_class_arguments,
    check_class_arguments,
    requested_protocol,
)
from multimodal_perception.cli.evaluate.detection_job import DetectionJob, run_job
from multimodal_perception.cli.evaluate.report_options import (
    PICTURES,
    add_report_arguments,
    check_files,
    configuration_text,
    finish,
)
from multimodal_perception.cli.evaluate.sensor_options import (
    add_sensor_options,
    remaining_modalities,
)
from multimodal_perception.cli.executor import (
    Outcome,
    add_executor_arguments,
    executor_from,
    report_failures,
    resume_folder,
    run_drives,
)
from multimodal_perception.cli.finished_drives import FinishedDrives
from multimodal_perception.cli.inputs import INPUTS_HELP, expand_inputs
from multimodal_perception.configuration import load
from multimodal_perception.datasets.open_dataset import DATASET_NAMES, PATH_HELP
from multimodal_perception.evaluation.detection_report import detection_report
from multimodal_perception.evaluation.detections import MAX_RANGE_M
from multimodal_perception.evaluation.html_report import Report, ReportTable
from multimodal_perception.evaluation.kitti_metrics import METRICS
from multimodal_perception.evaluation.nuscenes_metrics import ERRORS
from multimodal_perception.evaluation.recorded_drives import (
    DriveResult,
    DriveSettings,
    combine,
    worst_frames,
)
from multimodal_perception.pipeline_builder import PipelineConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dataset",
        choices=DATASET_NAMES,
        help="format of the data at --root; by default detected from the files",
    )
    parser.add_argument(
        "--root", nargs="+", default=["synthetic"], help=f"{PATH_HELP}{INPUTS_HELP}"
    )
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
    add_sensor_options(parser)
    parser.add_argument("--repeats", type=int, default=5, help="timed runs per frame")
    parser.add_argument("--json", type=Path, help="write the result to this JSON file")
    add_report_arguments(parser)
    add_executor_arguments(parser)


def run(args: argparse.Namespace) -> int:
    jobs, config = detection_jobs(args)
    outcomes = run_detection_drives(args, jobs, "evaluate-detections")
    failed = report_failures(outcomes)
    results = [o.result for o in outcomes if o.result is not None]
    if not results:
        return 2 if failed else 0
    result = combine(
        results, requested_protocol(args), args.metrics, args.class_set[1:], args.max_range
    )
    result["without"] = sorted(args.without)
    name = results[0].name if len(results) == 1 else f"{len(results)} drives"
    _print(name, result)
    text = configuration_text("evaluate detections", args, config)
    worst = worst_frames(results, PICTURES)

    def build(other: Any, criteria: ReportTable | None) -> Report:
        return detection_report(f"Detection: {name}", result, worst, text, other, criteria)

    return max(finish(args, result, build), int(failed > 0))


def detection_jobs(args: argparse.Namespace) -> tuple[list[DetectionJob], PipelineConfig]:
    """A job for each drive of the options, and the configuration. Raises UserError."""
    check_class_arguments(args)
    check_files(args)
    config = PipelineConfig() if args.pipeline is None else load(PipelineConfig, args.pipeline)
    remaining_modalities(args.without)
    settings = DriveSettings(
        requested_protocol(args),
        "kitti" in args.metrics,
        MAX_RANGE_M if args.max_range is None else args.max_range,
        args.repeats,
        PICTURES if args.report is not None else 0,
    )
    jobs = [
        DetectionJob(
            root,
            args.dataset,
            config,
            settings,
            args.detector,
            tuple(args.without),
            args.image_detector,
            None if args.tiles is None else (args.tiles[0], args.tiles[1]),
        )
        for root in expand_inputs(args.root)
    ]
    return jobs, config


def run_detection_drives(
    args: argparse.Namespace, jobs: list[DetectionJob], command: str
) -> list[Outcome[DriveResult]]:
    """Evaluate the drives: one of them with a bar of its frames, several with the executor.

    A single drive that cannot be read raises UserError.
    """
    executor = executor_from(args)
    if len(jobs) == 1:
        result = run_job(jobs[0], lambda dataset: tqdm(dataset, unit="frame"))
        outcomes = [Outcome(jobs[0].root, result)]
    else:
        finished = FinishedDrives(resume_folder(args, command, jobs))
        names = [job.root for job in jobs]
        outcomes = run_drives(run_job, jobs, names, executor, finished)
        if not any(o.error for o in outcomes):
            finished.remove()
    for outcome in outcomes:
        for note in outcome.result.notes if outcome.result is not None else ():
            print(f"note: {note}", file=sys.stderr)
    return outcomes


def _print(name: str, result: dict[str, Any]) -> None:
    title = f"{name}: {result['frames']} frames, {result['detector']}"
    title += "" if result["image_detector"] == "none" else f", images {result['image_detector']}"
    title += "".join(f", without {modality}" for modality in result["without"])
    table = Table(title=title)
    table.add_column("metric")
    table.add_column("value", justify="right")
    counts = result["counts"]
    row = f"{result['recall_1m']:.3f} ({counts['matched_labels']}/{counts['labels']})"
    table.add_row("recall at 1 m", row)
    row = f"{result['precision_1m']:.3f} ({counts['matched_boxes']}/{counts['boxes']})"
    table.add_row("precision at 1 m", row)
    table.add_row("false positives per frame", f"{result['false_positives_per_frame']:.2f}")
    if "near_objects" in result:
        _add_near_objects(table, result["near_objects"])
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


def _add_near_objects(table: Table, metrics: dict[str, Any]) -> None:
    distance, max_range = metrics["max_distance"], metrics["max_range"]
    row = f"{metrics['share']:.3f} ({metrics['found']}/{metrics['labels']})"
    table.add_row(f"found within {distance:g} m, up to {max_range:g} m", row)
    table.add_row("boxes there with an object within 2 m", f"{metrics['precision']:.3f}")
    for band, values in metrics["by_distance"].items():
        if values["labels"]:
            row = f"{values['share']:.3f} ({values['found']}/{values['labels']})"
            table.add_row(f"found, {band} m", row)


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
    groups = [(f"{band} m", values) for band, values in metrics["by_distance"].items()]
    groups += [(f"{band} points", v) for band, v in metrics.get("by_points", {}).items()]
    groups += [(f"class set {name}", v) for name, v in metrics["class_sets"].items()]
    for name, values in groups:
        if values["labels"]:
            table.add_row(f"mAP {name}", f"{100 * values['map']:.1f} ({values['labels']} labels)")
