"""Network inputs of pairs of visible and thermal images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.configuration import UserError
from multimodal_perception.frame import SensorFrame
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.images.thermal_to_camera import ThermalViews, placed
from multimodal_perception.images.view_warp import lidar_image
from multimodal_perception.runtime.card import ModelCard

# Inputs of the network, in its order.
INPUTS = ("visible", "other", "visible_mask", "other_mask")


@dataclass(frozen=True)
class RgbxConfig:
    """Which images are segmented, and by what.

    model: name of a shipped model, or the path of a card. cameras: sensors to segment, each costs a
    run of the network; empty is the camera that shares most of its view with a thermal camera, else
    the first one. other: what goes with the visible image. ground_z: height of the ground in
    base_link, for bringing thermal images into a camera's view.
    """

    model: str = "segmentation"
    cameras: tuple[str, ...] = ()
    other: Literal["thermal", "lidar", "none"] = "thermal"
    ground_z: float = field(default=0.0, metadata={"min": -10.0, "max": 10.0, "unit": "m"})


class InputMaker:
    """Frames to what the network takes; thermal contrast and warps are kept from frame to frame."""

    def __init__(self, card: ModelCard, config: RgbxConfig, counts: Counter[str]) -> None:
        self._config = config
        self._counts = counts
        self._rows, self._columns = card.inputs["visible"].shape[-2:]
        scale = card.normalisation.get("visible", {})
        self._mean, self._std = float(scale.get("mean", 127.0)), float(scale.get("std", 128.0))
        self._thermals = ThermalViews(config.ground_z, counts, _quartile(card))

    def factor(self, model: CameraModel) -> float:
        """Size of a view in the network's input, of its own."""
        return min(self._columns / model.width, self._rows / model.height)

    def chosen(self, frame: SensorFrame) -> list[str]:
        """The sensors whose view is segmented in this frame."""
        cameras = [n for n in frame.cameras if placed(frame, n)]
        thermals = [n for n in frame.thermals if placed(frame, n)]
        if self._config.cameras:
            return [n for n in self._config.cameras if n in cameras or n in thermals]
        if not cameras:
            return thermals[:1]
        if self._config.other == "thermal" and thermals:
            return [max(cameras, key=lambda n: self._thermals.best(frame, n)[1])]
        return cameras[:1]

    def make(self, frame: SensorFrame, name: str) -> dict[str, NDArray[np.float32]] | None:
        """Arrays for one view, or None where nothing of it can be used."""
        shape = self._rows, self._columns
        arrays = {n: np.zeros((1, 1, *shape), np.float32) for n in INPUTS}
        arrays["visible"] = np.zeros((1, 3, *shape), np.float32)
        model = frame.intrinsics[name]
        factor = self.factor(model)
        rows, columns = round(model.height * factor), round(model.width * factor)
        view = model.scaled(columns / model.width, rows / model.height)
        image = frame.cameras.get(name)
        if image is not None and self._thermals.usable(image):
            small = cv2.resize(image.rgb(), (columns, rows), interpolation=cv2.INTER_AREA)
            pixels = (small.astype(np.float32) - self._mean) / self._std
            arrays["visible"][0, :, :rows, :columns] = pixels.transpose(2, 0, 1)
            arrays["visible_mask"][0, 0, :rows, :columns] = 1.0
        found = self._other(frame, name, view)
        if found is not None:
            arrays["other"][0, 0, :rows, :columns] = found[0]
            arrays["other_mask"][0, 0, :rows, :columns] = found[1]
        if not (arrays["visible_mask"].any() or arrays["other_mask"].any()):
            self._counts[f"{name}.nothing_to_see"] += 1
            return None
        return arrays

    def _other(
        self, frame: SensorFrame, name: str, view: CameraModel
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]] | None:
        """The other image (H, W) in a view, zero where it is not seen, and where it is."""
        if self._config.other == "lidar" and name in frame.cameras:
            return lidar_image(frame, view, frame.reference_from_sensor(name))
        if self._config.other != "thermal" and name in frame.cameras:
            return None
        if name in frame.thermals:
            grey = self._thermals.normalised(frame.thermals[name])
            if grey is None:
                return None
            small = cv2.resize(grey, (view.width, view.height), interpolation=cv2.INTER_AREA)
            return small, np.ones(small.shape, np.bool_)
        thermal = self._thermals.best(frame, name)[0]
        return self._thermals.view(frame, name, view, thermal) if thermal else None


def _quartile(card: ModelCard) -> float | None:
    """What the network was trained to find at thermal images' upper quartile, if it was."""
    value = card.settings.get("thermal_quartile")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 < value < 1.0:
        raise UserError(
            f"{card.source}: settings.thermal_quartile: allowed: above 0, below 1; got {value!r}"
        )
    return float(value)


def frame_inputs(card: ModelCard) -> Callable[[SensorFrame], dict[str, Any]]:
    """What calibration feeds the network of recorded frames. The callable may raise UserError."""
    maker = InputMaker(card, RgbxConfig(), Counter())

    def make(frame: SensorFrame) -> dict[str, Any]:
        for name in maker.chosen(frame):
            arrays = maker.make(frame, name)
            if arrays is not None:
                return arrays
        raise UserError("the frame has no image that can be segmented")

    return make
