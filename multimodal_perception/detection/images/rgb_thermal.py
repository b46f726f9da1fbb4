"""Detection of objects in visible images, thermal images, or pairs of both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.configuration import UserError
from multimodal_perception.frame import SensorFrame
from multimodal_perception.geometry.image_boxes import non_maximum_suppression
from multimodal_perception.images.rgb_thermal_inputs import (
    INPUTS,
    RgbThermalInputBuilder,
    RgbThermalSegmenterConfig,
)
from multimodal_perception.perception import Boxes2D, StageStatus
from multimodal_perception.rig import Rig
from multimodal_perception.runtime.card import ModelCard, load_card
from multimodal_perception.runtime.engine import Engine, EngineError
from multimodal_perception.runtime.engine_status import engine_status
from multimodal_perception.runtime.open_model import open_model
from multimodal_perception.runtime.settings import RuntimeConfig
from multimodal_perception.sensor_use import SensorUse, of_view

OUTPUTS = ("scores", "boxes")
# Non-maximum suppression gets the MAX_CANDIDATES boxes with the highest scores and keeps at most
# MAX_DETECTIONS.
MAX_CANDIDATES, MAX_DETECTIONS = 400, 100


@dataclass(frozen=True)
class RgbThermalDetectorConfig:
    """Object detection in visible and thermal images.

    Attributes:
        model: Name of a shipped model, or path of a model card. Set it to use your own network.
        cameras: Names of the sensors whose images are processed; empty selects the camera whose view
            overlaps most with a thermal camera, else the first one. Set it to process several cameras;
            each one costs a run of the network.
        min_score: Boxes with a lower score are not reported. Increase it to get fewer false detections,
            decrease it to miss fewer objects.
        nms_iou: Two boxes of one class whose IoU is larger are considered the same object, and the one
            with the lower score is dropped. Increase it for crowds, where objects overlap in the image.
    """

    model: str = "image_detector"
    cameras: tuple[str, ...] = ()
    min_score: float = field(default=0.3, metadata={"min": 0.0, "max": 1.0})
    nms_iou: float = field(default=0.5, metadata={"min": 0.0, "max": 1.0})


class RgbThermalDetector:
    """An ImageDetector (see stages) for pairs of visible and thermal images.

    A camera without a thermal image that covers its view is processed on its own. A thermal camera is
    processed in its own view, under its own name, if there is no image of a camera.

    counts: unusable images and frames that were not processed, by `sensor.reason`.
    """

    def __init__(
        self,
        config: RgbThermalDetectorConfig | None = None,
        runtime: RuntimeConfig | None = None,
        engine: Engine | None = None,
        card: ModelCard | None = None,
    ) -> None:
        """engine: used instead of opening one for the card. Raises UserError for an unsuitable card."""
        self.config = config or RgbThermalDetectorConfig()
        card = load_card(self.config.model) if card is None else card
        check_card(card)
        self.engine = open_model(card, runtime) if engine is None else engine
        self.class_names = card.classes
        self.counts: Counter[str] = Counter()
        images = RgbThermalSegmenterConfig(cameras=self.config.cameras)
        self._inputs = RgbThermalInputBuilder(card, images, self.counts)

    @property
    def status(self) -> tuple[StageStatus, ...]:
        """State of the inference engine."""
        return (engine_status(self.engine),)

    def sensor_use(self, rig: Rig) -> SensorUse:
        """The cameras whose views are processed, and the thermal cameras."""
        return of_view(rig, self.config.cameras)

    def detect(self, frame: SensorFrame) -> Mapping[str, Boxes2D]:
        """Boxes by sensor, highest score first; empty for a frame without usable images."""
        detections = {}
        for name in self._inputs.select_views(frame):
            boxes = self.detect_view(frame, name)
            if boxes is not None:
                detections[name] = boxes
        return detections

    def detect_view(self, frame: SensorFrame, name: str) -> Boxes2D | None:
        """Boxes in the view of a sensor whose intrinsics and extrinsics the frame contains.

        The sensor's own image may be missing if a thermal camera covers the view. None if no image of
        the view is usable.
        """
        arrays = self._inputs.build(frame, name)
        if arrays is None:
            return None
        try:
            outputs = self.engine.run(arrays)
        except EngineError:
            self.counts[f"{name}.engine"] += 1
            return None
        model = frame.intrinsics[name]
        boxes, scores, labels = self.decode(outputs["scores"][0], outputs["boxes"][0])
        boxes = boxes / np.float32(self._inputs.scale(model))
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
        """Boxes (N, 4), scores (N,) and labels (N,) after non-maximum suppression.

        scores: (A, classes) and boxes: (A, 4) of all A cells of the network's output.
        """
        labels = scores.argmax(axis=1)
        best = scores[np.arange(len(scores)), labels]
        chosen = np.flatnonzero(best >= self.config.min_score)
        chosen = chosen[np.argsort(-best[chosen], kind="stable")][:MAX_CANDIDATES]
        # Boxes of different classes are shifted to where they do not overlap, so that suppression works
        # within each class and a cyclist is not suppressed by a car.
        offset = (labels[chosen] * 1e5)[:, None]
        kept = non_maximum_suppression(
            boxes[chosen] + offset, best[chosen], self.config.nms_iou, MAX_DETECTIONS
        )
        chosen = chosen[kept]
        return boxes[chosen], best[chosen], labels[chosen].astype(np.int64)


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
    height, width = card.inputs["visible"].shape[-2:]
    for name, spec in card.inputs.items():
        shape = (1, 3 if name == "visible" else 1, height, width)
        if spec.shape != shape:
            raise UserError(
                f"{card.source}: inputs.{name}.shape: {list(spec.shape)}; expected {list(shape)}"
            )
    cells = card.outputs["boxes"].shape[1:2]
    classes = len(card.classes)
    for name, expected in (("scores", (1, *cells, classes)), ("boxes", (1, *cells, 4))):
        if card.outputs[name].shape != expected or not classes:
            raise UserError(
                f"{card.source}: outputs.{name}.shape: {list(card.outputs[name].shape)}; expected "
                f"{list(expected)} for {classes} classes"
            )
