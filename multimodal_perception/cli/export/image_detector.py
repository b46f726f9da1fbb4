"""A trained image detector as a model folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from multimodal_perception.configuration import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--weights", type=Path, required=True, help="image_detector.safetensors")
    parser.add_argument("--out", type=Path, required=True, help="folder of the model")
    parser.add_argument("--command", required=True, help="that trained it, for the card")
    parser.add_argument("--data", default="", help="what it was trained on, for the card")
    parser.add_argument("--seed", type=int, default=0, help="of the training, for the card")
    parser.add_argument("--hours", type=float, required=True, help="that it took, for the card")
    parser.add_argument("--device", required=True, help="that it took them on, for the card")


def run(args: argparse.Namespace) -> int:
    from multimodal_perception.runtime.card import Training
    from multimodal_perception.training.image_detector.export import export_image_detector

    if not 0 <= args.hours <= 1e6:
        raise UserError("--hours: 0 to 1e6")
    training = Training(args.command, args.seed, args.hours, args.device, args.data)
    card = export_image_detector(args.weights, args.out, training)
    print(f"{card.path}: {card.figures['parameters']} parameters")
    return 0
