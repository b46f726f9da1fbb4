"""`train image-detector`: the detector of boxes in camera and thermal images."""

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
    parser.add_argument("--drives", type=int, default=114, help="number of drives, 10 frames each")
    add_workers_argument(parser)
    add_profile_argument(parser)
    add_training_arguments(parser, "image_detector")


def run(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from multimodal_perception.training.image_detector.train import (
        ImageDetectorTraining,
        train_image_detector,
    )
    from multimodal_perception.training.segmentation.rendering import render_drives

    check_workers(args)
    config = ImageDetectorTraining()
    if args.config is not None:
        config = load(ImageDetectorTraining, args.config)
    set_threads(args)
    drives = render_drives(
        args.data,
        range(args.drives),
        args.workers,
        progress=lambda seeds: tqdm(seeds, "drives"),
        profile=args.profile,
    )
    network = train_image_detector(
        config,
        drives,
        args.data / "features",
        args.out,
        args.start,
        lambda paths: tqdm(paths, "features"),
    )
    size = sum(p.numel() for p in network.parameters())
    print(f"{args.out}: image detector trained, {size / 1e6:.2f} million parameters")
    return 0
