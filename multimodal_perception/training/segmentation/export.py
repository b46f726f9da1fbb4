"""A trained segmentation network as a model's folder: ONNX, safetensors and card."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from safetensors.torch import save_file
from torch import nn

from multimodal_perception.images.rgb_thermal_inputs import INPUTS
from multimodal_perception.networks.efficientnet_lite import PIXEL_MEAN, PIXEL_SCALE
from multimodal_perception.networks.rgb_thermal_segmentation import RgbxSegmentation
from multimodal_perception.runtime.card import ModelCard, TensorSpec, Training, write_card
from multimodal_perception.runtime.onnx_export import export_onnx
from multimodal_perception.segmentation.classes import SEGMENTATION_CLASSES
from multimodal_perception.training.segmentation.dataset import INPUT_WIDTH, THERMAL_QUARTILE
from multimodal_perception.training.segmentation.train import INPUT_ROWS

# Weights of at least so many elements are kept in half precision.
HALVED = 64


def export_model(
    network: RgbxSegmentation,
    out: Path,
    training: Training,
    other: str = "thermal",
    notes: str = "",
) -> ModelCard:
    """Write out/model.onnx, out/model.safetensors and out/card.yaml; returns the card.

    Weights are stored in half precision, the ONNX's after batch normalisation is folded in, and
    computed with in single.
    """
    network = network.eval().cpu()
    state = {n: halved(t) for n, t in network.state_dict().items()}
    network.load_state_dict(state)  # what is exported is what is stored
    save_file(state, str(out / "model.safetensors"))
    shapes: dict[str, tuple[int, ...]] = {
        n: (1, 3 if n == "visible" else 1, INPUT_ROWS, INPUT_WIDTH) for n in INPUTS
    }
    onnx_bytes = onnx_in_half(network, shapes, ("logits",))
    (out / "model.onnx").write_bytes(onnx_bytes)
    settings: dict[str, Any] = {"fusion": network.fusion, "classes": len(SEGMENTATION_CLASSES)}
    settings["other"] = other
    if other == "thermal":
        settings["thermal_quartile"] = THERMAL_QUARTILE
    logits = (1, len(SEGMENTATION_CLASSES), INPUT_ROWS // 2, INPUT_WIDTH // 2)
    card = ModelCard(
        name="segmentation",
        architecture="rgbx_segmentation",
        inputs={name: TensorSpec(shape) for name, shape in shapes.items()},
        outputs={"logits": TensorSpec(logits)},
        licence="Apache-2.0",
        settings=settings,
        classes=SEGMENTATION_CLASSES,
        normalisation={
            "visible": {"mean": PIXEL_MEAN, "std": PIXEL_SCALE, "order": "RGB"},
            "other": "thermal: percentiles 1 and 99 to 0 and 1, then a power that brings the upper "
            "quartile to settings.thermal_quartile; lidar: 2 m over the depth",
        },
        training=training,
        figures={"parameters": sum(p.numel() for p in network.parameters())},
        notes=notes,
    )
    return write_card(out, card, "model.onnx", "model.safetensors")


def with_figures(folder: Path, card: ModelCard, figures: dict[str, float]) -> ModelCard:
    """The card written again with measured figures put to those that it has."""
    return write_card(folder, dataclasses.replace(card, figures={**card.figures, **figures}))


def halved(tensor: torch.Tensor) -> torch.Tensor:
    """A weight as it is stored: large ones in half precision."""
    large = tensor.dtype == torch.float32 and tensor.dim() > 1 and tensor.numel() >= HALVED
    return (tensor.half() if large else tensor).contiguous()


def onnx_in_half(
    network: nn.Module, shapes: dict[str, tuple[int, ...]], outputs: tuple[str, ...]
) -> bytes:
    """The network as ONNX; large weights in half precision, each with a Cast to single behind it."""
    examples = {name: torch.ones(shape) for name, shape in shapes.items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(network, examples, outputs, path)
        model = onnx.load(str(path))
    casts = []
    for weight in model.graph.initializer:
        values = numpy_helper.to_array(weight)
        if values.dtype != np.float32 or values.ndim < 2 or values.size < HALVED:
            continue
        name = weight.name
        weight.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
        casts.append(
            onnx.helper.make_node("Cast", [f"{name}.half"], [name], to=onnx.TensorProto.FLOAT)
        )
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    # What the exporter remembers of shapes and source lines takes room and tells nobody anything.
    del model.graph.value_info[:]
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
