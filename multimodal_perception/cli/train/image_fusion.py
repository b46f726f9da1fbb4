"""`train image-fusion`: the fusion of visible and thermal images."""

from __future__ import annotations

import argparse
from pathlib import Path

from multimodal_perception.cli.train.options import add_training_arguments, set_threads
from multimodal_perception.configuration import UserError, load


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", type=Path, help="folder with visible/ and infrared/ images")
    parser.add_argument(
        "--simulated",
        type=Path,
        nargs="*",
        default=[],
        help="folders written by `simulate --rig camera_thermal --format dataset`",
    )
    add_training_arguments(parser, "image_fusion")


def run(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from multimodal_perception.runtime.card import Training
    from multimodal_perception.training.checkpoint import read_hours
    from multimodal_perception.training.image_fusion.export import export_model
    from multimodal_perception.training.image_fusion.train import (
        ImageFusionTraining,
        real_samples,
        simulated_samples,
        train_image_fusion,
    )

    if args.root is None and not args.simulated:
        raise UserError("one of --root and --simulated is required")
    config = ImageFusionTraining()
    if args.config is not None:
        config = load(ImageFusionTraining, args.config)
    set_threads(args)
    real = [] if args.root is None else real_samples(args.root, tqdm)
    simulated = simulated_samples(args.simulated)
    print(f"{len(real)} real and {len(simulated)} simulated image pairs")
    network = train_image_fusion(config, real, simulated, args.out, args.start)
    device = str(next(network.parameters()).device)
    data = f"{len(real)} real pairs (every fifth held out), {len(simulated)} simulated pairs"
    hours = round(read_hours(args.out), 2)
    training = Training("train image-fusion", config.loop.seed, hours, device, data)
    card = export_model(network, args.out, training)
    print(f"{card.path}: {card.figures['parameters']} parameters")
    return 0
