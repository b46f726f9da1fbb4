"""Writes a trained image detector as a model folder with ONNX, weights and card."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--weights",
        type=Path,
        required=True,
        help="weights written by `train image-detector` (.safetensors)",
    )
    parser.add_argument("--out", type=Path, required=True, help="model folder to write")
    parser.add_argument("--command", required=True, help="training command, recorded in the card")
    parser.add_argument("--data", default="", help="training data, recorded in the card")
    parser.add_argument(
        "--seed", type=int, default=0, help="training seed, recorded in the card (default: 0)"
    )
    parser.add_argument(
        "--hours", type=float, required=True, help="training time in hours, recorded in the card"
    )
    parser.add_argument("--device", required=True, help="training hardware, recorded in the card")


def run(args: argparse.Namespace) -> int:
    from multimodal_perception.runtime.card import Training
    from multimodal_perception.training.image_detector.export import export_image_detector

    training = Training(args.command, args.seed, args.hours, args.device, args.data)
    card = export_image_detector(args.weights, args.out, training)
    print(f"{card.path}: {card.figures['parameters']} parameters")
    return 0
