"""Detection of objects in visible images, thermal images, or pairs of both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.configuration import UserError
from multimodal_perception.detection.images.box_runs import Candidates, detect_boxes
from multimodal_perception.detection.images.config import ImageDetectorConfig
from multimodal_perception.detection.images.score_thresholds import ScoreThresholds
from multimodal_perception.frame import SensorFrame
from multimodal_perception.images.network_runs import Outputs
from multimodal_perception.images.rgb_thermal_inputs import (
    INPUTS,
    RgbThermalInputBuilder,
    RgbThermalSegmenterConfig,
)
from multimodal_perception.images.turns import ImageTurns
from multimodal_perception.perception import Boxes2D, StageStatus
from multimodal_perception.rig import Rig
from multimodal_perception.runtime.card import ModelCard, load_card
from multimodal_perception.runtime.engine import Engine
from multimodal_perception.runtime.engine_status import engine_status
from multimodal_perception.runtime.open_model import open_model
from multimodal_perception.runtime.settings import RuntimeConfig
from multimodal_perception.runtime.temperatures import read_temperatures, scaled_scores
from multimodal_perception.sensor_use import SensorUse, of_views

OUTPUTS = ("scores", "boxes")


class RgbThermalDetector:
    """An ImageDetector (see stages) for pairs of visible and thermal images.

    All cameras are processed, each together with the thermal camera that covers most of its view, if
    there is one. Thermal cameras that no camera is processed with are processed in their own view,
    under their own name.

    counts: unusable images, images that were skipped because of max_images_per_frame, and failed runs,
    by `sensor.reason`. score_thresholds: of the card, for the reported scores. temperatures: of the
    card, with which the scores of the network become the reported ones; None for none.
    """

    def __init__(
        self,
        config: ImageDetectorConfig | None = None,
        runtime: RuntimeConfig | None = None,
        engine: Engine | None = None,
        card: ModelCard | None = None,
    ) -> None:
        """engine: used instead of opening one for the card. Raises UserError for an unsuitable card."""
        self.config = config or ImageDetectorConfig()
        card = load_card(self.config.model) if card is None else card
        check_card(card)
        self.engine: Engine = open_model(card, runtime) if engine is None else engine
        self.class_names = card.classes
        self.score_thresholds = ScoreThresholds(card, card.classes)
        self.temperatures = read_temperatures(card)
        self.counts: Counter[str] = Counter()
        images = RgbThermalSegmenterConfig(cameras=self.config.cameras)
        self._inputs = RgbThermalInputBuilder(card, images, self.counts)
        self._turns = ImageTurns(self.config.max_images_per_frame, self.counts)

    @property
    def status(self) -> tuple[StageStatus, ...]:
        """State of the inference engine."""
        return (engine_status(self.engine),)

    def sensor_use(self, rig: Rig) -> SensorUse:
        """The cameras and thermal cameras whose views are processed."""
        return of_views(rig, self.config.cameras, self.config.max_images_per_frame)

    def detect(self, frame: SensorFrame) -> Mapping[str, Boxes2D]:
        """Boxes by sensor, highest score first; empty for a frame without usable images."""
        names = self._turns.select(self._inputs.select_views(frame))
        return detect_boxes(self, frame, names, self.config, self.counts)

    def detect_view(self, frame: SensorFrame, name: str) -> Boxes2D | None:
        """Boxes in the view of a sensor whose intrinsics and extrinsics the frame contains.

        The sensor's own image may be missing if a thermal camera covers the view. None if no image of
        the view is usable.
        """
        return detect_boxes(self, frame, [name], self.config, self.counts).get(name)

    def build_inputs(self, frame: SensorFrame, name: str) -> dict[str, NDArray[np.float32]] | None:
        """See BoxNetwork."""
        return self._inputs.build(frame, name)

    def decode_outputs(self, outputs: Outputs, frame: SensorFrame, name: str) -> Candidates:
        """See BoxNetwork. outputs: scores (1, A, classes) and boxes (1, A, 4) of all A cells."""
        scores, boxes = outputs["scores"][0], outputs["boxes"][0]
        labels = scores.argmax(axis=1)
        best = scaled_scores(scores[np.arange(len(scores)), labels], labels, self.temperatures)
        thresholds = self.score_thresholds.at(self.config.min_score)
        chosen = np.flatnonzero(best >= thresholds[labels])
        scale = np.float32(self._inputs.scale(frame.intrinsics[name]))
        return boxes[chosen] / scale, best[chosen], labels[chosen].astype(np.int64)


def check_card(card: ModelCard) -> None:
    """Raise UserError if a card does not describe a detector for visible and thermal images."""
    if tuple(card.inputs) != INPUTS or tuple(card.outputs) != OUTPUTS:
        raise UserError(
            f"{card.source}: not a detector of visible and thermal images: inputs must be "
            f"{', '.join(INPUTS)}, outputs {', '.join(OUTPUTS)}"
        )
    second_input = card.settings.get("second_input", "thermal")
    if second_input != "thermal":
        raise UserError(
            f"{card.source}: settings.second_input: {second_input!r}; the image detector provides "
            "thermal images, so allowed: 'thermal'"
        )
    if len(card.inputs["visible"].shape) != 4:
        raise UserError(f"{card.source}: inputs.visible.shape: must be [batch, 3, height, width]")
    batch, _, height, width = card.inputs["visible"].shape
    for name, spec in card.inputs.items():
        shape = (batch, 3 if name == "visible" else 1, height, width)
        if spec.shape != shape:
            raise UserError(
                f"{card.source}: inputs.{name}.shape: {list(spec.shape)}; expected {list(shape)}"
            )
    cells = card.outputs["boxes"].shape[1:2]
    classes = len(card.classes)
    for name, expected in (("scores", (batch, *cells, classes)), ("boxes", (batch, *cells, 4))):
        if card.outputs[name].shape != expected or not classes:
            raise UserError(
                f"{card.source}: outputs.{name}.shape: {list(card.outputs[name].shape)}; expected "
                f"{list(expected)} for {classes} classes"
            )
