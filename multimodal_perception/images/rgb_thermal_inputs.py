"""Inputs of networks for a visible image and a second image (thermal image or LiDAR depth)."""

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
from multimodal_perception.images.thermal_to_camera import ThermalViews, has_pose
from multimodal_perception.images.view_warp import render_inverse_depth
from multimodal_perception.runtime.card import ModelCard

SecondInput = Literal["thermal", "lidar"]
# Names of the network's inputs, in the order of its arguments.
INPUTS = ("visible", "thermal", "visible_mask", "thermal_mask")


@dataclass(frozen=True)
class RgbThermalSegmenterConfig:
    """Parameters of the segmentation of visible and thermal images.

    Attributes:
        model: Segmentation model: the name of a shipped model or the path of a card.yaml. Change it to
            use a model that you trained yourself.
        cameras: Names of the cameras and thermal cameras to segment; empty segments all of them. Set it
            to leave out cameras that show nothing of interest; each image costs a run of the network.
        max_images_per_frame: Maximum number of images that are segmented in one frame; 0 segments all.
            Set it on slow computers: the images are then segmented in turns, those that have waited
            longest first.
        second_input: Second input image of the network besides the visible image: the thermal image or
            the inverse depth of the LiDAR points. It must be the modality that the model was trained
            with (settings.second_input of its card). Set it to none to use the visible image only.
        mirrored: Whether the network also runs on the mirrored images, and the probabilities of both
            runs are averaged. Enable it for better confidences of the masks where the network may take
            twice as long.
        ensemble: Further segmentation models (names of shipped models or paths of cards) whose
            probabilities are averaged with those of the first one. Set it to models of other trainings
            with the same classes and inputs for better masks; each one costs a run for each image.
    """

    model: str = "segmentation"
    cameras: tuple[str, ...] = ()
    max_images_per_frame: int = field(default=0, metadata={"min": 0, "max": 64})
    second_input: Literal["thermal", "lidar", "none"] = "thermal"
    mirrored: bool = False
    ensemble: tuple[str, ...] = ()


def trained_second_input(card: ModelCard) -> SecondInput:
    """Modality of the second image that a network was trained with: thermal or lidar.

    Raises UserError for any other value of settings.second_input.
    """
    value = card.settings.get("second_input", "thermal")
    if value == "thermal":
        return "thermal"
    if value == "lidar":
        return "lidar"
    raise UserError(f"{card.source}: settings.second_input: allowed: thermal, lidar; got {value!r}")


def check_second_input(card: ModelCard, second_input: str, parameter: str) -> None:
    """Raise UserError if a configured second input contradicts the card.

    parameter: name of the configured parameter, for the message.
    """
    trained = trained_second_input(card)
    if second_input not in (trained, "none"):
        raise UserError(
            f"{parameter}: {second_input!r} contradicts {card.source}, which was trained with "
            f"{trained}; allowed: {trained}, none"
        )


class RgbThermalInputBuilder:
    """Builds the network's inputs from frames. Contrast limits and warps are kept between frames.

    counts: rejected images by `sensor.reason`; it is updated.
    """

    def __init__(
        self, card: ModelCard, config: RgbThermalSegmenterConfig, counts: Counter[str]
    ) -> None:
        """Raises UserError for a card whose inputs do not fit."""
        check_input_shapes(card)
        self._config = config
        self._counts = counts
        self._rows, self._columns = card.inputs["visible"].shape[-2:]
        pixels = card.normalisation.get("visible", {})
        self._mean, self._std = float(pixels.get("mean", 127.0)), float(pixels.get("std", 128.0))
        self._thermals = ThermalViews(counts, _thermal_quartile(card))
        self._takes_thermal = trained_second_input(card) == "thermal"

    def scale(self, model: CameraModel) -> float:
        """Factor from the size of a camera's image to its size in the network's input."""
        return min(self._columns / model.width, self._rows / model.height)

    def select_views(self, frame: SensorFrame) -> list[str]:
        """Names of the sensors with an image whose view can be processed.

        Without configured names: all cameras, and the thermal cameras that are not the second image of
        any camera.
        """
        cameras = [n for n in frame.cameras if has_pose(frame, n)]
        thermals = [n for n in frame.thermals if has_pose(frame, n) and self._takes_thermal]
        if self._config.cameras:
            return [n for n in self._config.cameras if n in cameras or n in thermals]
        if self._config.second_input != "thermal":
            return cameras or thermals
        paired = {self._thermals.best_match(frame, n)[0] for n in cameras} if thermals else set()
        return cameras + [n for n in thermals if n not in paired]

    def build(self, frame: SensorFrame, name: str) -> dict[str, NDArray[np.float32]] | None:
        """The network's inputs for the view of one sensor; None if it has no usable image.

        visible (1, 3, H, W), thermal (1, 1, H, W) and their masks (1, 1, H, W), all float32. A mask is
        1 where the image has valid pixels.
        """
        shape = self._rows, self._columns
        arrays = {n: np.zeros((1, 1, *shape), np.float32) for n in INPUTS}
        arrays["visible"] = np.zeros((1, 3, *shape), np.float32)
        model = frame.intrinsics[name]
        scale = self.scale(model)
        rows, columns = round(model.height * scale), round(model.width * scale)
        view = model.scaled(columns / model.width, rows / model.height)
        image = frame.cameras.get(name)
        if image is not None and self._thermals.is_usable(image):
            small = cv2.resize(image.rgb(), (columns, rows), interpolation=cv2.INTER_AREA)
            pixels = (small.astype(np.float32) - self._mean) / self._std
            arrays["visible"][0, :, :rows, :columns] = pixels.transpose(2, 0, 1)
            arrays["visible_mask"][0, 0, :rows, :columns] = 1.0
        second = self._second_image(frame, name, view)
        if second is not None:
            arrays["thermal"][0, 0, :rows, :columns] = second[0]
            arrays["thermal_mask"][0, 0, :rows, :columns] = second[1]
        if not (arrays["visible_mask"].any() or arrays["thermal_mask"].any()):
            self._counts[f"{name}.no_usable_image"] += 1
            return None
        return arrays

    def _second_image(
        self, frame: SensorFrame, name: str, view: CameraModel
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]] | None:
        """The second image (H, W) in a view, zero where invalid, and its mask; None without one."""
        if self._config.second_input == "lidar" and name in frame.cameras:
            return render_inverse_depth(frame, view, frame.reference_from_sensor(name))
        if self._config.second_input != "thermal" and name in frame.cameras:
            return None
        if name in frame.thermals:
            grey = self._thermals.normalised(frame.thermals[name])
            if grey is None:
                return None
            small = cv2.resize(grey, (view.width, view.height), interpolation=cv2.INTER_AREA)
            return small, np.ones(small.shape, np.bool_)
        thermal = self._thermals.best_match(frame, name)[0]
        return self._thermals.warped(frame, name, view, thermal) if thermal else None


def check_input_shapes(card: ModelCard) -> None:
    """Raise UserError unless a card's inputs are a visible image, a second image and their masks."""
    if tuple(card.inputs) != INPUTS:
        raise UserError(
            f"{card.source}: inputs: allowed: {', '.join(INPUTS)}; got {', '.join(card.inputs)}"
        )
    shape = card.inputs["visible"].shape
    for name, spec in card.inputs.items():
        expected = (*shape[:1], 3 if name == "visible" else 1, *shape[-2:])
        if spec.shape != expected:
            raise UserError(
                f"{card.source}: inputs.{name}.shape: must be {list(expected)}, got {list(spec.shape)}"
            )


def _thermal_quartile(card: ModelCard) -> float | None:
    """The value that the upper quartile of thermal images had in training; None if it was not mapped."""
    value = card.settings.get("thermal_quartile")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 < value < 1.0:
        raise UserError(
            f"{card.source}: settings.thermal_quartile: allowed: above 0, below 1; got {value!r}"
        )
    return float(value)


def frame_inputs(card: ModelCard) -> Callable[[SensorFrame], dict[str, Any]]:
    """A function from recorded frames to the network's inputs, for the calibration of quantised engines.

    It raises UserError for a frame without a usable image.
    """
    config = RgbThermalSegmenterConfig(second_input=trained_second_input(card))
    builder = RgbThermalInputBuilder(card, config, Counter())

    def build(frame: SensorFrame) -> dict[str, Any]:
        for name in builder.select_views(frame):
            arrays = builder.build(frame, name)
            if arrays is not None:
                return arrays
        raise UserError("the frame has no image that can be segmented")

    return build
