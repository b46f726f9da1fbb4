"""A network with its weights to a model folder: model.onnx, model.safetensors and card.yaml."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn

from multimodal_perception.configuration import UserError
from multimodal_perception.runtime.card import ModelCard, hash_file, write_card

OPSET = 18
# Elements of a constant from which another one is made at export.
FOLDED = 1 << 16
# By how much ONNX Runtime may differ from torch on the same input, as a share of values beyond 1.
TOLERANCE = 1e-4


def write_model(folder: Path, network: nn.Module, card: ModelCard) -> ModelCard:
    """Write the folder and return its card. The ONNX is static, of the card's shapes.

    network: takes the card's inputs in their order, returns its outputs in theirs. Raises UserError
    where the folder cannot be written or the exported network says something else.
    """
    from safetensors.torch import save_file

    try:
        folder.mkdir(parents=True, exist_ok=True)
        state = {k: v.detach().contiguous() for k, v in network.state_dict().items()}
        save_file(state, str(folder / "model.safetensors"))
        export_onnx(network.eval(), _example(card), tuple(card.outputs), folder / "model.onnx")
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror or error}") from error
    onnx = hash_file(folder / "model.onnx")
    difference = _difference(
        network, dataclasses.replace(card, onnx=onnx, path=folder / "card.yaml")
    )
    if not difference <= TOLERANCE:
        raise UserError(f"{folder}/model.onnx: differs from torch by {difference:.2g}")
    return write_card(folder, card, "model.onnx", "model.safetensors")


def export_onnx(
    network: nn.Module, examples: Mapping[str, torch.Tensor], outputs: tuple[str, ...], path: Path
) -> None:
    """Write a network as ONNX of its examples' shapes, whole or not at all. examples: inputs by name."""
    from onnxscript.optimizer import fold_constants

    program = torch.onnx.export(
        network,
        tuple(examples.values()),
        dynamo=True,
        opset_version=OPSET,
        input_names=list(examples),
        output_names=list(outputs),
        verbose=False,
    )
    assert program is not None
    # Parts of weights become weights of their own: engines and quantisation look for such.
    fold_constants(program.model, input_size_limit=FOLDED)
    partial = path.with_suffix(".partial")
    program.save(str(partial), external_data=False)
    os.replace(partial, path)


def _example(card: ModelCard) -> dict[str, torch.Tensor]:
    """Noise in [0, 1] of the card's inputs."""
    noise = torch.Generator().manual_seed(0)
    return {name: torch.rand(spec.shape, generator=noise) for name, spec in card.inputs.items()}


def _difference(network: nn.Module, card: ModelCard) -> float:
    """Largest difference between what ONNX Runtime and torch make of noise."""
    import onnxruntime

    example = _example(card)
    session = onnxruntime.InferenceSession(
        card.read_file("onnx"), providers=["CPUExecutionProvider"]
    )
    theirs = session.run(list(card.outputs), {name: x.numpy() for name, x in example.items()})
    with torch.no_grad():
        ours = network(*example.values())
    ours = ours if isinstance(ours, tuple) else (ours,)
    pairs = zip(ours, theirs, strict=True)
    return max(
        float((np.abs(a.numpy() - np.asarray(b)) / np.maximum(np.abs(a.numpy()), 1.0)).max())
        for a, b in pairs
    )
