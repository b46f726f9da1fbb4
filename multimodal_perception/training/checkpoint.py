"""Checkpoints and weights on disk: written atomically, read without unpickling objects."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load, load_file
from safetensors.torch import save as serialise
from torch import nn

from multimodal_perception.configuration import UserError
from multimodal_perception.files import atomic_write
from multimodal_perception.runtime.card import ModelCard, load_card


class Stateful(Protocol):
    """A network, an optimiser, a schedule: anything whose state can be saved and restored."""

    def state_dict(self) -> Any: ...

    def load_state_dict(self, state_dict: Any) -> Any: ...


def save(path: Path, parts: Mapping[str, Stateful]) -> None:
    """Write the states of all parts by name. The file is replaced atomically."""
    state = {name: part.state_dict() for name, part in parts.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with atomic_write(path) as file:
            torch.save(state, file)
    except RuntimeError as error:  # torch reports a full disk so
        raise UserError(
            f"{path}: cannot be written: {' '.join(str(error).split())[:200]}"
        ) from error


def resume(path: Path, parts: Mapping[str, Stateful], device: torch.device | str = "cpu") -> bool:
    """Load the states of all parts from a checkpoint. Returns False where there is no checkpoint.

    Raises UserError when the file is not a checkpoint of these parts.
    """
    if not path.exists():
        return False
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(state[name])
    except Exception as error:  # the type depends on what is damaged
        reason = str(error).strip().splitlines()[0][:120] if str(error) else type(error).__name__
        raise UserError(
            f"{path}: not a checkpoint of this training run ({reason}); remove it to start again"
        ) from error
    return True


def read_hours(folder: Path) -> float:
    """Hours that the training run in a folder took, with all resumed parts. Raises UserError."""
    path = folder / "checkpoint.pt"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return float(state["progress"]["seconds"]) / 3600
    except Exception as error:  # the type depends on what is damaged
        raise UserError(f"{path}: not a checkpoint of a training run: {error}") from error


def save_weights(network: nn.Module, path: Path) -> None:
    """Write the weights of a network as safetensors."""
    write_weights(network.state_dict(), path)


def write_weights(weights: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write tensors by name as safetensors; the file is replaced atomically. Raises UserError."""
    state = {name: tensor.detach().contiguous() for name, tensor in weights.items()}
    # safetensors.torch.save_file would make the file readable by its owner only.
    with atomic_write(path) as file:
        file.write(serialise(state))


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors by name of a safetensors file or a model (name, folder or card). Raises UserError."""
    is_model_name = len(path.parts) == 1 and not path.suffix and not path.exists()
    if path.suffix == ".yaml" or path.is_dir() or is_model_name:
        return read_model_weights(load_card(path))
    try:
        return load_file(str(path))
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: not a weights file: {error}") from error


def read_model_weights(card: ModelCard) -> dict[str, torch.Tensor]:
    """The tensors of a model by the module's parameter names. Raises UserError."""
    return card.to_module_names(load(card.read_file("weights")))


def load_weights(network: nn.Module, path: Path) -> None:
    """Load weights (a path that read_weights accepts) into a network; names and shapes must match
    exactly.

    Raises UserError.
    """
    weights = read_weights(path)
    try:
        network.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: not weights of {type(network).__name__}: {reason}") from error


def load_matching_weights(network: nn.Module, path: Path) -> None:
    """Load the weights (a path that read_weights accepts) that the network has under the same name.

    Tensors of other names or shapes are ignored, with one exception: a linear layer that has more inputs
    than the weights gets zeros for the additional inputs. Raises UserError where nothing matches.
    """
    own = network.state_dict()
    matching = {n: _pad_inputs(t, own[n]) for n, t in read_weights(path).items() if n in own}
    matching = {n: t for n, t in matching.items() if t.shape == own[n].shape}
    if not matching:
        raise UserError(f"{path}: no weights of {type(network).__name__}")
    network.load_state_dict(matching, strict=False)


def _pad_inputs(weights: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Weights (outputs, inputs) of a linear layer, padded with zero columns to the inputs of `like`."""
    if weights.ndim != 2 or like.ndim != 2 or len(weights) != len(like):
        return weights
    return F.pad(weights, (0, max(0, like.shape[1] - weights.shape[1])))


# Prefixes of the weights of the visible and the thermal image backbone.
STREAM_PREFIXES = ("streams.0.", "streams.1.")


def read_streams(model: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Weights (float32) of the visible and the thermal EfficientNet-Lite0 backbone of a model.

    model: name or card of a segmentation model or image detector. Raises UserError for a model that does
    not have both backbones.
    """
    card = load_card(model)
    streams: tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]] = {}, {}
    for name, tensor in read_model_weights(card).items():
        for prefix, stream in zip(STREAM_PREFIXES, streams, strict=True):
            if name.startswith(prefix):
                values = tensor.float() if tensor.is_floating_point() else tensor
                stream[name.removeprefix(prefix)] = values
    if not all(streams):
        raise UserError(f"{card.source}: does not contain two EfficientNet-Lite0 backbones")
    return streams


def load_stream(part: nn.Module, stream: Mapping[str, torch.Tensor], model: str) -> None:
    """Load the weights of a backbone from read_streams. Raises UserError."""
    own = part.state_dict()
    try:
        part.load_state_dict({name: stream[name] for name in own})
    except (KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{model}: not an EfficientNet-Lite0 backbone: {reason}") from error
