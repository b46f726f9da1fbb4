"""`export detector`: writes a trained fusion detector as model folders with ONNX, weights and cards."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", type=Path, required=True, help="configuration file of the training"
    )
    parser.add_argument(
        "--proposals", type=Path, required=True, help="proposals.safetensors of the first stage"
    )
    parser.add_argument(
        "--without-lidar",
        type=Path,
        help="proposals.safetensors of a second first stage for frames without LiDAR",
    )
    parser.add_argument(
        "--refinement", type=Path, help="refinement.safetensors of the second stage"
    )
    parser.add_argument("--out", type=Path, required=True, help="model folder to write")
    parser.add_argument("--command", required=True, help="training command, recorded in the card")
    parser.add_argument("--data", default="", help="training data, recorded in the card")
    parser.add_argument(
        "--hours", type=float, required=True, help="training time in hours, recorded in the card"
    )
    parser.add_argument("--device", required=True, help="training hardware, recorded in the card")


def run(args: argparse.Namespace) -> int:
    from multimodal_perception.configuration import load
    from multimodal_perception.runtime.card import Training
    from multimodal_perception.training.detector.export import export_detector
    from multimodal_perception.training.detector.train import DetectorTraining

    config = load(DetectorTraining, args.config)
    training = Training(args.command, config.loop.seed, args.hours, args.device, args.data)
    cards = export_detector(
        config.network,
        args.proposals,
        args.refinement,
        args.out,
        training,
        without_lidar=args.without_lidar,
    )
    for card in cards:
        print(f"{card.path}: {card.architecture}, inputs {', '.join(card.inputs)}")
    return 0
