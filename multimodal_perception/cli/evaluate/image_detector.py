"""`evaluate image-detector`: COCO AP of 2D boxes and their ground projection, on simulated drives.

With --dataset it uses real images, see labelled_images.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

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
from multimodal_perception.evaluation.html_report import Report, ReportTable
from multimodal_perception.evaluation.image_detection_report import image_detection_report
from multimodal_perception.evaluation.worst_pictures import WorstPictures
from multimodal_perception.simulation.rigs import RIG_HELP, open_rig

_NO_OBJECTS = {"labels": 0, "recall": 0.0}


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
        "--model", default="image_detector", help="name of a shipped model, or a model card"
    )
    parser.add_argument("--json", type=Path, help="write the result to this JSON file")
    add_report_arguments(parser, compare=False)
    labelled_images.add_detection_arguments(parser)


def run(args: argparse.Namespace) -> int:
    args.other = select_other(args)
    check_files(args)
    if args.dataset is not None:
        return labelled_images.run_detection(args)
    labelled_images.refuse_executor_without_images(args)
    if args.compare:
        raise UserError(
            f"--compare {args.compare[0]}: model cards need --dataset; simulated drives take the result "
            "(.json) of another run"
        )
    from multimodal_perception.evaluation.image_detection_drives import score_drives
    from multimodal_perception.runtime.card import load_card

    if not 1 <= args.frames <= 1000:
        raise UserError(f"--frames: allowed: 1 to 1000; got {args.frames}")
    seeds = parse_seeds(args.seeds)
    rig = open_rig(args.rig)

    def progress(total: int) -> tqdm[Any]:
        return tqdm(total=total, unit="frame")

    worst = WorstPictures(PICTURES if args.report is not None else 0)
    result = score_drives(
        load_card(args.model), rig, seeds, args.frames, progress, args.profile, worst
    )
    print_tables(result)
    text = configuration_text("evaluate image-detector", args)

    def build(other: Any, criteria: ReportTable | None) -> Report:
        title = "Image detection in simulated drives"
        return image_detection_report(title, result, worst.pictures(), text, other, criteria)

    return finish(args, result, build)


def print_tables(result: dict[str, Any]) -> None:
    """Print the result of `score_drives`: AP, and recall and precision of the ground projection."""
    rows, projection = result["rows"], result["ground_projection"]
    conditions = list(projection)
    console = Console()
    for metric in ("ap50", "ap"):
        table = Table(title=f"{metric.upper()} in percent, {result['frames']} frames")
        table.add_column("images, class")
        for name in conditions:
            table.add_column(name, justify="right")
        for row, scores in rows.items():
            for name in scores[conditions[0]]:
                cells = (f"{100 * scores[c][name][metric]:.1f}" for c in conditions)
                table.add_row(f"{row}, {name}", *cells)
        console.print(table)
    table = Table(title="ground projection within 30 m: objects with a projected box within 2 m")
    table.add_column("")
    for name in conditions:
        table.add_column(name, justify="right")
    for row in (r for r in projection[conditions[0]] if r != "boxes"):
        values = [projection[c].get(row, _NO_OBJECTS) for c in conditions]
        table.add_row(row, *(_percent(v["recall"], v["labels"]) for v in values))
    boxes = [projection[c]["boxes"] for c in conditions]
    table.add_row("precision", *(_percent(b["precision"], b["count"]) for b in boxes))
    table.add_row("mean score", *(f"{b['mean_score']:.2f}" if b["count"] else "-" for b in boxes))
    console.print(table)


def _percent(fraction: float, count: int) -> str:
    """A fraction of `count` objects or boxes, such as "55 % of 86"."""
    return f"{100 * fraction:.0f} % of {count}" if count else "-"
