"""`train detector`: trains one stage of the fusion detector."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from multimodal_perception.cli.train.options import set_threads
from multimodal_perception.configuration import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of samples that `train samples` wrote"
    )
    parser.add_argument(
        "--config",
        type=Path,
        required=True,
        help="YAML file with the settings of one stage, such as "
        "config/training/detector/stage1_lidar.yaml",
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="output folder; an interrupted run in it is resumed"
    )
    parser.add_argument(
        "--start",
        type=Path,
        nargs="+",
        default=[],
        help="initial weights: .safetensors files, models or their names; later ones override earlier "
        "ones",
    )
    parser.add_argument(
        "--proposals",
        type=Path,
        help="stages refinement and large_vehicle_head: weights of the trained proposal network",
    )
    parser.add_argument("--threads", type=int, help="CPU threads of torch (default: all cores)")


def run(args: argparse.Namespace) -> int:
    from multimodal_perception.configuration import load
    from multimodal_perception.training.detector.stages import train_stage
    from multimodal_perception.training.detector.train import DetectorTraining

    config = load(DetectorTraining, args.config)
    if config.stage != "proposals" and args.proposals is None:
        raise UserError(f"the stage {config.stage} requires --proposals")
    if config.stage == "large_vehicle_head" and not args.start:
        raise UserError(
            "the stage large_vehicle_head requires --start: a trained refinement network"
        )
    set_threads(args)
    network = train_stage(config, args.data, args.out, args.start, args.proposals)
    if int(os.environ.get("RANK", "0")):  # under torchrun only the first rank prints
        return 0
    size = sum(p.numel() for p in network.parameters())
    print(f"{args.out}: {config.stage} trained, {size / 1e6:.2f} million parameters")
    return 0
