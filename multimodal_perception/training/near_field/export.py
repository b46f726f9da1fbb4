"""A trained near field as a shipped model: ONNX, weights and card."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from multimodal_perception.near_field.network_inputs import (
    CELLS,
    PIXEL_MEAN,
    PIXEL_SCALE,
    RESOLUTION,
)
from multimodal_perception.networks.near_field import (
    CAMERAS,
    HEIGHTS,
    IMAGE,
    SOUND_CHANNELS,
    NearField,
)
from multimodal_perception.runtime.card import ModelCard, TensorSpec, Training
from multimodal_perception.runtime.onnx_export import write_model
from multimodal_perception.training.near_field.dataset import CLASSES

INPUTS = {
    "images": TensorSpec((1, CAMERAS, 3, *IMAGE)),
    "lookup": TensorSpec((1, CAMERAS, HEIGHTS, CELLS, CELLS, 2)),
    "sound": TensorSpec((1, SOUND_CHANNELS, CELLS, CELLS)),
    "sounding": TensorSpec((1,)),
}
OUTPUTS = {
    "evidence": TensorSpec((1, len(CLASSES), CELLS, CELLS)),
    "looked": TensorSpec((1, CELLS, CELLS)),
}


def export_near_field(
    network: NearField, folder: Path, training: Training, figures: dict[str, Any]
) -> ModelCard:
    """Write folder/{model.onnx, model.safetensors, card.yaml}. Raises UserError where it cannot."""
    half = CELLS * RESOLUTION / 2
    card = ModelCard(
        name="near_field",
        architecture="near_field",
        inputs=INPUTS,
        outputs=OUTPUTS,
        licence="Apache-2.0",
        settings=dataclasses.asdict(network.settings),
        classes=CLASSES,
        normalisation={"images": {"mean": PIXEL_MEAN, "std": PIXEL_SCALE}},
        range=(-half, -half, 0.0, half, half, 2.5),
        training=training,
        figures=figures,
        notes="Fisheyes and ultrasonics to evidence of classes within 7 m (after arXiv 2402.00637). The "
        "image features are EfficientNet-Lite0's of ImageNet, not trained on; the rest has seen "
        "simulated drives alone.",
    )
    return write_model(folder, network, card)
