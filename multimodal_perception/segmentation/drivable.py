"""Drivable area and lanes of a camera, by an imported TwinLiteNet (`import twinlitenet`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.configuration import UserError
from multimodal_perception.frame import SensorFrame
from multimodal_perception.images.resize import fit_image, fit_scale
from multimodal_perception.perception import SegmentationMask
from multimodal_perception.runtime.card import load_card
from multimodal_perception.runtime.engine import EngineError
from multimodal_perception.runtime.open_model import open_engine
from multimodal_perception.runtime.settings import RuntimeConfig

CLASS_NAMES = ("other", "drivable", "lane")
# An image whose values span less than this, of 8 bits, shows nothing: a covered or blinded sensor.
LEAST_SPAN = 4


@dataclass(frozen=True)
class DrivableConfig:
    """Whose drivable area is found, and by what.

    model: path of an imported model's folder or card. cameras: sensors, each costs a run of the
    network; empty is the first one of a frame.
    """

    model: str = ""
    cameras: tuple[str, ...] = ()


class DrivableSegmenter:
    """A Segmenter. counts: images not segmented, by `sensor.reason`."""

    def __init__(self, config: DrivableConfig, runtime: RuntimeConfig | None = None) -> None:
        """Raises UserError for a card that is not TwinLiteNet's, or when no engine runs it."""
        if not config.model:
            raise UserError("pipeline.drivable.model: missing; see `import twinlitenet --help`")
        card = load_card(config.model)
        if card.architecture != "twinlitenet":
            raise UserError(
                f"{card.source}: architecture: {card.architecture!r} is not twinlitenet"
            )
        try:
            self._engine = open_engine(card, runtime)
        except EngineError as error:
            raise UserError(f"{card.source}: {error}") from error
        self.config = config
        self._size = (card.inputs["image"].shape[2], card.inputs["image"].shape[3])
        self.counts: Counter[str] = Counter()

    def segment(self, frame: SensorFrame) -> Mapping[str, SegmentationMask]:
        """A mask by camera, in its image's size; none for cameras that are silent or show nothing."""
        names = self.config.cameras or tuple(frame.cameras)[:1]
        masks = {}
        for name in names:
            image = frame.cameras.get(name)
            if image is None:
                continue
            labels = self._labels(name, image.rgb())
            if labels is not None:
                masks[name] = SegmentationMask(name, image.stamp_ns, labels, CLASS_NAMES)
        return masks

    def _labels(self, name: str, pixels: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
        if int(pixels.max()) - int(pixels.min()) < LEAST_SPAN:
            self.counts[f"{name}.blank"] += 1
            return None
        scaled = fit_image(pixels, self._size).astype(np.float32) / np.float32(255)
        image = np.ascontiguousarray(scaled.transpose(2, 0, 1)[None])
        try:
            out = self._engine.run({"image": image})
        except EngineError:
            self.counts[f"{name}.engine"] += 1
            return None
        drivable, lane = (out[k][0, 1] > out[k][0, 0] for k in ("drivable", "lane"))
        labels = np.where(lane, np.uint8(2), drivable.astype(np.uint8))
        height, width = pixels.shape[:2]
        scale = fit_scale(pixels.shape[:2], self._size)
        labels = labels[: round(height * scale), : round(width * scale)]
        return np.asarray(
            cv2.resize(labels, (width, height), interpolation=cv2.INTER_NEAREST), np.uint8
        )
