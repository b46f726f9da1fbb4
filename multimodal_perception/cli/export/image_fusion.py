"""A trained image fusion as a model folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from multimodal_perception.configuration import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="shipped model, or card of `train image-fusion`")
    parser.add_argument("--out", type=Path, required=True, help="folder for the model")
    parser.add_argument(
        "--size", type=int, nargs=2, default=(360, 640), metavar=("ROWS", "COLUMNS")
    )


def run(args: argparse.Namespace) -> int:
    from multimodal_perception.image_fusion.network import load_network
    from multimodal_perception.runtime.card import load_card
    from multimodal_perception.training.image_fusion.export import export_model

    rows, columns = args.size
    if not (16 <= rows <= 4096 and 16 <= columns <= 4096) or rows % 2 or columns % 2:
        raise UserError(f"--size: allowed: even, 16 to 4096; got {rows} {columns}")
    card = load_card(args.model)
    if card.path is not None and card.path.parent.resolve() == args.out.resolve():
        raise UserError(f"--out {args.out}: holds the model that is exported; name another folder")
    network = load_network(card)
    written = export_model(
        network.network, args.out, card.training, rows, columns, card.notes, card.figures
    )
    print(f"{written.path}: {rows} x {columns}")
    return 0
