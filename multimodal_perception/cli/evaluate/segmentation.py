"""`evaluate segmentation`: mIoU on simulated drives by day, by night and in fog."""

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
    parser.add_argument(
        "--seeds",
        default="10000..10004",
        metavar="A..B",
        help="random seeds of the simulated drives, both ends included",
    )
    parser.add_argument(
        "--frames", type=int, default=4, help="frames of each drive, at intervals of 2 s"
    )
    parser.add_argument("--rig", default="simulation", help="rig file, or name of a shipped rig")
    parser.add_argument(
        "--model", default="segmentation", help="name of a shipped model, or a model card"
    )
    parser.add_argument(
        "--compare",
        action="append",
        default=[],
        metavar="CARD",
        help="model card of another network to evaluate; may be repeated",
    )
    parser.add_argument("--json", type=Path, help="write the result to this JSON file")


def run(args: argparse.Namespace) -> int:
    from multimodal_perception.evaluation.segmentation_drives import score_drives
    from multimodal_perception.rig import load_rig, resolve_rig_path
    from multimodal_perception.runtime.card import load_card

    if not 1 <= args.frames <= 1000:
        raise UserError(f"--frames: allowed: 1 to 1000; got {args.frames}")
    seeds = parse_seeds(args.seeds)
    cards = [load_card(name) for name in (args.model, *args.compare)]
    rig = load_rig(resolve_rig_path(args.rig))

    def progress(total: int) -> tqdm[Any]:
        return tqdm(total=total, unit="frame")

    result = score_drives(cards, rig, seeds, args.frames, progress)
    _print(result)
    if args.json is not None:
        write_json(args.json, result)
    return 0


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
