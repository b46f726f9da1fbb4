"""Training of the camera-and-thermal image detector on simulated drives."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from multimodal_perception.configuration import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of the drives; missing ones are rendered"
    )
    parser.add_argument("--drives", type=int, default=114, help="of 10 frames each")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="that render")
    parser.add_argument("--config", type=Path, help="YAML file of ImageDetectorTraining")
    parser.add_argument("--out", type=Path, required=True, help="folder; a run in it goes on")
    parser.add_argument("--start", type=Path, help="weights (.safetensors) to begin with")
    parser.add_argument("--threads", type=int, help="of each operation on the CPU")


def run(args: argparse.Namespace) -> int:
    import torch
    from tqdm import tqdm

    from multimodal_perception.configuration import load
    from multimodal_perception.training.image_detector.train import (
        ImageDetectorTraining,
        train_image_detector,
    )
    from multimodal_perception.training.segmentation.rendering import render_drives

    config = ImageDetectorTraining()
    if args.config is not None:
        config = load(ImageDetectorTraining, args.config)
    if args.threads is not None:
        if args.threads < 1:
            raise UserError("--threads must be at least 1")
        torch.set_num_threads(args.threads)
    drives = render_drives(
        args.data, args.drives, args.workers, progress=lambda x: tqdm(x, "drives")
    )
    network = train_image_detector(
        config,
        drives,
        args.data / "features",
        args.out,
        args.start,
        lambda x: tqdm(x, "features"),
    )
    size = sum(p.numel() for p in network.parameters())
    print(f"{args.out}: image detector trained, {size / 1e6:.2f} million parameters")
    return 0
