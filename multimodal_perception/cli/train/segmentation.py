"""`train segmentation`: segmentation of camera and thermal images, from rendering to a model folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from multimodal_perception.cli.drive_options import add_profile_argument
from multimodal_perception.cli.train.options import (
    add_training_arguments,
    add_workers_argument,
    check_workers,
    set_threads,
)
from multimodal_perception.configuration import load


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of the drives; missing ones are rendered"
    )
    parser.add_argument("--drives", type=int, default=96, help="number of drives, 10 frames each")
    add_workers_argument(parser)
    add_profile_argument(parser)
    parser.add_argument(
        "--backbones", type=Path, help="weights of a network with another fusion to start from"
    )
    add_training_arguments(parser, "segmentation")


def run(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from multimodal_perception.runtime.card import Training
    from multimodal_perception.training.checkpoint import read_hours
    from multimodal_perception.training.segmentation.export import export_model
    from multimodal_perception.training.segmentation.rendering import render_drives
    from multimodal_perception.training.segmentation.train import (
        SegmentationTraining,
        train_segmentation,
    )

    check_workers(args)
    config = SegmentationTraining()
    if args.config is not None:
        config = load(SegmentationTraining, args.config)
    set_threads(args)
    lidar = config.second_input == "lidar"
    drives = render_drives(
        args.data,
        range(args.drives),
        args.workers,
        lidar,
        lambda seeds: tqdm(seeds, "drives"),
        profile=args.profile,
    )
    network = train_segmentation(config, drives, args.out, args.start, args.backbones)
    device = str(next(network.parameters()).device)
    hours = round(read_hours(args.out), 2)
    data = f"{len(drives)} simulated drives of 10 frames"
    training = Training("train segmentation", config.loop.seed, hours, device, data)
    card = export_model(network, args.out, training, config.second_input)
    print(f"{card.path}: {card.figures['parameters']} parameters")
    return 0
