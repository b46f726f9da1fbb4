"""Export of a network as a model folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from multimodal_perception.runtime.card import ModelCard, TensorSpec, write_card
from multimodal_perception.runtime.onnx_export import export_onnx
from multimodal_perception.training.checkpoint import save_weights


def write_model(
    folder: Path,
    card: ModelCard,
    network: nn.Module,
    examples: Mapping[str, Tensor],
    outputs: tuple[str, ...],
) -> ModelCard:
    """Write model.onnx, model.safetensors and card.yaml of a network. examples: its inputs by name."""
    folder.mkdir(parents=True, exist_ok=True)
    with torch.inference_mode():
        results = network(*examples.values())
    results = (results,) if isinstance(results, Tensor) else results
    specs = {n: tensor_spec(t) for n, t in zip(outputs, results, strict=True)}
    export_onnx(network, examples, outputs, folder / "model.onnx")
    save_weights(network, folder / "model.safetensors")
    card = dataclasses.replace(card, outputs=specs)
    return write_card(folder, card, "model.onnx", "model.safetensors")


def tensor_spec(tensor: Tensor) -> TensorSpec:
    """Shape and dtype of a tensor."""
    return TensorSpec(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))  # type: ignore[arg-type]
