"""Where a training stands, on disk: written whole or not at all, read without pickle."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from multimodal_perception.configuration import UserError


def save(path: Path, network: nn.Module, optimiser: torch.optim.Optimizer, steps_done: int) -> None:
    """Write network, optimiser and how many steps are done."""
    state = {
        "network": network.state_dict(),
        "optimiser": optimiser.state_dict(),
        "steps": steps_done,
    }
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def resume(path: Path, network: nn.Module, optimiser: torch.optim.Optimizer) -> int:
    """Steps done by the training at `path`, its state put in place; 0 where there is none.

    Raises UserError when the file is not such a checkpoint of this network.
    """
    if not path.exists():
        return 0
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        return int(state["steps"])
    except Exception as error:  # torch raises what the damage happens to trigger
        reason = str(error).strip().splitlines()[0][:120] if str(error) else type(error).__name__
        raise UserError(
            f"{path}: not a checkpoint of this training ({reason}); remove it to begin anew"
        ) from error


def save_weights(network: nn.Module, path: Path) -> None:
    """The network's weights as safetensors."""
    state = {name: tensor.detach().contiguous() for name, tensor in network.state_dict().items()}
    partial = path.with_suffix(".partial")
    save_file(state, str(partial))
    os.replace(partial, path)


def load_weights(network: nn.Module, path: Path) -> None:
    """Put weights of a safetensors file in place, every key accounted for. Raises UserError."""
    try:
        network.load_state_dict(load_file(str(path)), strict=True)
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: not weights of {type(network).__name__}: {reason}") from error
