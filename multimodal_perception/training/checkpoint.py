"""Where a training stands, on disk: written whole or not at all, read without pickle."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load, load_file
from safetensors.torch import save as serialise
from torch import nn

from multimodal_perception.configuration import UserError
from multimodal_perception.runtime.card import ModelCard, load_card


class Stateful(Protocol):
    """A network, an optimiser, a schedule: what has a state that can be put back."""

    def state_dict(self) -> Any: ...

    def load_state_dict(self, state_dict: Any) -> Any: ...


def save(path: Path, parts: Mapping[str, Stateful], step: int) -> None:
    """Write the states of all parts, by name, and how many steps are done."""
    state = {name: part.state_dict() for name, part in parts.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save({**state, "step": step}, partial)
    os.replace(partial, path)


def resume(path: Path, parts: Mapping[str, Stateful], device: torch.device | str = "cpu") -> int:
    """Steps done by the training at `path`, the states of all parts put back; 0 where there is none.

    Raises UserError when the file is not such a checkpoint of these parts.
    """
    if not path.exists():
        return 0
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(state[name])
        return int(state["step"])
    except Exception as error:  # torch raises what the damage happens to trigger
        reason = str(error).strip().splitlines()[0][:120] if str(error) else type(error).__name__
        raise UserError(
            f"{path}: not a checkpoint of this training ({reason}); remove it to begin anew"
        ) from error


def save_weights(network: nn.Module, path: Path) -> None:
    """The network's weights as safetensors."""
    write_weights(network.state_dict(), path)


def write_weights(weights: Mapping[str, torch.Tensor], path: Path) -> None:
    """Tensors by name as safetensors. Raises UserError."""
    state = {name: tensor.detach().contiguous() for name, tensor in weights.items()}
    partial = path.with_suffix(".partial")
    try:
        # safetensors' own files are for their owner's eyes alone
        partial.write_bytes(serialise(state))
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error


def mean_of(paths: Sequence[Path]) -> dict[str, torch.Tensor]:
    """The mean of several files of weights, tensor by tensor (Wortsman et al. 2022).

    Whole numbers are the last file's, and so is what has another shape there or is in it alone: a head
    that was begun anew. Raises UserError for files that have nothing in common.
    """
    files = [read_weights(path) for path in paths]
    last = files[-1]
    mean = dict(last)
    common = 0
    for name, tensor in last.items():
        same = [f[name] for f in files if name in f and f[name].shape == tensor.shape]
        if tensor.is_floating_point() and len(same) == len(files):
            mean[name] = torch.stack([t.float() for t in same]).mean(0).to(tensor.dtype)
            common += 1
    if not common:
        raise UserError(f"{paths[-1]}: has no weights in common with the others")
    return mean


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors by name of a safetensors file or a model (name, folder or card). Raises UserError."""
    bare = len(path.parts) == 1 and not path.suffix and not path.exists()
    if path.suffix == ".yaml" or path.is_dir() or bare:
        return weights_of(load_card(path))
    try:
        return load_file(str(path))
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: not weights: {error}") from error


def weights_of(card: ModelCard) -> dict[str, torch.Tensor]:
    """The tensors of a model by name, a detector's with its image networks'. Raises UserError."""
    parts = {"": card}
    for kind, name in card.named("images").items():
        parts[f"{kind}_"] = card.beside(name)
    return {
        prefix + name: tensor
        for prefix, part in parts.items()
        for name, tensor in part.to_module_names(load(part.read_file("weights"))).items()
    }


def load_weights(network: nn.Module, path: Path) -> None:
    """Put weights (as read_weights takes them) in place, every key accounted for. Raises UserError."""
    weights = read_weights(path)
    try:
        network.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: not weights of {type(network).__name__}: {reason}") from error


def begin_from(network: nn.Module, path: Path) -> None:
    """Put what fits of weights (as read_weights takes them) in place; the rest stays as it is.

    A linear layer that takes more inputs now keeps its weights; the new ones are zero. Raises UserError
    where nothing fits.
    """
    own = network.state_dict()
    found = {n: _widened(t, own[n]) for n, t in read_weights(path).items() if n in own}
    found = {n: t for n, t in found.items() if t.shape == own[n].shape}
    if not found:
        raise UserError(f"{path}: no weights of {type(network).__name__}")
    network.load_state_dict(found, strict=False)


def _widened(weights: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Weights (O, I) with columns of zeros up to like's, where only those are lacking."""
    if weights.ndim != 2 or like.ndim != 2 or len(weights) != len(like):
        return weights
    return F.pad(weights, (0, max(0, like.shape[1] - weights.shape[1])))


# How a model's weights name its two image backbones: a segmentation network's, a fusion detector's.
STREAMS = (("streams.0.", "camera_trunk."), ("streams.1.", "thermal_trunk."))


def read_streams(model: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The visible and the other EfficientNet-Lite0, or what it has of them, of a segmentation model or a
    fusion detector (name or card), float32.

    Raises UserError for a model that has not both.
    """
    card = load_card(model)
    streams: tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]] = {}, {}
    for name, tensor in weights_of(card).items():
        for prefixes, stream in zip(STREAMS, streams, strict=True):
            for prefix in prefixes:
                if name.startswith(prefix):
                    values = tensor.float() if tensor.is_floating_point() else tensor
                    stream[name.removeprefix(prefix)] = values
    if not all(streams):
        raise UserError(f"{card.source}: no two EfficientNet-Lite0 streams")
    return streams


def load_stream(part: nn.Module, stream: Mapping[str, torch.Tensor], model: str) -> None:
    """Put what a backbone, or its first stages, takes of a stream in place. Raises UserError."""
    own = part.state_dict()
    try:
        part.load_state_dict({name: stream[name] for name in own})
    except (KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{model}: no EfficientNet-Lite0 stream: {reason}") from error
