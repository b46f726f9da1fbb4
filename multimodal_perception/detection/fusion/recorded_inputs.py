"""Inputs of the fusion detector's second-level networks from recorded frames.

The inputs of the proposal and the refinement network depend on other networks of the detector. They are
recorded while the whole detector runs on a frame, with ONNX Runtime or torch in float32.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from multimodal_perception.configuration import UserError
from multimodal_perception.detection.bev_fusion.fusion_config import FusionConfig
from multimodal_perception.detection.bev_fusion.recorded_inputs import (
    REFERENCE,
    RecordingNetwork,
)
from multimodal_perception.detection.fusion.detector import FusionDetector
from multimodal_perception.detection.fusion.model_cards import PROPOSALS
from multimodal_perception.frame import SensorFrame
from multimodal_perception.pointcloud.ground_segmentation import segment_ground
from multimodal_perception.runtime.card import CARD, ModelCard, load_card


def frame_inputs(card: ModelCard) -> Callable[[SensorFrame], dict[str, NDArray[Any]]]:
    """A function from recorded frames to the inputs of a proposal or refinement network.

    The function raises UserError for a frame in which the network does not run, for example without
    LiDAR. Raises UserError if no detector in the folder of models uses the refinement network.
    """
    without_lidar = _parent_card(card, "without_lidar")
    if card.architecture == PROPOSALS:
        model, refinement = without_lidar or card, "none"
    else:
        parent = _parent_card(card, "refinement")
        if parent is None:
            raise UserError(f"{card.source}: no detector card beside it names it as its refinement")
        model, refinement = parent, "card"
    config = FusionConfig(str(model.path), refinement=refinement, geometric_check=False)
    detector = FusionDetector(config, REFERENCE)
    role = "refinement_network" if refinement == "card" else "proposal_network"
    if without_lidar is not None:
        role = "proposal_network_without_lidar"
    recorder = RecordingNetwork(getattr(detector, role))
    setattr(detector, role, recorder)

    def record(frame: SensorFrame) -> dict[str, NDArray[Any]]:
        if without_lidar is not None:
            frame = dataclasses.replace(frame, lidars={})
        recorder.recorded = None
        detector.detect(frame, segment_ground(frame))
        if recorder.recorded is None:
            raise UserError(f"the network {card.name} does not run in this frame")
        return recorder.recorded

    return record


def _parent_card(card: ModelCard, role: str) -> ModelCard | None:
    """The card, in a folder beside the given card's, that names it as its `refinement`, ..."""
    folder = Path() if card.path is None else card.path.parent
    for path in sorted(folder.parent.glob(f"*/{CARD}")):
        try:
            other = load_card(path)
        except UserError:
            continue
        if other.architecture == PROPOSALS and other.settings.get(role) == folder.name:
            return other
    return None
