"""Export a network to a model folder with model.onnx, model.safetensors and card.yaml."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from multimodal_perception.configuration import UserError
from multimodal_perception.runtime.card import ModelCard, hash_file, write_card

OPSET = 18
# Constants up to this number of elements are folded at export.
FOLD_MAX_ELEMENTS = 1 << 16
# Allowed difference between ONNX Runtime and torch; absolute for values up to 1, else relative.
TOLERANCE = 1e-4


def write_model(folder: Path, network: nn.Module, card: ModelCard) -> ModelCard:
    """Write the model folder and return its card. The ONNX model has the card's static shapes.

    network: takes the card's inputs and returns its outputs, both in the card's order. Raises
    UserError if the folder cannot be written or the ONNX model's outputs differ from the network's.
    """
    from safetensors.torch import save_file

    try:
        folder.mkdir(parents=True, exist_ok=True)
        state = {k: v.detach().contiguous() for k, v in network.state_dict().items()}
        save_file(state, str(folder / "model.safetensors"))
        examples = random_inputs(card)
        export_onnx(network.eval(), examples, tuple(card.outputs), folder / "model.onnx")
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
    """Write a network as ONNX with the examples' shapes. The file is replaced atomically.

    examples: inputs by name, in the network's order. outputs: names of its outputs.
    """
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
    # Slices of weights become initializers, as engines and quantisation require.
    fold_constants(program.model, input_size_limit=FOLD_MAX_ELEMENTS)
    _remove_metadata(program.model)
    partial = path.with_suffix(".partial")
    program.save(str(partial), external_data=False)
    os.replace(partial, path)


def _remove_metadata(model: Any) -> None:
    """Remove the exporter's stack traces, which contain file paths of this machine."""
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    for node in model.graph:
        node.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()


def random_inputs(card: ModelCard) -> dict[str, torch.Tensor]:
    """Uniform noise in [0, 1] for each input of the card, the same at every call."""
    generator = torch.Generator().manual_seed(0)
    return {n: torch.rand(spec.shape, generator=generator) for n, spec in card.inputs.items()}


def _difference(network: nn.Module, card: ModelCard) -> float:
    """Largest difference between the outputs of ONNX Runtime and torch for noise, see TOLERANCE."""
    import onnxruntime

    example = random_inputs(card)
    session = onnxruntime.InferenceSession(
        card.read_file("onnx"), providers=["CPUExecutionProvider"]
    )
    actual = session.run(list(card.outputs), {name: x.numpy() for name, x in example.items()})
    with torch.no_grad():
        expected = network(*example.values())
    expected = expected if isinstance(expected, tuple) else (expected,)
    pairs = zip(expected, actual, strict=True)
    return max(
        float((np.abs(a.numpy() - np.asarray(b)) / np.maximum(np.abs(a.numpy()), 1.0)).max())
        for a, b in pairs
    )
