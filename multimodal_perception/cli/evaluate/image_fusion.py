"""How much of visible and thermal images a fused one keeps."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from multimodal_perception.configuration import UserError

DRAWN = 12
ATTACK_STEPS = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", type=Path, required=True, help="holds visible/ and infrared/")
    parser.add_argument("--held-out", action="store_true", help="each fifth pair alone")
    parser.add_argument(
        "--model",
        default="image_fusion",
        help="shipped model or card beside the classical ways; none: these alone",
    )
    parser.add_argument(
        "--attack",
        type=float,
        default=0.0,
        metavar="LEVELS",
        help="change each pixel of both images by up to so many of 255 levels, against the model",
    )
    parser.add_argument("--sheet", type=Path, help=f"picture of {DRAWN} pairs (.png, .jpg)")
    parser.add_argument("--json", type=Path, help="file for the result")


def run(args: argparse.Namespace) -> int:
    from multimodal_perception.datasets.visible_thermal_pairs import held_out, pair_stems
    from multimodal_perception.evaluation.classical_fusion import laplacian_pyramid, maximum, mean
    from multimodal_perception.evaluation.image_fusion import compare_fusions
    from multimodal_perception.evaluation.report import write_json
    from multimodal_perception.image_fusion.network import AnySizeFusion

    stems = pair_stems(args.root)
    if args.held_out:
        stems = held_out(stems)
    methods: dict[str, Any] = {
        "mean": mean,
        "maximum": maximum,
        "laplacian_pyramid": laplacian_pyramid,
    }
    network = None if args.model == "none" else AnySizeFusion(args.model)
    if network is not None:
        methods["ours"] = network.fuse
    if not 0 <= args.attack <= 127:
        raise UserError(f"--attack: allowed: 0 to 127 levels; got {args.attack:g}")
    if network is None and (args.attack or args.sheet is not None):
        raise UserError("--attack and --sheet need a --model")
    disturb = None
    if network is not None and args.attack:
        attack = network.attacked

        def disturb(visible: Any, thermal: Any) -> Any:
            return attack(visible, thermal, args.attack / 255, ATTACK_STEPS)

    result = compare_fusions(args.root, tqdm(stems, unit="pair"), methods, disturb)
    _print(str(args.root), result)
    if args.json is not None:
        write_json(args.json, result)
    if network is not None and args.sheet is not None:
        _draw(args.sheet, args.root, stems, network.fuse)
    return 0


def _print(title: str, result: dict[str, Any]) -> None:
    from multimodal_perception.evaluation.image_fusion import FIGURES

    table = Table(title=f"{title}: {result['pairs']} pairs")
    table.add_column("")
    for figure in FIGURES:
        table.add_column(figure, justify="right")
    for name, means in result["mean"].items():
        table.add_row(name, *(f"{means[f]:.3f}" for f in FIGURES))
    Console().print(table)


def _draw(path: Path, root: Path, stems: list[str], fuse: Any) -> None:
    import cv2

    from multimodal_perception.visualization.image_fusion_sheet import draw_fusions

    count = min(DRAWN, len(stems))
    drawn = draw_fusions(root, [stems[k * len(stems) // count] for k in range(count)], fuse)
    try:
        written = cv2.imwrite(str(path), cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))
    except cv2.error as error:
        raise UserError(f"{path}: {str(error).strip()[:80]}") from error
    if not written:
        raise UserError(f"{path}: cannot be written")
    print(f"{path}: {count} pairs")
