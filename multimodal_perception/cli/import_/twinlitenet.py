"""TwinLiteNet's published weights as a model folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from multimodal_perception.configuration import UserError

MOST_BYTES = 64 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=Path, help="state dict as published (.pth)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the model")


def run(args: argparse.Namespace) -> int:
    import pickle

    import torch

    from multimodal_perception.networks.twinlitenet import card, from_public
    from multimodal_perception.runtime.onnx_export import write_model

    path = args.checkpoint
    try:
        if path.stat().st_size > MOST_BYTES:
            raise UserError(f"{path}: larger than {MOST_BYTES >> 20} MiB, so not TwinLiteNet's")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise UserError(
            f"{path}: not a checkpoint of tensors alone ({type(error).__name__})"
        ) from error
    network = from_public(state, str(path))
    written = write_model(args.out, network, card())
    parameters = sum(p.numel() for p in network.parameters())
    print(f"{written.path}: {parameters} parameters, {len(state)} tensors, each placed")
    return 0
