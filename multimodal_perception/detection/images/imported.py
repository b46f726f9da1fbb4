"""Detection of objects by a network that `import detector` imported."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.configuration import UserError, build
from multimodal_perception.detection.images.box_runs import Candidates, detect_boxes
from multimodal_perception.detection.images.config import ImageDetectorConfig
from multimodal_perception.detection.images.decoders import DecoderSettings, decode
from multimodal_perception.detection.images.riders import combine_riders
from multimodal_perception.detection.images.score_thresholds import ScoreThresholds
from multimodal_perception.frame import SensorFrame
from multimodal_perception.image_models.class_maps import BOX_CLASSES
from multimodal_perception.image_models.preprocessing import (
    image_size,
    place,
    prepare_image,
    read_preprocessing,
)
from multimodal_perception.images.network_runs import Outputs
from multimodal_perception.images.sensor_images import SensorImages
from multimodal_perception.images.turns import ImageTurns
from multimodal_perception.perception import Boxes2D, StageStatus
from multimodal_perception.rig import Rig
from multimodal_perception.runtime.card import ModelCard, load_card
from multimodal_perception.runtime.engine import Engine
from multimodal_perception.runtime.engine_status import engine_status
from multimodal_perception.runtime.open_model import open_model
from multimodal_perception.runtime.settings import RuntimeConfig
from multimodal_perception.sensor_use import SensorUse, of_views

ARCHITECTURE = "imported_detector"
PARAMETER = "pipeline.imported_detector.model"


class ImportedDetector:
    """An ImageDetector (see stages) for imported networks of visible images.

    All cameras are processed, and thermal cameras as grey images. counts: unusable and skipped images
    and failed runs, by `sensor.reason`. score_thresholds: of the card, for the classes of the package.
    """

    def __init__(
        self,
        config: ImageDetectorConfig,
        runtime: RuntimeConfig | None = None,
        engine: Engine | None = None,
        card: ModelCard | None = None,
    ) -> None:
        """engine: used instead of opening one for the card. Raises UserError for an unsuitable card."""
        if card is None:
            if not config.model:
                raise UserError(f"{PARAMETER}: missing; see `import detector --help`")
            card = load_card(config.model)
        self.config = config
        self._decoder = read_decoder(card)
        self._preprocessing = read_preprocessing(card)
        self._input = next(iter(card.inputs))
        self._spec = card.inputs[self._input]
        self._size = image_size(self._spec, self._preprocessing.layout)
        self.class_names, self._own_labels = read_class_map(card)
        self.score_thresholds = ScoreThresholds(card, self.class_names)
        self.engine: Engine = open_model(card, runtime) if engine is None else engine
        self.counts: Counter[str] = Counter()
        self._images = SensorImages(config.cameras, self.counts)
        self._turns = ImageTurns(config.max_images_per_frame, self.counts)

    @property
    def status(self) -> tuple[StageStatus, ...]:
        """State of the inference engine."""
        return (engine_status(self.engine),)

    def sensor_use(self, rig: Rig) -> SensorUse:
        """The cameras and thermal cameras whose images are processed."""
        return of_views(rig, self.config.cameras, self.config.max_images_per_frame)

    def detect(self, frame: SensorFrame) -> Mapping[str, Boxes2D]:
        """Boxes by sensor, highest score first; empty for a frame without usable images."""
        names = self._turns.select(self._images.names(frame))
        return detect_boxes(self, frame, names, self.config, self.counts)

    def build_inputs(self, frame: SensorFrame, name: str) -> dict[str, NDArray[Any]] | None:
        """See BoxNetwork."""
        pixels = self._images.rgb(frame, name)
        if pixels is None:
            return None
        return {self._input: prepare_image(pixels, self._spec, self._preprocessing)[0]}

    def decode_outputs(self, outputs: Outputs, frame: SensorFrame, name: str) -> Candidates:
        """See BoxNetwork. Classes of the network that are not used are left out."""
        thresholds = self.score_thresholds.at(self.config.min_score)
        lowest = self.score_thresholds.lowest(self.config.min_score)
        boxes, scores, labels = decode(outputs, self._decoder, self._size, lowest)
        # A number of a class that the network does not have is not used.
        known = np.where(labels < len(self._own_labels), labels, -1)
        package_labels = np.append(self._own_labels, -1)[known]
        used = np.flatnonzero((package_labels >= 0) & (scores >= thresholds[package_labels]))
        model = frame.intrinsics[name]
        placement = place(model.width, model.height, self._size, self._preprocessing)
        found = placement.boxes_in_image(boxes[used]), scores[used], package_labels[used]
        return combine_riders(*found, self.class_names)


def read_decoder(card: ModelCard) -> DecoderSettings:
    """The decoder settings of an imported detector's card. Raises UserError with the key."""
    if card.architecture != ARCHITECTURE:
        raise UserError(
            f"{PARAMETER}: {card.source}: architecture: allowed: {ARCHITECTURE}; got "
            f"{card.architecture!r}; see `import detector --help`"
        )
    values = card.settings.get("decoder", {})
    if not isinstance(values, Mapping):
        raise UserError(f"{card.source}: settings.decoder: expected a mapping")
    settings = build(DecoderSettings, values, f"{card.source}: settings", "decoder")
    unknown = [n for n in settings.outputs.values() if n not in card.outputs]
    if unknown:
        raise UserError(
            f"{card.source}: settings.decoder.outputs: {unknown[0]!r} is not an output; allowed: "
            f"{', '.join(card.outputs)}"
        )
    return settings


def read_class_map(card: ModelCard) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Names of the package classes, and their index for each class of the network; -1 if not used."""
    table = card.settings.get("class_map", {})
    if not isinstance(table, Mapping) or not table:
        raise UserError(f"{card.source}: settings.class_map: expected package class by class name")
    for name, package_class in table.items():
        if name not in card.classes or package_class not in BOX_CLASSES:
            raise UserError(
                f"{card.source}: settings.class_map.{name}: {package_class!r}; expected a class of the "
                f"network and one of {', '.join(BOX_CLASSES)}"
            )
    names = tuple(name for name in BOX_CLASSES if name in table.values())
    indices = [names.index(table[n]) if n in table else -1 for n in card.classes]
    return names, np.array(indices, np.int64)
