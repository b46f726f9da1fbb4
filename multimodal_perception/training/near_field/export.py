"""Writes a trained near-field network as a model folder: ONNX, weights and card."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from multimodal_perception.configuration import UserError
from multimodal_perception.near_field.network_inputs import (
    CELLS,
    PIXEL_MEAN,
    PIXEL_STD,
    RESOLUTION,
)
from multimodal_perception.networks.near_field import (
    CAMERAS,
    HEIGHTS,
    IMAGE,
    ULTRASONIC_CHANNELS,
    NearField,
    build_near_field,
)
from multimodal_perception.runtime.card import ModelCard, TensorSpec, Training
from multimodal_perception.runtime.onnx_export import write_model
from multimodal_perception.training.checkpoint import read_model_weights
from multimodal_perception.training.near_field.dataset import CLASSES

INPUTS = {
    "images": TensorSpec((1, CAMERAS, 3, *IMAGE)),
    "sample_uv": TensorSpec((1, CAMERAS, HEIGHTS, CELLS, CELLS, 2)),
    "ultrasonic_grid": TensorSpec((1, ULTRASONIC_CHANNELS, CELLS, CELLS)),
    "has_ultrasonic": TensorSpec((1,)),
}
OUTPUTS = {
    "evidence": TensorSpec((1, len(CLASSES), CELLS, CELLS)),
    "camera_count": TensorSpec((1, CELLS, CELLS)),
}


def export_near_field(
    network: NearField, folder: Path, training: Training | None, figures: dict[str, Any]
) -> ModelCard:
    """Write folder/{model.onnx, model.safetensors, card.yaml}. Returns the card. Raises UserError."""
    half = CELLS * RESOLUTION / 2
    card = ModelCard(
        name="near_field",
        architecture="near_field",
        inputs=INPUTS,
        outputs=OUTPUTS,
        licence="Apache-2.0",
        task="Estimates free space and obstacles within 7 m from fisheye cameras and ultrasonic "
        "sensors.",
        settings=dataclasses.asdict(network.settings),
        classes=CLASSES,
        normalisation={"images": {"mean": PIXEL_MEAN, "std": PIXEL_STD}},
        range=(-half, -half, 0.0, half, half, 2.5),
        training=training,
        figures=figures,
        notes="Evidence of six classes in a grid of 14.4 m x 14.4 m around the vehicle, from fisheye "
        "cameras and ultrasonic sensors (after arXiv 2402.00637). The image features are those of "
        "EfficientNet-Lite0 trained on ImageNet; the other layers were trained on simulated drives.",
    )
    return write_model(folder, network, card)


def load_near_field(card: ModelCard) -> NearField:
    """The torch network of a card, for evaluation. Raises UserError for the card of another network."""
    if card.architecture != "near_field":
        raise UserError(f"{card.source}: architecture {card.architecture} is not near_field")
    network = build_near_field(card.settings)
    try:
        network.load_state_dict(read_model_weights(card))
    except RuntimeError as error:
        raise UserError(f"{card.source}: weights do not fit the network: {error}") from error
    return network.eval()
