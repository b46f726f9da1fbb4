"""A trained fusion detector as model folders."""

from __future__ import annotations

import argparse
from pathlib import Path

from multimodal_perception.configuration import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, required=True, help="that it was trained by")
    parser.add_argument("--proposals", type=Path, required=True, help="proposals.safetensors")
    parser.add_argument(
        "--blind", type=Path, help="proposals.safetensors for frames without LiDAR, if another one"
    )
    parser.add_argument("--refinement", type=Path, help="refinement.safetensors")
    parser.add_argument("--out", type=Path, required=True, help="folder of the model")
    parser.add_argument("--command", required=True, help="that trained it, for the card")
    parser.add_argument("--data", default="", help="what it was trained on, for the card")
    parser.add_argument("--hours", type=float, required=True, help="that it took, for the card")
    parser.add_argument("--device", required=True, help="that it took them on, for the card")


def run(args: argparse.Namespace) -> int:
    from multimodal_perception.configuration import load
    from multimodal_perception.runtime.card import Training
    from multimodal_perception.training.detector.export import export_detector
    from multimodal_perception.training.detector.train import DetectorTraining

    if not 0 <= args.hours <= 1e6:
        raise UserError("--hours: 0 to 1e6")
    config = load(DetectorTraining, args.config)
    training = Training(args.command, config.loop.seed, args.hours, args.device, args.data)
    cards = export_detector(
        config.network, args.proposals, args.refinement, args.out, training, blind=args.blind
    )
    for card in cards:
        print(f"{card.path}: {card.architecture}, inputs {', '.join(card.inputs)}")
    return 0
