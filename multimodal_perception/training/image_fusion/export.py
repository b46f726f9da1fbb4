"""Writes a trained image-fusion network as a model folder: ONNX, safetensors and card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from multimodal_perception.networks.moe_fusion import FusedOnly, MoEFusion
from multimodal_perception.runtime.card import ModelCard, TensorSpec, Training
from multimodal_perception.runtime.onnx_export import write_model

ROWS, COLUMNS = 360, 640


def export_model(
    network: MoEFusion,
    out: Path,
    training: Training | None,
    rows: int = ROWS,
    columns: int = COLUMNS,
    notes: str = "",
    figures: Mapping[str, Any] | None = None,
) -> ModelCard:
    """Write out/model.onnx for one image size, out/model.safetensors and out/card.yaml. Returns the
    card.

    Raises UserError if the folder cannot be written.
    """
    image = TensorSpec((1, 1, rows, columns))
    card = ModelCard(
        name="image_fusion",
        architecture="moe_fusion",
        inputs={"visible": image, "thermal": image},
        outputs={"fused": image},
        licence="Apache-2.0",
        task="Fuses a visible and a thermal image of the same view into one grey image.",
        settings={"channels": network.channels},
        normalisation={
            "visible": "luma over 255",
            "thermal": "8 bits over 255; counts: percentiles 1 and 99 to 0 and 1",
        },
        training=training,
        figures={"parameters": sum(p.numel() for p in network.parameters()), **(figures or {})},
        notes=notes,
    )
    return write_model(out, FusedOnly(network.cpu().eval()), card)
