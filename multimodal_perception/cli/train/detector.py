"""Training of the fusion detector."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from multimodal_perception.configuration import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, help="folder of samples")
    parser.add_argument("--config", type=Path, required=True, help="config/training/*.yaml")
    parser.add_argument("--out", type=Path, required=True, help="folder; a run in it goes on")
    parser.add_argument(
        "--start",
        type=Path,
        nargs="+",
        default=[],
        help="weights to begin from, or a model's name; the last one's win",
    )
    parser.add_argument(
        "--proposals",
        type=Path,
        help="refinement, measures: the trained proposal network, or a model's name",
    )
    parser.add_argument("--threads", type=int, help="of each operation on the CPU")


def run(args: argparse.Namespace) -> int:
    import torch

    from multimodal_perception.configuration import load
    from multimodal_perception.training.detector.large_vehicle_head import train_measures
    from multimodal_perception.training.detector.train import (
        DetectorTraining,
        train_proposals,
        train_refinement,
    )

    config = load(DetectorTraining, args.config)
    if args.threads is not None:
        if args.threads < 1:
            raise UserError("--threads must be at least 1")
        torch.set_num_threads(args.threads)
    network: torch.nn.Module
    if config.stage == "proposals":
        network = train_proposals(config, args.data, args.out, args.start)
    else:
        if args.proposals is None:
            raise UserError(f"the stage {config.stage} needs --proposals")
        if config.stage == "measures" and not args.start:
            raise UserError(
                "the stage measures needs --start: the refinement that is trained so far"
            )
        train = train_refinement if config.stage == "refinement" else train_measures
        network = train(config, args.data, args.out, args.proposals, args.start)
    if int(os.environ.get("RANK", "0")):  # under torchrun the first one tells
        return 0
    size = sum(p.numel() for p in network.parameters())
    print(f"{args.out}: {config.stage} trained, {size / 1e6:.2f} million parameters")
    return 0
