"""`evaluate segmentation`: mIoU on simulated drives by day, by night and in fog, or on real images."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    select_other,
)
from multimodal_perception.configuration import UserError
from multimodal_perception.evaluation.html_report import Report, ReportTable, number
from multimodal_perception.evaluation.segmentation_report import segmentation_report
from multimodal_perception.evaluation.worst_pictures import WorstPictures, draw_mask_errors
from multimodal_perception.segmentation.classes import IGNORED
from multimodal_perception.simulation.rigs import RIG_HELP, open_rig

if TYPE_CHECKING:
    from multimodal_perception.evaluation.segmentation_drives import Averaging

CONFIDENCE_FIGURES = ("ece", "brier", "error_auroc")


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
    _add_averaging_arguments(parser)
    parser.add_argument("--json", type=Path, help="write the result to this JSON file")
    add_report_arguments(parser, compare=False)
    labelled_images.add_arguments(parser, labelled_images.SEGMENTATION_DATASETS)


def _add_averaging_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("further rows of --model with averaged probabilities")
    group.add_argument(
        "--monte-carlo",
        type=int,
        metavar="N",
        help="Monte Carlo dropout with N passes of the decoder (needs torch)",
    )
    group.add_argument(
        "--dropout",
        type=float,
        default=0.2,
        help="probability with which a channel is dropped, with --monte-carlo (default: 0.2)",
    )
    group.add_argument("--mirrored", action="store_true", help="the image and the mirrored image")
    group.add_argument(
        "--ensemble",
        nargs="+",
        default=[],
        metavar="MODEL",
        help="this model and further ones; names or folders",
    )


def run(args: argparse.Namespace) -> int:
    args.other = select_other(args)
    check_files(args)
    averaging = _averaging(args)
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
    result = score_drives(
        cards, rig, seeds, args.frames, progress, args.profile, add_image, averaging
    )
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


def _averaging(args: argparse.Namespace) -> list[Averaging]:
    """The further rows. Raises UserError."""
    from multimodal_perception.evaluation.segmentation_drives import Averaging

    rows = {
        "--monte-carlo": args.monte_carlo and Averaging(args.monte_carlo, args.dropout),
        "--mirrored": args.mirrored and Averaging(mirrored=True),
        "--ensemble": args.ensemble and Averaging(ensemble=tuple(args.ensemble)),
    }
    chosen = {name: row for name, row in rows.items() if row}
    if chosen and args.dataset is not None:
        raise UserError(f"{next(iter(chosen))}: not with --dataset; only on simulated drives")
    return list(chosen.values())


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
    table = Table(title="confidence: ECE / Brier score / AUROC of wrong pixels")
    table.add_column("network, images")
    for name in conditions:
        table.add_column(name, justify="right")
    times = result.get("image_ms", {})
    if times:
        table.add_column("ms", justify="right")
    for row, scores in rows.items():
        cells = (
            " / ".join(number(scores[c]["confidence"][key]) for key in CONFIDENCE_FIGURES)
            for c in conditions
        )
        table.add_row(row, *cells, *([number(times[row], 0)] if times else []))
    Console().print(table)
