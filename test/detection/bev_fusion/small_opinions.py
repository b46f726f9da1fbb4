"""A small network of the sensors' opinions with random weights, exported to ONNX."""

from __future__ import annotations

from pathlib import Path

import torch

from multimodal_perception.detection.bev_fusion.model_cards import read_detector_cards
from multimodal_perception.detection.bev_fusion.opinion_features import OpinionNetworkConfig
from multimodal_perception.networks.sensor_opinions import SensorOpinions
from multimodal_perception.training.sensor_opinions.export import export_sensor_opinions


def write_opinions(detector: Path, out: Path, boxes: int = 6) -> Path:
    """Write the model folder of an untrained network for a detector; returns it."""
    cards = read_detector_cards(str(detector))
    torch.manual_seed(0)
    network = SensorOpinions(OpinionNetworkConfig(cards.network.channels, hidden=8))
    export_sensor_opinions(network, cards, out, 0.9, boxes=boxes)
    return out
