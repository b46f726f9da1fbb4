"""How much of visible and thermal images a fused one keeps."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console
from rich.table import Table
from tqdm import tqdm

HELP = "score classical fusion of aligned visible and thermal images by six usual figures"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", type=Path, required=True, help="holds visible/ and infrared/")
    parser.add_argument("--held-out", action="store_true", help="each fifth pair alone")
    parser.add_argument("--json", type=Path, help="file for the result")


def run(args: argparse.Namespace) -> int:
    from multimodal_perception.datasets.visible_infrared import held_out, pair_stems
    from multimodal_perception.evaluation.image_fusion import FIGURES, compare_fusions
    from multimodal_perception.evaluation.report import write_json
    from multimodal_perception.image_fusion.classical import laplacian_pyramid, maximum, mean

    stems = pair_stems(args.root)
    if args.held_out:
        stems = held_out(stems)
    methods = {"mean": mean, "maximum": maximum, "laplacian_pyramid": laplacian_pyramid}
    result = compare_fusions(args.root, tqdm(stems, unit="pair"), methods)
    table = Table(title=f"{args.root}: {result['pairs']} pairs")
    table.add_column("")
    for figure in FIGURES:
        table.add_column(figure, justify="right")
    for name, means in result["mean"].items():
        table.add_row(name, *(f"{means[f]:.3f}" for f in FIGURES))
    Console().print(table)
    if args.json is not None:
        write_json(args.json, result)
    return 0
