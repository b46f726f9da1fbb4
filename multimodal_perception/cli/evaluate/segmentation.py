"""`evaluate segmentation`: mIoU on simulated drives by day, by night and in fog, or on real images."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from multimodal_perception.cli.drive_options import add_profile_argument, parse_seeds
from multimodal_perception.cli.evaluate import labelled_images
from multimodal_perception.cli.evaluate.report_options import (
    PICTURES,
    add_report_arguments,
    check_files,
    configuration_text,
    finish,
)
from multimodal_perception.configuration import UserError
from multimodal_perception.evaluation.html_report import Report, ReportTable
from multimodal_perception.evaluation.segmentation_report import segmentation_report
from multimodal_perception.evaluation.worst_pictures import WorstPictures, draw_mask_errors
from multimodal_perception.segmentation.classes import IGNORED
from multimodal_perception.simulation.rigs import RIG_HELP, open_rig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seeds",
        default="10000..10004",
        metavar="A..B",
        help="random seeds of the simulated drives, both ends included",
    )
    parser.add_argument(
        "--frames", type=int, default=4, help="frames of each drive, at intervals of 2 s"
    )
    add_profile_argument(parser)
    parser.add_argument("--rig", default="simulation", help=RIG_HELP)
    parser.add_argument(
        "--model", default="segmentation", help="name of a shipped model, or a model card"
    )
    parser.add_argument(
        "--compare",
        action="append",
        default=[],
        metavar="CARD|JSON",
        help="model card of another network to evaluate, or the result of another run (.json) to show "
        "beside it in the report; may be repeated",
    )
    parser.add_argument("--json", type=Path, help="write the result to this JSON file")
    add_report_arguments(parser, compare=False)
    labelled_images.add_arguments(parser, labelled_images.SEGMENTATION_DATASETS)


def run(args: argparse.Namespace) -> int:
    args.other = select_other(args)
    check_files(args)
    if args.dataset is not None:
        return labelled_images.run_segmentation(args)
    labelled_images.refuse_executor_without_images(args)
    from multimodal_perception.evaluation.segmentation_drives import score_drives
    from multimodal_perception.runtime.card import load_card

    if not 1 <= args.frames <= 1000:
        raise UserError(f"--frames: allowed: 1 to 1000; got {args.frames}")
    seeds = parse_seeds(args.seeds)
    cards = [load_card(name) for name in (args.model, *args.compare)]
    rig = open_rig(args.rig)

    def progress(total: int) -> tqdm[Any]:
        return tqdm(total=total, unit="frame")

    worst = WorstPictures(PICTURES if args.report is not None else 0)

    def add_image(row: str, condition: str, frame: Any, truth: Any, labels: Any) -> None:
        image = next(iter(frame.cameras.values()), None)
        if worst.count and row == first_row.setdefault("name", row) and image is not None:
            error = float(np.mean((truth != labels)[truth != IGNORED]))
            text = f"{row}, {condition}, {frame.stamp_ns} ns: {100 * error:.1f} % wrong"
            worst.add(error, text, lambda: draw_mask_errors(image.rgb(), truth, labels))

    first_row: dict[str, str] = {}
    result = score_drives(cards, rig, seeds, args.frames, progress, args.profile, add_image)
    _print(result)
    text = configuration_text("evaluate segmentation", args)

    def build(other: Any, criteria: ReportTable | None) -> Report:
        return segmentation_report(
            "Segmentation of simulated drives",
            _flat_rows(result),
            {},
            worst.pictures(),
            text,
            None if other is None else _flat_rows(other),
            criteria,
        )

    return finish(args, result, build)


def select_other(args: argparse.Namespace) -> Path | None:
    """The result among --compare, which then has only model cards. Raises UserError for several."""
    results = [Path(value) for value in args.compare if value.endswith(".json")]
    if len(results) > 1:
        raise UserError("--compare: only one result (.json) can be shown beside this one")
    args.compare = [value for value in args.compare if not value.endswith(".json")]
    return results[0] if results else None


def _flat_rows(result: dict[str, Any]) -> dict[str, Any]:
    """Scores by row and condition in one mapping."""
    return {
        f"{row}, {condition}": scores
        for row, by_condition in result["rows"].items()
        for condition, scores in by_condition.items()
    }


def _print(result: dict[str, Any]) -> None:
    rows = result["rows"]
    conditions = list(next(iter(rows.values())))
    table = Table(title=f"segmentation, mIoU in percent, {result['frames']} frames")
    table.add_column("network, images")
    for name in conditions:
        table.add_column(name, justify="right")
    for row, scores in rows.items():
        table.add_row(row, *(f"{100 * scores[c]['miou']:.1f}" for c in conditions))
    Console().print(table)
