"""Visible and thermal images of a vehicle fused in the camera's view: a stage of the pipeline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.configuration import UserError
from multimodal_perception.frame import CameraImage, SensorFrame
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.image_fusion.colour import with_luma
from multimodal_perception.images.thermal_to_camera import ThermalViews, placed
from multimodal_perception.runtime.card import ModelCard, load_card
from multimodal_perception.runtime.engine import Engine, EngineError
from multimodal_perception.runtime.open_model import open_model
from multimodal_perception.runtime.settings import RuntimeConfig

# Width, pixels of the network, over which fused and visible pass into each other where the thermal
# camera's view ends.
SEAM = 16


@dataclass(frozen=True)
class ImageFusionConfig:
    """Which cameras' images are fused with a thermal camera's, and by what.

    model: name of a shipped model, or the path of a card; empty fuses nothing. cameras: sensors to
    fuse, each costs a run of the network; empty is the camera that shares most of its view with a
    thermal camera. ground_z: height of the ground in base_link, for bringing thermal images into a
    camera's view.
    """

    model: str = ""
    cameras: tuple[str, ...] = ()
    ground_z: float = field(default=0.0, metadata={"min": -10.0, "max": 10.0, "unit": "m"})


class ImageFuser:
    """Fused images by camera. counts: images not used, and frames not fused, by `sensor.reason`.

    Where one of both images is missing or shows nothing, the other is passed on: the visible image
    as it is, the thermal one in the camera's view. Where the thermal camera does not see, the visible
    image stays.
    """

    def __init__(
        self,
        config: ImageFusionConfig,
        runtime: RuntimeConfig | None = None,
        engine: Engine | None = None,
        card: ModelCard | None = None,
    ) -> None:
        """engine: in the place of the card's own. Raises UserError for a card that does not fit."""
        self.config = config
        card = load_card(config.model) if card is None else card
        self._rows, self._columns = checked_size(card)
        self.engine = open_model(card, runtime) if engine is None else engine
        self.counts: Counter[str] = Counter()
        self._thermals = ThermalViews(config.ground_z, self.counts)
        self._paired = ""  # the camera that was last seen with a thermal camera
        self._places: dict[str, tuple[CameraModel, NDArray[np.float64]]] = {}

    def fuse(self, frame: SensorFrame) -> Mapping[str, CameraImage]:
        """An rgb8 image by camera, of its size; nothing for a camera of which nothing can be used."""
        fused = {}
        frame = self._recalled(frame)
        for name in self.chosen(frame):
            pixels = self._fused(frame, name)
            if pixels is None:
                self.counts[f"{name}.nothing_to_see"] += 1
                continue
            source = frame.cameras.get(name)
            stamp_ns = frame.stamp_ns if source is None else source.stamp_ns
            frame_id = "" if source is None else source.frame_id
            fused[name] = CameraImage(name, stamp_ns, frame_id, pixels, "rgb8")
        return fused

    def inputs(self, frame: SensorFrame, name: str) -> dict[str, NDArray[np.float32]] | None:
        """What the network takes for one camera, or None where one of the images is missing."""
        visible, thermal = self._visible(frame, name), self._thermal(frame, name)
        if visible is None or thermal is None:
            return None
        return self._arrays(visible, *thermal)

    def chosen(self, frame: SensorFrame) -> list[str]:
        """Cameras to fuse whose place is known; one that fell silent among them."""
        if self.config.cameras:
            return [n for n in self.config.cameras if placed(frame, n)]
        cameras = [n for n in frame.cameras if placed(frame, n)]
        shares = {n: self._thermals.best(frame, n)[1] for n in cameras}
        best = max(cameras, key=lambda n: shares[n], default="")
        if best and shares[best] > 0:
            self._paired = best
        elif self._paired and placed(frame, self._paired):
            best = self._paired
        return [best] if best else []

    def _recalled(self, frame: SensorFrame) -> SensorFrame:
        """The frame with intrinsics and places of cameras that are silent in it, as last known."""
        for name in frame.cameras:
            if placed(frame, name):
                self._places[name] = frame.intrinsics[name], frame.base_from_sensor[name]
        silent = {n: p for n, p in self._places.items() if n not in frame.cameras}
        return replace(
            frame,
            intrinsics={**{n: p[0] for n, p in silent.items()}, **frame.intrinsics},
            base_from_sensor={**{n: p[1] for n, p in silent.items()}, **frame.base_from_sensor},
        )

    def _fused(self, frame: SensorFrame, name: str) -> NDArray[np.uint8] | None:
        visible, thermal = self._visible(frame, name), self._thermal(frame, name)
        model = frame.intrinsics[name]
        size = model.width, model.height
        if thermal is None:
            return None if visible is None else np.ascontiguousarray(visible)
        grey, seen = thermal
        if visible is None:
            levels = np.rint(255.0 * grey).astype(np.uint8)
            large = cv2.resize(levels, size, interpolation=cv2.INTER_LINEAR)
            return np.repeat(large[..., None], 3, axis=2)
        arrays = self._arrays(visible, grey, seen)
        try:
            luma = self.engine.run(arrays)["fused"][0, 0]
        except EngineError:
            self.counts[f"{name}.engine"] += 1
            return np.ascontiguousarray(visible)
        rows, columns = grey.shape
        # What fusion changes is brought to the image's own size, so that its finer detail stays.
        change = (luma - arrays["visible"][0, 0])[:rows, :columns] * _within(seen)
        change = cv2.resize(change, size, interpolation=cv2.INTER_LINEAR)
        own = cv2.cvtColor(np.ascontiguousarray(visible), cv2.COLOR_RGB2GRAY)
        return with_luma(visible, own.astype(np.float32) / 255.0 + change)

    def _visible(self, frame: SensorFrame, name: str) -> NDArray[np.uint8] | None:
        """The camera's image (H, W, 3) uint8, or None where it shows nothing."""
        image = frame.cameras.get(name)
        if image is None or not self._thermals.usable(image):
            return None
        return image.rgb()

    def _thermal(
        self, frame: SensorFrame, name: str
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]] | None:
        """The thermal image in the camera's view, at the network's size, and where it is seen."""
        thermal = self._thermals.best(frame, name)[0]
        if not thermal:
            return None
        model = frame.intrinsics[name]
        factor = min(self._columns / model.width, self._rows / model.height)
        columns, rows = max(round(model.width * factor), 1), max(round(model.height * factor), 1)
        view = model.scaled(columns / model.width, rows / model.height)
        return self._thermals.view(frame, name, view, thermal)

    def _arrays(
        self, visible: NDArray[np.uint8], grey: NDArray[np.float32], seen: NDArray[np.bool_]
    ) -> dict[str, NDArray[np.float32]]:
        """Both images at the network's size, edges repeated where the view is smaller than that."""
        rows, columns = grey.shape
        luma = cv2.cvtColor(np.ascontiguousarray(visible), cv2.COLOR_RGB2GRAY)
        shrinks = luma.shape[1] > columns
        how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        luma = cv2.resize(luma, (columns, rows), interpolation=how).astype(np.float32) / 255.0
        pads = ((0, self._rows - rows), (0, self._columns - columns))
        both = {"visible": luma, "thermal": np.where(seen, grey, luma)}
        return {n: np.pad(image, pads, "edge")[None, None] for n, image in both.items()}


def checked_size(card: ModelCard) -> tuple[int, int]:
    """Rows and columns of a fusion network's images. Raises UserError for another card."""
    names = list(card.inputs), list(card.outputs)
    if names != (["visible", "thermal"], ["fused"]):
        raise UserError(f"{card.source}: not a network that fuses visible and thermal images")
    rows, columns = card.inputs["visible"].shape[-2:]
    return rows, columns


def frame_inputs(card: ModelCard) -> Callable[[SensorFrame], dict[str, Any]]:
    """What calibration feeds the network of recorded frames. The callable may raise UserError."""
    fuser = ImageFuser(ImageFusionConfig(card.source), card=card)

    def make(frame: SensorFrame) -> dict[str, Any]:
        for name in fuser.chosen(frame):
            arrays = fuser.inputs(frame, name)
            if arrays is not None:
                return arrays
        raise UserError("the frame has no camera's image with a thermal one")

    return make


def _within(seen: NDArray[np.bool_]) -> NDArray[np.float32]:
    """1 inside what is seen, falling to 0 at its edge; the image's own edge is none."""
    distance = cv2.distanceTransform(seen.astype(np.uint8), cv2.DIST_L2, 3)
    return np.minimum(distance / np.float32(SEAM), np.float32(1.0))
