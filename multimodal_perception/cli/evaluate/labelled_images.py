"""Evaluation of image networks on real labelled images: options, runs and tables.

`evaluate segmentation` and `evaluate image-detector` use it when --dataset is given.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from multimodal_perception.cli.evaluate.report_options import (
    PICTURES,
    configuration_text,
    finish,
)
from multimodal_perception.cli.executor import (
    LOCAL,
    add_executor_arguments,
    executor_from,
    report_failures,
    resume_folder,
    run_drives,
)
from multimodal_perception.cli.finished_drives import FinishedDrives
from multimodal_perception.cli.inputs import INPUTS_HELP, expand_inputs
from multimodal_perception.configuration import UserError
from multimodal_perception.evaluation.html_report import Report, ReportTable
from multimodal_perception.evaluation.image_detection_report import image_detection_report
from multimodal_perception.evaluation.segmentation_images import SEGMENTATION_DATASETS, SPLITS
from multimodal_perception.evaluation.segmentation_report import segmentation_report

DETECTION_DATASETS = ("coco", "kitti", "nuscenes", "pandaset", *SEGMENTATION_DATASETS)


def add_arguments(parser: argparse.ArgumentParser, datasets: Sequence[str]) -> None:
    """Add the options of the data set."""
    group = parser.add_argument_group("real images instead of simulated drives")
    group.add_argument("--dataset", choices=datasets, help="format of the data at --root")
    group.add_argument(
        "--root", nargs="+", metavar="PATH", help=f"folder of the data set{INPUTS_HELP}"
    )
    group.add_argument(
        "--split",
        choices=SPLITS,
        help="of data sets with a folder for each split (default: train and val)",
    )
    add_executor_arguments(parser)


def add_detection_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `evaluate image-detector` for real images."""
    add_arguments(parser, DETECTION_DATASETS)
    group = parser.add_argument_group("detection in real images")
    group.add_argument(
        "--compare",
        action="append",
        default=[],
        metavar="CARD|JSON",
        help="another model in the same table (with --dataset; may be repeated), or the result of "
        "another run (.json) to show beside it in the report",
    )
    group.add_argument(
        "--tiles",
        type=int,
        nargs=2,
        metavar=("COLUMNS", "ROWS"),
        help="also evaluate each model on overlapping tiles besides the whole image",
    )
    group.add_argument("--cameras", nargs="+", default=[], metavar="NAME", help="default: all")
    group.add_argument(
        "--min-score",
        type=float,
        default=0.3,
        help="score threshold of the figures other than AP and recall at a precision",
    )
    group.add_argument(
        "--precision",
        type=float,
        default=0.7,
        help="precision at which the recall is reported",
    )
    group.add_argument(
        "--min-height",
        type=float,
        help="height of evaluated labels in pixels (default: boxes 25, person regions 40)",
    )
    group.add_argument(
        "--min-points",
        type=int,
        default=10,
        help="visible LiDAR points of evaluated objects, for labels that are projected 3D boxes",
    )


def run_segmentation(args: argparse.Namespace) -> int:
    """Evaluate segmentation models on labelled data sets."""
    from multimodal_perception.cli.evaluate.image_jobs import (
        SegmentationImagesJob,
        run_segmentation_job,
    )

    pictures = PICTURES if args.report is not None else 0
    models = tuple(dict.fromkeys((args.model, *args.compare)))
    jobs = [
        SegmentationImagesJob(root, args.dataset, args.split, models, pictures)
        for root in _roots(args)
    ]
    total, failed = _run_jobs(args, "evaluate-segmentation", run_segmentation_job, jobs)
    if total is None:
        return 2
    rows = {model: score.summary() for model, score in total.scores.items()}
    _print_segmentation(args.dataset, rows)
    text = configuration_text("evaluate segmentation", args)

    def build(other: Any, criteria: ReportTable | None) -> Report:
        title = f"Segmentation of {args.dataset}"
        others = None if other is None else other["rows"]
        pictures = total.worst.pictures()
        return segmentation_report(title, rows, total.times_ms, pictures, text, others, criteria)

    result = {"dataset": args.dataset, "rows": rows}
    return max(finish(args, result, build), int(failed > 0))


def run_detection(args: argparse.Namespace) -> int:
    """Evaluate image detectors on labelled data sets."""
    from multimodal_perception.cli.evaluate.image_jobs import (
        DetectionImagesJob,
        run_detection_job,
    )
    from multimodal_perception.evaluation.labelled_boxes import BoxLimits
    from multimodal_perception.evaluation.person_regions import MIN_REGION_HEIGHT

    regions = args.dataset in SEGMENTATION_DATASETS
    default_height = MIN_REGION_HEIGHT if regions else BoxLimits().min_height
    height = default_height if args.min_height is None else args.min_height
    variants = tuple((row, model, tiles) for row, (model, tiles) in _variants(args).items())
    pictures = PICTURES if args.report is not None else 0
    jobs = [
        DetectionImagesJob(
            root,
            args.dataset,
            args.split,
            tuple(args.cameras),
            variants,
            args.min_score,
            height,
            args.min_points,
            pictures,
        )
        for root in _roots(args)
    ]
    total, failed = _run_jobs(args, "evaluate-image-detector", run_detection_job, jobs)
    if total is None:
        return 2
    if regions:
        rows = {
            row: {**score.summary(), "min_score": total.thresholds[row]}
            for row, score in total.regions.items()
        }
    else:
        rows = {
            row: boxes.summary(args.min_score, args.precision, height)
            for row, boxes in total.boxes.items()
        }
    (_print_regions if regions else _print_boxes)(args.dataset, rows)
    text = configuration_text("evaluate image-detector", args)

    def build(other: Any, criteria: ReportTable | None) -> Report:
        title = f"Image detection in {args.dataset}"
        return image_detection_report(title, result, total.worst.pictures(), text, other, criteria)

    result = {"dataset": args.dataset, "rows": rows}
    return max(finish(args, result, build), int(failed > 0))


def refuse_executor_without_images(args: argparse.Namespace) -> None:
    """Raise UserError for options of several data sets without --dataset."""
    for option, is_given in (
        ("--root", args.root is not None),
        ("--split", args.split is not None),
        ("--executor", args.executor != LOCAL),
        ("--workers", args.workers != 1),
        ("--resume", args.resume is not None),
    ):
        if is_given and args.dataset is None:
            raise UserError(f"{option}: needs --dataset; simulated drives run in this process")


def _roots(args: argparse.Namespace) -> list[str]:
    from multimodal_perception.cli.evaluate.image_jobs import has_images

    if args.root is None:
        raise UserError(f"--dataset {args.dataset}: needs --root DIR, the folder of the data set")
    return expand_inputs(args.root, partial(has_images, args.dataset, args.split))


def _run_jobs(
    args: argparse.Namespace, command: str, function: Callable[..., Any], jobs: Sequence[Any]
) -> tuple[Any, int]:
    """The merged result of the jobs (None without any) and the number of jobs that failed.

    A single data set is evaluated with a bar of its images, and raises UserError if it cannot be read.
    """
    executor = executor_from(args)
    if len(jobs) == 1:
        with tqdm(unit="image") as bar:

            def progress(total: int) -> Callable[[], Any]:
                bar.reset(total)
                return bar.update

            return function(jobs[0], progress), 0
    finished = FinishedDrives(resume_folder(args, command, jobs))
    outcomes = run_drives(function, jobs, [j.root for j in jobs], executor, finished, "data set")
    failed = report_failures(outcomes, "data set")
    if not failed:
        finished.remove()
    results = [o.result for o in outcomes if o.result is not None]
    for result in results[1:]:
        results[0].merge(result)
    return (results[0] if results else None), failed


def _variants(args: argparse.Namespace) -> dict[str, tuple[str, tuple[int, int]]]:
    """Model and tiles by the name of the row."""
    rows: dict[str, tuple[str, tuple[int, int]]] = {}
    for model in (args.model, *args.compare):
        rows[model] = (model, (1, 1))
        if args.tiles is not None:
            columns, count = args.tiles
            rows[f"{model}, tiles {columns}x{count}"] = (model, (columns, count))
    return rows


def _percent(value: float) -> str:
    return f"{100 * value:.1f}" if math.isfinite(value) else "-"


def _print_segmentation(dataset: str, rows: Mapping[str, Any]) -> None:
    first = next(iter(rows.values()))
    table = Table(title=f"segmentation, IoU in percent, {dataset}, {first['images']} images")
    table.add_column("class")
    for row in rows:
        table.add_column(row, justify="right")
    table.add_row("mIoU", *(_percent(r["miou"]) for r in rows.values()), end_section=True)
    for name in first["classes"]:
        table.add_row(name, *(_percent(r["iou"][name]) for r in rows.values()))
    Console().print(table)


def _print_boxes(dataset: str, rows: Mapping[str, Any]) -> None:
    first = next(iter(rows.values()))
    precision, threshold = first["required_precision"], first["min_score"]
    table = Table(
        title=f"image detection in percent, {dataset}, {first['images']} images, IoU 0.5, score "
        f">= {threshold:g}"
    )
    table.add_column("model, class")
    columns = ("labels", "AP", "AP50", f"recall at {100 * precision:.0f} % precision")
    for name in (*columns, "recall", "precision", "nested boxes"):
        table.add_column(name, justify="right")
    for row, result in rows.items():
        for name, v in result["classes"].items():
            nested = v["nested_boxes"] / v["boxes"] if v["boxes"] else float("nan")
            values = (v["ap"], v["ap50"], v["recall_at_precision"], v["recall"], v["precision"])
            table.add_row(
                f"{row}, {name}", str(v["labels"]), *(_percent(x) for x in (*values, nested))
            )
        nested_share = _percent(result["nested_share"])
        all_classes = (_percent(result["ap"]), _percent(result["ap50"]), "", "", "", nested_share)
        table.add_row(f"{row}, all", "", *all_classes, end_section=True)
    Console().print(table)


def _print_regions(dataset: str, rows: Mapping[str, Any]) -> None:
    first = next(iter(rows.values()))
    table = Table(
        title=f"person regions of at least {first['min_height']:g} pixels, {dataset}, "
        f"{first['images']} images, score >= {first['min_score']:g}"
    )
    for name in ("model", "covered by a person box", "person boxes on labelled people"):
        table.add_column(name, justify="left" if name == "model" else "right")
    for row, r in rows.items():
        table.add_row(
            row,
            f"{_percent(r['coverage'])} % ({r['covered']}/{r['regions']})",
            f"{_percent(r['supported_share'])} % of {r['person_boxes']}",
        )
    Console().print(table)
