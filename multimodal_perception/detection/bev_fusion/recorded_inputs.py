"""Inputs of the first stage and of the refinement network from recorded frames.

They depend on other networks of the detector, and are recorded while the whole detector runs on a
frame, with ONNX Runtime or torch in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from multimodal_perception.configuration import UserError
from multimodal_perception.detection.bev_fusion.detector import BevFusionDetector, Network
from multimodal_perception.detection.bev_fusion.fusion_config import FusionConfig
from multimodal_perception.detection.bev_fusion.model_cards import STAGE1
from multimodal_perception.frame import SensorFrame
from multimodal_perception.pointcloud.ground_segmentation import segment_ground
from multimodal_perception.runtime.card import CARD, ModelCard, TensorSpec, load_card
from multimodal_perception.runtime.engine import Arrays
from multimodal_perception.runtime.settings import RuntimeConfig

REFERENCE = RuntimeConfig(order=("onnxruntime", "torch"), device="cpu", precision="fp32")


class RecordingNetwork:
    """A network that keeps the inputs of its last run in `recorded`."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self.recorded: dict[str, NDArray[Any]] | None = None

    @property
    def inputs(self) -> Mapping[str, TensorSpec]:
        return self._network.inputs

    @property
    def device(self) -> str:
        return self._network.device

    def run(self, arrays: Arrays) -> dict[str, NDArray[Any]]:
        """See Network."""
        self.recorded = {name: array.copy() for name, array in arrays.items()}
        return self._network.run(arrays)


def frame_inputs(card: ModelCard) -> Callable[[SensorFrame], dict[str, NDArray[Any]]]:
    """A function from recorded frames to the inputs of a first stage or a refinement network.

    The function raises UserError for a frame in which the network does not run. Raises UserError if no
    detector in the folder of models uses the refinement network.
    """
    first = card.architecture == STAGE1
    parent = card if first else _detector_of(card)
    config = FusionConfig(
        str(parent.path), refinement="none" if first else "card", geometric_check=False
    )
    detector = BevFusionDetector(config, REFERENCE)
    chosen = detector.proposal_network if first else detector.refinement_network
    assert chosen is not None
    recorder = RecordingNetwork(chosen)
    if first:
        detector.proposal_network = recorder
    else:
        detector.refinement_network = recorder

    def record(frame: SensorFrame) -> dict[str, NDArray[Any]]:
        recorder.recorded = None
        detector.detect(frame, segment_ground(frame))
        if recorder.recorded is None:
            raise UserError(f"the network {card.name} does not run in this frame")
        return recorder.recorded

    return record


def _detector_of(card: ModelCard) -> ModelCard:
    """The card, in a folder beside the given card's, that names it as its refinement."""
    folder = Path() if card.path is None else card.path.parent
    for path in sorted(folder.parent.glob(f"*/{CARD}")):
        try:
            other = load_card(path)
        except UserError:
            continue
        if other.architecture == STAGE1 and other.settings.get("refinement") == folder.name:
            return other
    raise UserError(f"{card.source}: no detector card beside it names it as its refinement")
