"""Segmentation of drivable area and lanes by TwinLiteNet, imported with `import twinlitenet`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.configuration import UserError
from multimodal_perception.frame import SensorFrame
from multimodal_perception.images.resize import fit_image, fit_scale
from multimodal_perception.images.turns import ImageTurns
from multimodal_perception.perception import SegmentationMask, StageStatus
from multimodal_perception.rig import Rig
from multimodal_perception.runtime.card import load_card
from multimodal_perception.runtime.engine import EngineError
from multimodal_perception.runtime.engine_status import engine_status
from multimodal_perception.runtime.open_model import open_engine
from multimodal_perception.runtime.settings import RuntimeConfig
from multimodal_perception.sensor_use import SensorUse, of_views

CLASS_NAMES = ("other", "drivable", "lane")
# Minimum range of the 8-bit values of an image. Below it the image is blank (a covered sensor).
MIN_VALUE_RANGE = 4


@dataclass(frozen=True)
class DrivableConfig:
    """Parameters of the segmentation of drivable area and lanes.

    Attributes:
        model: Folder or card.yaml of a TwinLiteNet model, imported with `import twinlitenet`. Set it
            whenever the segmenter is `drivable`; there is no shipped model.
        cameras: Names of the cameras to segment; empty segments all of them. Set it to leave out cameras
            that show nothing of interest; each image costs a run of the network.
        max_images_per_frame: Maximum number of images that are segmented in one frame; 0 segments all.
            Set it on slow computers: the images are then segmented in turns, those that have waited
            longest first.
    """

    model: str = ""
    cameras: tuple[str, ...] = ()
    max_images_per_frame: int = field(default=0, metadata={"min": 0, "max": 64})


class DrivableSegmenter:
    """Segmenter for drivable area and lanes. counts: images not segmented, by `sensor.reason`."""

    def __init__(self, config: DrivableConfig, runtime: RuntimeConfig | None = None) -> None:
        """Raises UserError for a card of another network, or if no inference engine runs it."""
        if not config.model:
            raise UserError("pipeline.drivable.model: missing; see `import twinlitenet --help`")
        card = load_card(config.model)
        if card.architecture != "twinlitenet":
            raise UserError(
                f"pipeline.drivable.model: {card.source}: architecture: allowed: twinlitenet; "
                f"got {card.architecture!r}"
            )
        spec = card.inputs.get("image")
        if spec is None or len(spec.shape) != 4 or spec.shape[:2] != (1, 3):
            raise UserError(
                f"pipeline.drivable.model: {card.source}: inputs.image.shape: must be [1, 3, H, W]"
            )
        if not {"drivable", "lane"} <= card.outputs.keys():
            raise UserError(
                f"pipeline.drivable.model: {card.source}: outputs: drivable and lane are required"
            )
        try:
            self._engine = open_engine(card, runtime)
        except EngineError as error:
            raise UserError(f"{card.source}: {error}") from error
        self.config = config
        self._size = (spec.shape[2], spec.shape[3])
        self.counts: Counter[str] = Counter()
        self._turns = ImageTurns(config.max_images_per_frame, self.counts)

    @property
    def status(self) -> tuple[StageStatus, ...]:
        """Status of the inference engine, for diagnostics."""
        return (engine_status(self._engine),)

    def sensor_use(self, rig: Rig) -> SensorUse:
        """The cameras whose images are segmented."""
        limit = self.config.max_images_per_frame
        return of_views(rig, self.config.cameras, limit, uses_thermal=False)

    def segment(self, frame: SensorFrame) -> Mapping[str, SegmentationMask]:
        """Masks by camera, each in the size of its image; none for missing or blank images."""
        names = [n for n in self.config.cameras or frame.cameras if n in frame.cameras]
        masks = {}
        for name in self._turns.select(names):
            image = frame.cameras[name]
            labels = self._labels(name, image.rgb())
            if labels is not None:
                masks[name] = SegmentationMask(name, image.stamp_ns, labels, CLASS_NAMES)
        return masks

    def _labels(self, name: str, pixels: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
        if int(pixels.max()) - int(pixels.min()) < MIN_VALUE_RANGE:
            self.counts[f"{name}.blank"] += 1
            return None
        scaled = fit_image(pixels, self._size).astype(np.float32) / np.float32(255)
        image = np.ascontiguousarray(scaled.transpose(2, 0, 1)[None])
        try:
            outputs = self._engine.run({"image": image})
        except EngineError:
            self.counts[f"{name}.engine"] += 1
            return None
        drivable, lane = (outputs[k][0, 1] > outputs[k][0, 0] for k in ("drivable", "lane"))
        labels = np.where(lane, np.uint8(2), drivable.astype(np.uint8))
        height, width = pixels.shape[:2]
        scale = fit_scale(pixels.shape[:2], self._size)
        labels = labels[: round(height * scale), : round(width * scale)]
        return np.asarray(
            cv2.resize(labels, (width, height), interpolation=cv2.INTER_NEAREST), np.uint8
        )
