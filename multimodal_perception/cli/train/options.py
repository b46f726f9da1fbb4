"""Options that the training commands have in common."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from multimodal_perception.configuration import UserError

MAX_WORKERS = 64


def add_training_arguments(parser: argparse.ArgumentParser, recipe: str) -> None:
    """Add --config, --out, --start and --threads. recipe: name of the shipped recipe."""
    parser.add_argument(
        "--config",
        type=Path,
        help="YAML file with the settings of the training run, such as "
        f"config/training/{recipe}/stage.yaml; without it, and for missing keys, the default values "
        "are used",
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="output folder; an interrupted run in it is resumed"
    )
    parser.add_argument(
        "--start", type=Path, help="initial weights: a .safetensors file, a model or its name"
    )
    parser.add_argument("--threads", type=int, help="CPU threads of torch (default: all cores)")


def add_workers_argument(parser: argparse.ArgumentParser) -> None:
    """Add --workers, the number of processes that simulate."""
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="processes that simulate drives"
    )


def check_workers(args: argparse.Namespace) -> None:
    """Raise UserError for a number of processes that is not allowed."""
    if not 1 <= args.workers <= MAX_WORKERS:
        raise UserError(f"--workers: allowed: 1 to {MAX_WORKERS}; got {args.workers}")


def set_threads(args: argparse.Namespace) -> None:
    """Set the number of threads of torch. Raises UserError."""
    import torch

    if args.threads is None:
        return
    if args.threads < 1:
        raise UserError("--threads must be at least 1")
    torch.set_num_threads(args.threads)
