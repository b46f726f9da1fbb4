"""Evaluation of image networks on real labelled images: options, runs and tables.

`evaluate segmentation` and `evaluate image-detector` use it when --dataset is given.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from multimodal_perception.cli.evaluate.report_options import (
    PICTURES,
    configuration_text,
    finish,
)
from multimodal_perception.configuration import UserError
from multimodal_perception.evaluation.html_report import Report, ReportTable
from multimodal_perception.evaluation.report import write_json
from multimodal_perception.evaluation.segmentation_images import (
    SEGMENTATION_DATASETS,
    SPLITS,
    list_images,
)
from multimodal_perception.evaluation.segmentation_report import segmentation_report
from multimodal_perception.evaluation.worst_pictures import WorstPictures, draw_mask_errors
from multimodal_perception.segmentation.classes import IGNORED

DETECTION_DATASETS = ("coco", "kitti", "nuscenes", "pandaset", *SEGMENTATION_DATASETS)


def add_arguments(parser: argparse.ArgumentParser, datasets: Sequence[str]) -> None:
    """Add the options of the data set."""
    group = parser.add_argument_group("real images instead of simulated drives")
    group.add_argument("--dataset", choices=datasets, help="format of the data at --root")
    group.add_argument("--root", type=Path, metavar="DIR", help="folder of the data set")
    group.add_argument(
        "--split",
        choices=SPLITS,
        help="of data sets with a folder for each split (default: train and val)",
    )


def add_detection_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `evaluate image-detector` for real images."""
    add_arguments(parser, DETECTION_DATASETS)
    group = parser.add_argument_group("detection in real images")
    group.add_argument(
        "--compare",
        action="append",
        default=[],
        metavar="CARD",
        help="another model in the same table; may be repeated",
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
    """Evaluate segmentation models on a labelled data set."""
    from multimodal_perception.evaluation.segmentation_images import (
        open_segmenter,
        score_images,
    )

    images = list_images(args.dataset, _root(args), args.split)
    models = (args.model, *args.compare)
    segmenters = {name: open_segmenter(name) for name in models}
    worst = WorstPictures(PICTURES if args.report is not None else 0)
    times_ms: dict[str, list[float]] = {name: [] for name in models}

    def add(model: str, image: str, pixels: Any, truth: Any, labels: Any, time_ms: float) -> None:
        times_ms[model].append(time_ms)
        counted = truth != IGNORED
        if worst.count and model == args.model and counted.any():
            error = float(np.mean((truth != labels)[counted]))
            text = f"{image}: {100 * error:.1f} % of the pixels wrong"
            worst.add(error, text, lambda: draw_mask_errors(pixels[..., ::-1], truth, labels))

    rows = {}
    with tqdm(total=len(images) * len(models), unit="image") as bar:
        for name, segmenter in segmenters.items():
            on_result = partial(add, name)
            rows[name] = score_images(segmenter, args.dataset, images, bar.update, on_result)
    _print_segmentation(args.dataset, rows)
    text = configuration_text("evaluate segmentation", args)

    def build(other: Any, criteria: ReportTable | None) -> Report:
        title = f"Segmentation of {args.dataset}"
        others = None if other is None else other["rows"]
        pictures = worst.pictures()
        return segmentation_report(title, rows, times_ms, pictures, text, others, criteria)

    return finish(args, {"dataset": args.dataset, "rows": rows}, build)


def run_detection(args: argparse.Namespace) -> int:
    """Evaluate image detectors on a labelled data set."""
    from multimodal_perception.evaluation.image_detection_images import (
        CURVE_MIN_SCORE,
        open_detector,
        open_images,
        score_boxes,
        score_person_regions,
    )
    from multimodal_perception.evaluation.labelled_boxes import BoxLimits
    from multimodal_perception.evaluation.person_regions import MIN_REGION_HEIGHT

    regions = args.dataset in SEGMENTATION_DATASETS
    default_height = MIN_REGION_HEIGHT if regions else BoxLimits().min_height
    height = default_height if args.min_height is None else args.min_height
    images: Any
    if regions:
        images = list_images(args.dataset, _root(args), args.split)
    else:
        limits = BoxLimits(height, args.min_points)
        images = open_images(args.dataset, _root(args), limits, args.cameras, args.split)
    variants = _variants(args)
    threshold = min(args.min_score, args.min_score if regions else CURVE_MIN_SCORE)
    detectors = {row: open_detector(m, threshold, tiles) for row, (m, tiles) in variants.items()}
    rows = {}
    with tqdm(total=len(images) * len(variants), unit="image") as bar:
        for row, detector in detectors.items():
            if regions:
                rows[row] = score_person_regions(
                    detector, args.dataset, images, args.min_score, height, bar.update
                )
            else:
                rows[row] = score_boxes(
                    detector, images, args.min_score, args.precision, height, bar.update
                )
    (_print_regions if regions else _print_boxes)(args.dataset, rows)
    if args.json is not None:
        write_json(args.json, {"dataset": args.dataset, "rows": rows})
    return 0


def _root(args: argparse.Namespace) -> Path:
    if args.root is None:
        raise UserError(f"--dataset {args.dataset}: needs --root DIR, the folder of the data set")
    return Path(args.root)


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
