"""How good boxes in images are by day, by night and in fog, with both images and with either alone."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from multimodal_perception.cli.drive_options import parse_seeds
from multimodal_perception.configuration import UserError
from multimodal_perception.evaluation.report import write_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", default="10000..10004", help="simulated drives, A..B inclusive")
    parser.add_argument("--frames", type=int, default=4, help="of each drive, 2 s apart")
    parser.add_argument("--rig", default="simulation", help="rig file, or a shipped rig's name")
    parser.add_argument("--model", default="image_detector", help="shipped model, or a card")
    parser.add_argument("--json", type=Path, help="file for the result")


def run(args: argparse.Namespace) -> int:
    from multimodal_perception.evaluation.image_detection_drives import score_drives
    from multimodal_perception.rig import load_rig, rig_path
    from multimodal_perception.runtime.card import load_card

    if not 1 <= args.frames <= 1000:
        raise UserError(f"--frames: allowed: 1 to 1000; got {args.frames}")
    seeds = parse_seeds(args.seeds)
    rig = load_rig(rig_path(args.rig))

    def progress(total: int) -> tqdm[Any]:
        return tqdm(total=total, unit="frame")

    result = score_drives(load_card(args.model), rig, seeds, args.frames, progress)
    _print(result)
    if args.json is not None:
        write_json(args.json, result)
    return 0


def _print(result: dict[str, Any]) -> None:
    rows, placed = result["rows"], result["placed"]
    conditions = list(placed)
    console = Console()
    for figure in ("ap50", "ap"):
        table = Table(title=f"{figure.upper()} in percent, {result['frames']} frames")
        table.add_column("images, class")
        for name in conditions:
            table.add_column(name, justify="right")
        for row, scores in rows.items():
            for name in scores[conditions[0]]:
                cells = (f"{100 * scores[c][name][figure]:.1f}" for c in conditions)
                table.add_row(f"{row}, {name}", *cells)
        console.print(table)
    table = Table(title="objects within 30 m with a placed box within 2 m, percent of labels")
    table.add_column("")
    for name in conditions:
        table.add_column(name, justify="right")
    for row in (r for r in placed[conditions[0]] if r != "boxes"):
        cells = (_cell(placed[c].get(row)) for c in conditions)
        table.add_row(row, *cells)
    right = (f"{100 * placed[c]['boxes']['right']:.0f}" for c in conditions)
    table.add_row("placed boxes that are right", *right)
    sure = (f"{100 * placed[c]['boxes']['mean_score']:.0f}" for c in conditions)
    table.add_row("their mean score", *sure)
    console.print(table)


def _cell(value: dict[str, float] | None) -> str:
    return "-" if value is None else f"{100 * value['found']:.0f} of {value['labels']}"
