"""`evaluate image-fusion`: metrics of image fusion on aligned visible and thermal images."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from multimodal_perception.configuration import UserError

SHEET_PAIRS = 12
ATTACK_STEPS = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--root", type=Path, required=True, help="folder that contains visible/ and infrared/"
    )
    parser.add_argument(
        "--held-out", action="store_true", help="use only the test split, every fifth pair"
    )
    parser.add_argument(
        "--not-held-out",
        action="store_true",
        help="use only the pairs that are not in the test split",
    )
    parser.add_argument(
        "--limit", type=int, metavar="N", help="use at most N pairs, evenly spaced (default: all)"
    )
    parser.add_argument(
        "--model",
        default="image_fusion",
        help="name of a shipped model, or a model card; none: evaluate only the classical methods",
    )
    parser.add_argument(
        "--attack",
        type=float,
        default=0.0,
        metavar="LEVELS",
        help="adversarial perturbation of the model's inputs, in grey levels of 255 per pixel",
    )
    parser.add_argument(
        "--sheet", type=Path, help=f"draw {SHEET_PAIRS} fused pairs into this file (.png, .jpg)"
    )
    parser.add_argument("--json", type=Path, help="write the result to this JSON file")


def run(args: argparse.Namespace) -> int:
    from multimodal_perception.datasets.visible_thermal_pairs import held_out_stems, list_pair_stems
    from multimodal_perception.evaluation.classical_fusion import laplacian_pyramid, maximum, mean
    from multimodal_perception.evaluation.fusion_network import FusionNetwork
    from multimodal_perception.evaluation.image_fusion import compare_fusions
    from multimodal_perception.evaluation.report import write_json

    stems = list_pair_stems(args.root)
    if args.held_out and args.not_held_out:
        raise UserError("--held-out and --not-held-out exclude each other")
    if args.held_out:
        stems = held_out_stems(stems)
    elif args.not_held_out:
        stems = sorted(set(stems) - set(held_out_stems(stems)))
    if args.limit is not None:
        count = min(args.limit, len(stems))
        stems = [stems[k * len(stems) // count] for k in range(count)]
    methods: dict[str, Any] = {
        "mean": mean,
        "maximum": maximum,
        "laplacian_pyramid": laplacian_pyramid,
    }
    network = None if args.model == "none" else FusionNetwork(args.model)
    if network is not None:
        methods["model"] = network.fuse
    if not 0 <= args.attack <= 127:
        raise UserError(f"--attack: allowed: 0 to 127 levels; got {args.attack:g}")
    if network is None and (args.attack or args.sheet is not None):
        raise UserError("--attack and --sheet need a --model")
    perturb = None
    if network is not None and args.attack:
        attack = network.projected_gradient_attack

        def perturb(visible: Any, thermal: Any) -> Any:
            return attack(visible, thermal, args.attack / 255, ATTACK_STEPS)

    result = compare_fusions(args.root, tqdm(stems, unit="pair"), methods, perturb)
    _print(str(args.root), result)
    if args.json is not None:
        write_json(args.json, result)
    if network is not None and args.sheet is not None:
        sheet_methods = {
            "mean": mean,
            "Laplacian pyramid": laplacian_pyramid,
            "model": network.fuse,
        }
        _draw(args.sheet, args.root, stems, sheet_methods)
    return 0


def _print(title: str, result: dict[str, Any]) -> None:
    from multimodal_perception.evaluation.image_fusion import METRICS

    table = Table(title=f"{title}: {result['pairs']} pairs")
    table.add_column("")
    for metric in METRICS:
        table.add_column(metric, justify="right")
    for name, means in result["mean"].items():
        table.add_row(name, *(f"{means[m]:.3f}" for m in METRICS))
    Console().print(table)


def _draw(path: Path, root: Path, stems: list[str], methods: dict[str, Any]) -> None:
    import cv2

    from multimodal_perception.visualization.image_fusion_sheet import draw_fusion_sheet

    count = min(SHEET_PAIRS, len(stems))
    selected = [stems[k * len(stems) // count] for k in range(count)]
    sheet = draw_fusion_sheet(root, selected, methods)
    try:
        written = cv2.imwrite(str(path), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    except cv2.error as error:
        raise UserError(f"{path}: {str(error).strip()[:80]}") from error
    if not written:
        raise UserError(f"{path}: cannot be written")
    print(f"{path}: {count} pairs")
