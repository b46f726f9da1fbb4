"""The mean of several trainings' weights."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("weights", type=Path, nargs="+", help="of one network, .safetensors")
    parser.add_argument("--out", type=Path, required=True, help=".safetensors")


def run(args: argparse.Namespace) -> int:
    from multimodal_perception.training.checkpoint import mean_of, write_weights

    write_weights(mean_of(args.weights), args.out)
    print(f"{args.out}: the mean of {len(args.weights)}")
    return 0
