"""Writes a trained image-fusion network as a model folder for another image size."""

from __future__ import annotations

import argparse
from pathlib import Path

from multimodal_perception.configuration import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", help="name of a shipped model, or the model folder written by `train image-fusion`"
    )
    parser.add_argument("--out", type=Path, required=True, help="model folder to write")
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        default=(360, 640),
        metavar=("ROWS", "COLUMNS"),
        help="image size in pixels, even (default: 360 640)",
    )


def run(args: argparse.Namespace) -> int:
    from multimodal_perception.evaluation.fusion_network import load_fusion_network
    from multimodal_perception.runtime.card import load_card
    from multimodal_perception.training.image_fusion.export import export_model

    rows, columns = args.size
    if not (16 <= rows <= 4096 and 16 <= columns <= 4096) or rows % 2 or columns % 2:
        raise UserError(f"--size: allowed: even numbers from 16 to 4096; got {rows} {columns}")
    card = load_card(args.model)
    if card.path is not None and card.path.parent.resolve() == args.out.resolve():
        raise UserError(
            f"--out {args.out}: contains the model that is exported; use another folder"
        )
    network = load_fusion_network(card)
    written = export_model(
        network.network, args.out, card.training, rows, columns, card.notes, card.figures
    )
    print(f"{written.path}: {rows} x {columns}")
    return 0
