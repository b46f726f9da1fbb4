"""Writes the network of the sensors' opinions as a model folder: ONNX, weights and card."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from multimodal_perception.box_evidence import GROUPS, MODALITIES
from multimodal_perception.detection.bev_fusion.model_cards import DetectorCards
from multimodal_perception.detection.bev_fusion.opinion_features import SLOTS, opinion_inputs
from multimodal_perception.detection.bev_fusion.opinions import (
    ARCHITECTURE,
    image_network_hashes,
)
from multimodal_perception.networks.sensor_opinions import SensorOpinions
from multimodal_perception.runtime.card import ModelCard, TensorSpec, Training
from multimodal_perception.training.model_export import write_model

# Boxes of one run of the network.
BOXES = 64


def export_sensor_opinions(
    network: SensorOpinions,
    cards: DetectorCards,
    out: Path,
    reliability: float,
    figures: Mapping[str, Any] | None = None,
    training: Training | None = None,
    boxes: int = BOXES,
) -> ModelCard:
    """Write model.onnx, model.safetensors and card.yaml in the folder `out`. Returns the card.

    cards: of the detector that the network was trained for. reliability: weight of the opinions of each
    modality. Raises UserError if the folder cannot be written.
    """
    shapes = opinion_inputs(network.config, boxes)
    card = ModelCard(
        out.name,
        ARCHITECTURE,
        {name: TensorSpec(shape) for name, shape in shapes.items()},
        {"evidence": TensorSpec((1, boxes, len(SLOTS), len(GROUPS)))},
        "Apache-2.0",
        "Gives each sensor's opinion about the boxes of the BEV fusion detector.",
        {
            "network": dataclasses.asdict(network.config),
            "detector": cards.stage1.name,
            "image_networks": image_network_hashes(cards),
            "reliability": dict.fromkeys(MODALITIES, reliability),
        },
        classes=GROUPS,
        training=training,
        figures=dict(figures or {}),
    )
    examples = {name: torch.zeros(shape) for name, shape in shapes.items()}
    return write_model(out, card, network.cpu().eval(), examples, ("evidence",))
