"""Boxes in cameras' images by what they and the thermal camera that sees the same show, or either."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.configuration import UserError
from multimodal_perception.frame import SensorFrame
from multimodal_perception.geometry.image_boxes import non_maximum_suppression
from multimodal_perception.images.rgb_thermal_inputs import INPUTS, InputMaker, RgbxConfig
from multimodal_perception.perception import Boxes2D
from multimodal_perception.runtime.card import ModelCard, load_card
from multimodal_perception.runtime.engine import Engine, EngineError
from multimodal_perception.runtime.open_model import open_model
from multimodal_perception.runtime.settings import RuntimeConfig

OUTPUTS = ("scores", "boxes")
# Boxes that go into suppression, the best ones, and those that come out at most.
CANDIDATES, MOST = 400, 100


@dataclass(frozen=True)
class RgbirConfig:
    """Which images are looked at, and which boxes are told.

    model: name of a shipped model, or the path of a card. cameras: sensors to look at, each costs a
    run of the network; empty is the camera that shares most of its view with a thermal camera, else
    the first one. min_score: below it a box is not reported. overlap: of two boxes of one class above
    which the less sure one is dropped. ground_z: height of the ground in base_link, for bringing
    thermal images into a camera's view.
    """

    model: str = "image_detector"
    cameras: tuple[str, ...] = ()
    min_score: float = field(default=0.3, metadata={"min": 0.0, "max": 1.0})
    overlap: float = field(default=0.5, metadata={"min": 0.0, "max": 1.0})
    ground_z: float = field(default=0.0, metadata={"min": -10.0, "max": 10.0, "unit": "m"})


class RgbirDetector:
    """An ImageDetector. counts: images not used, and frames not looked at, by `sensor.reason`.

    A camera without its thermal image is looked at alone. A thermal camera whose camera is silent, or
    that has none, is looked at in its own view, under its own name.
    """

    def __init__(
        self,
        config: RgbirConfig | None = None,
        runtime: RuntimeConfig | None = None,
        engine: Engine | None = None,
        card: ModelCard | None = None,
    ) -> None:
        """engine: in the place of the card's own. Raises UserError for a card that does not fit."""
        self.config = config or RgbirConfig()
        card = load_card(self.config.model) if card is None else card
        if tuple(card.inputs) != INPUTS or tuple(card.outputs) != OUTPUTS or not card.classes:
            raise UserError(f"{card.source}: not a detector of visible and thermal images")
        self.engine = open_model(card, runtime) if engine is None else engine
        self.class_names = card.classes
        self.counts: Counter[str] = Counter()
        images = RgbxConfig(cameras=self.config.cameras, ground_z=self.config.ground_z)
        self._inputs = InputMaker(card, images, self.counts)

    def detect(self, frame: SensorFrame) -> Mapping[str, Boxes2D]:
        """Boxes by sensor, best score first; nothing for a frame without usable images."""
        found = {}
        for name in self._inputs.chosen(frame):
            boxes = self.detect_view(frame, name)
            if boxes is not None:
                found[name] = boxes
        return found

    def detect_view(self, frame: SensorFrame, name: str) -> Boxes2D | None:
        """Boxes in the view of a sensor whose intrinsics and place the frame has.

        Its own image may be missing, where a thermal camera sees the same. None where nothing of the
        view can be used.
        """
        arrays = self._inputs.make(frame, name)
        if arrays is None:
            return None
        try:
            out = self.engine.run(arrays)
        except EngineError:
            self.counts[f"{name}.engine"] += 1
            return None
        model = frame.intrinsics[name]
        boxes, scores, labels = self.decode(out["scores"][0], out["boxes"][0])
        boxes = boxes / np.float32(self._inputs.factor(model))
        boxes = np.clip(boxes, 0.0, np.array([model.width, model.height] * 2, np.float32))
        large = (boxes[:, 2:] - boxes[:, :2] >= 1.0).all(axis=1)
        readings = frame.readings
        stamp_ns = readings[name].stamp_ns if name in readings else frame.stamp_ns
        size = model.width, model.height
        return Boxes2D(
            name, stamp_ns, boxes[large], scores[large], labels[large], self.class_names, size
        )

    def decode(
        self, scores: NDArray[np.float32], boxes: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
        """Boxes (N, 4), scores (N,) and labels (N,) of cells' scores (A, classes) and boxes (A, 4)."""
        labels = scores.argmax(axis=1)
        best = scores[np.arange(len(scores)), labels]
        chosen = np.flatnonzero(best >= self.config.min_score)
        chosen = chosen[np.argsort(-best[chosen], kind="stable")][:CANDIDATES]
        # Far apart by class, so that a rider is not suppressed by the car behind.
        apart = (labels[chosen] * 1e5)[:, None]
        kept = non_maximum_suppression(
            boxes[chosen] + apart, best[chosen], self.config.overlap, MOST
        )
        chosen = chosen[kept]
        return boxes[chosen], best[chosen], labels[chosen].astype(np.int64)
