"""Converts published TwinLiteNet weights to a model folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from multimodal_perception.configuration import UserError

MAX_BYTES = 64 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=Path, help="published state dict (.pth)")
    parser.add_argument("--out", type=Path, required=True, help="model folder to write")


def run(args: argparse.Namespace) -> int:
    import pickle

    import torch

    from multimodal_perception.networks.twinlitenet import card, load_published
    from multimodal_perception.runtime.onnx_export import write_model

    path = args.checkpoint
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(
                f"{path}: larger than {MAX_BYTES >> 20} MiB, so it is not a TwinLiteNet checkpoint"
            )
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise UserError(
            f"{path}: not a checkpoint that contains only tensors ({type(error).__name__})"
        ) from error
    network = load_published(state, str(path))
    written = write_model(args.out, network, card())
    parameters = sum(p.numel() for p in network.parameters())
    print(f"{written.path}: {parameters} parameters, {len(state)} tensors converted")
    return 0
