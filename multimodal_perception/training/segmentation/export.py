"""Writes a trained segmentation network as a model folder: ONNX, safetensors and card."""

from __future__ import annotations

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
from multimodal_perception.networks.efficientnet_lite import PIXEL_MEAN, PIXEL_STD
from multimodal_perception.networks.rgb_thermal_segmentation import RgbThermalSegmentation
from multimodal_perception.runtime.card import ModelCard, TensorSpec, Training, write_card
from multimodal_perception.runtime.onnx_export import export_onnx
from multimodal_perception.segmentation.classes import SEGMENTATION_CLASSES
from multimodal_perception.training.segmentation.dataset import INPUT_WIDTH, THERMAL_QUARTILE
from multimodal_perception.training.segmentation.train import INPUT_ROWS

# Weight tensors with at least this number of elements are stored in half precision.
MIN_HALF_PRECISION_SIZE = 64


def export_model(
    network: RgbThermalSegmentation,
    out: Path,
    training: Training | None,
    second_input: str = "thermal",
    notes: str = "",
) -> ModelCard:
    """Write out/model.onnx, out/model.safetensors and out/card.yaml. Returns the card.

    Weights are stored in half precision and converted to single precision at load. In the ONNX file
    batch normalisation is folded into the convolutions before the conversion.
    """
    out.mkdir(parents=True, exist_ok=True)
    network = network.eval().cpu()
    state = {n: to_stored_precision(t) for n, t in network.state_dict().items()}
    network.load_state_dict(state)  # so that the ONNX file has the stored weights
    save_file(state, str(out / "model.safetensors"))
    shapes: dict[str, tuple[int, ...]] = {
        n: (1, 3 if n == "visible" else 1, INPUT_ROWS, INPUT_WIDTH) for n in INPUTS
    }
    onnx_bytes = export_half_precision(network, shapes, ("logits",))
    (out / "model.onnx").write_bytes(onnx_bytes)
    settings: dict[str, Any] = {"fusion": network.fusion, "classes": len(SEGMENTATION_CLASSES)}
    settings["second_input"] = second_input
    if second_input == "thermal":
        settings["thermal_quartile"] = THERMAL_QUARTILE
    logits = (1, len(SEGMENTATION_CLASSES), INPUT_ROWS // 2, INPUT_WIDTH // 2)
    card = ModelCard(
        name="segmentation",
        architecture="rgb_thermal_segmentation",
        inputs={name: TensorSpec(shape) for name, shape in shapes.items()},
        outputs={"logits": TensorSpec(logits)},
        licence="Apache-2.0",
        task="Predicts the class of every pixel from a visible image and a "
        + ("thermal image." if second_input == "thermal" else "LiDAR depth image."),
        settings=settings,
        classes=SEGMENTATION_CLASSES,
        normalisation={
            "visible": {"mean": PIXEL_MEAN, "std": PIXEL_STD, "order": "RGB"},
            "thermal": "thermal: percentiles 1 and 99 to 0 and 1, then a power that brings the upper "
            "quartile to settings.thermal_quartile; lidar: 2 m over the depth",
        },
        training=training,
        figures={"parameters": sum(p.numel() for p in network.parameters())},
        notes=notes,
    )
    return write_card(out, card, "model.onnx", "model.safetensors")


def to_stored_precision(tensor: torch.Tensor) -> torch.Tensor:
    """Large float32 tensors in half precision, others unchanged."""
    large = (
        tensor.dtype == torch.float32
        and tensor.dim() > 1
        and tensor.numel() >= MIN_HALF_PRECISION_SIZE
    )
    return (tensor.half() if large else tensor).contiguous()


def export_half_precision(
    network: nn.Module, shapes: dict[str, tuple[int, ...]], outputs: tuple[str, ...]
) -> bytes:
    """The network as serialized ONNX. Large weights are in half precision, followed by a Cast to
    single."""
    examples = {name: torch.ones(shape) for name, shape in shapes.items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(network, examples, outputs, path)
        model = onnx.load(str(path))
    casts = []
    for weight in model.graph.initializer:
        values = numpy_helper.to_array(weight)
        if values.dtype != np.float32 or values.ndim < 2 or values.size < MIN_HALF_PRECISION_SIZE:
            continue
        name = weight.name
        weight.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
        casts.append(
            onnx.helper.make_node("Cast", [f"{name}.half"], [name], to=onnx.TensorProto.FLOAT)
        )
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    # The exporter's notes on shapes and source lines are not needed and take space.
    del model.graph.value_info[:]
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
