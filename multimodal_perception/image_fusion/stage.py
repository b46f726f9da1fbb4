"""Fusion of visible and thermal images in the view of the camera."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.configuration import UserError
from multimodal_perception.frame import CameraImage, SensorFrame
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.images.thermal_to_camera import ThermalViews, has_pose
from multimodal_perception.perception import StageStatus
from multimodal_perception.rig import Rig
from multimodal_perception.runtime.card import ModelCard, load_card
from multimodal_perception.runtime.engine import Engine, EngineError
from multimodal_perception.runtime.engine_status import engine_status
from multimodal_perception.runtime.open_model import open_model
from multimodal_perception.runtime.settings import RuntimeConfig
from multimodal_perception.sensor_use import SensorUse, of_view

# Width of the transition from the fused to the visible image at the edge of the thermal camera's view,
# pixels of the network's input.
BLEND_WIDTH = 16


@dataclass(frozen=True)
class ImageFusionConfig:
    """Parameters of the fusion of visible and thermal images.

    Attributes:
        model: Image fusion model: the name of a shipped model (`image_fusion`) or the path of a
            card.yaml. Leave it empty to switch image fusion off.
        cameras: Names of the cameras whose images are fused; each one needs a run of the network per
            frame. Leave it empty to fuse only the camera whose view a thermal camera covers best.
    """

    model: str = ""
    cameras: tuple[str, ...] = ()


class ImageFuser:
    """Image fusion stage.

    If one of the two images is missing or blank, the output is the other one: the visible image
    unchanged, or the thermal image in the camera's view. Outside the thermal camera's field of view the
    output is the visible image. counts: rejected images and failed frames by `sensor.reason`.
    """

    def __init__(
        self,
        config: ImageFusionConfig,
        runtime: RuntimeConfig | None = None,
        engine: Engine | None = None,
        card: ModelCard | None = None,
    ) -> None:
        """engine: used instead of the engine of the card.

        Raises UserError for a card of another network.
        """
        self.config = config
        card = load_card(config.model) if card is None else card
        self._rows, self._columns = network_input_size(card)
        self.engine = open_model(card, runtime) if engine is None else engine
        self.counts: Counter[str] = Counter()
        self._thermals = ThermalViews(self.counts)
        self._last_camera = ""  # the camera of the last frame that a thermal camera covered
        self._calibration: dict[str, tuple[CameraModel, NDArray[np.float64]]] = {}

    @property
    def status(self) -> tuple[StageStatus, ...]:
        """Status of the inference engine, for diagnostics."""
        return (engine_status(self.engine),)

    def sensor_use(self, rig: Rig) -> SensorUse:
        """The cameras whose images are fused, and the thermal cameras."""
        return of_view(rig, self.config.cameras)

    def fuse(self, frame: SensorFrame) -> Mapping[str, CameraImage]:
        """Fused rgb8 images by camera, each in the camera's size; none without usable images."""
        fused = {}
        frame = self._with_known_calibration(frame)
        for name in self.select_cameras(frame):
            pixels = self._fuse_camera(frame, name)
            if pixels is None:
                self.counts[f"{name}.no_usable_image"] += 1
                continue
            source = frame.cameras.get(name)
            stamp_ns = frame.stamp_ns if source is None else source.stamp_ns
            frame_id = "" if source is None else source.frame_id
            fused[name] = CameraImage(name, stamp_ns, frame_id, pixels, "rgb8")
        return fused

    def build_inputs(self, frame: SensorFrame, name: str) -> dict[str, NDArray[np.float32]] | None:
        """The network's inputs for one camera; None if one of the images is missing.

        visible, thermal: (1, 1, H, W) float32 in [0, 1].
        """
        visible, thermal = self._visible(frame, name), self._thermal(frame, name)
        if visible is None or thermal is None:
            return None
        return self._to_network_size(visible, *thermal)

    def select_cameras(self, frame: SensorFrame) -> list[str]:
        """Cameras to fuse. A camera without image is included if its calibration is known."""
        if self.config.cameras:
            return [n for n in self.config.cameras if has_pose(frame, n)]
        cameras = [n for n in frame.cameras if has_pose(frame, n)]
        overlaps = {n: self._thermals.best_match(frame, n)[1] for n in cameras}
        best = max(cameras, key=lambda n: overlaps[n], default="")
        if best and overlaps[best] > 0:
            self._last_camera = best
        elif self._last_camera and has_pose(frame, self._last_camera):
            best = self._last_camera
        return [best] if best else []

    def _with_known_calibration(self, frame: SensorFrame) -> SensorFrame:
        """The frame with the last known calibration of cameras that have no image in it."""
        for name in frame.cameras:
            if has_pose(frame, name):
                self._calibration[name] = frame.intrinsics[name], frame.base_from_sensor[name]
        missing = {n: c for n, c in self._calibration.items() if n not in frame.cameras}
        return replace(
            frame,
            intrinsics={**{n: c[0] for n, c in missing.items()}, **frame.intrinsics},
            base_from_sensor={**{n: c[1] for n, c in missing.items()}, **frame.base_from_sensor},
        )

    def _fuse_camera(self, frame: SensorFrame, name: str) -> NDArray[np.uint8] | None:
        visible, thermal = self._visible(frame, name), self._thermal(frame, name)
        model = frame.intrinsics[name]
        size = model.width, model.height
        if thermal is None:
            return None if visible is None else np.ascontiguousarray(visible)
        grey, valid = thermal
        if visible is None:
            levels = np.rint(255.0 * grey).astype(np.uint8)
            large = cv2.resize(levels, size, interpolation=cv2.INTER_LINEAR)
            return np.repeat(large[..., None], 3, axis=2)
        arrays = self._to_network_size(visible, grey, valid)
        try:
            luma = self.engine.run(arrays)["fused"][0, 0]
        except EngineError:
            self.counts[f"{name}.engine"] += 1
            return np.ascontiguousarray(visible)
        rows, columns = grey.shape
        # Only the change made by the network is upscaled, so that the visible image keeps its detail.
        change = (luma - arrays["visible"][0, 0])[:rows, :columns] * _blend_weight(valid)
        change = cv2.resize(change, size, interpolation=cv2.INTER_LINEAR)
        own_luma = cv2.cvtColor(np.ascontiguousarray(visible), cv2.COLOR_RGB2GRAY)
        return replace_luma(visible, own_luma.astype(np.float32) / 255.0 + change)

    def _visible(self, frame: SensorFrame, name: str) -> NDArray[np.uint8] | None:
        """The camera's image (H, W, 3) uint8 RGB; None if it is missing or blank."""
        image = frame.cameras.get(name)
        if image is None or not self._thermals.is_usable(image):
            return None
        return image.rgb()

    def _thermal(
        self, frame: SensorFrame, name: str
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]] | None:
        """The thermal image (H, W) in the camera's view at the network's scale, and its mask (H, W)."""
        thermal = self._thermals.best_match(frame, name)[0]
        if not thermal:
            return None
        model = frame.intrinsics[name]
        scale = min(self._columns / model.width, self._rows / model.height)
        columns, rows = max(round(model.width * scale), 1), max(round(model.height * scale), 1)
        view = model.scaled(columns / model.width, rows / model.height)
        return self._thermals.warped(frame, name, view, thermal)

    def _to_network_size(
        self, visible: NDArray[np.uint8], grey: NDArray[np.float32], valid: NDArray[np.bool_]
    ) -> dict[str, NDArray[np.float32]]:
        """Both images at the network's input size; a smaller view is padded by repeating its edge."""
        rows, columns = grey.shape
        luma = cv2.cvtColor(np.ascontiguousarray(visible), cv2.COLOR_RGB2GRAY)
        downscales = luma.shape[1] > columns
        interpolation = cv2.INTER_AREA if downscales else cv2.INTER_LINEAR
        luma = cv2.resize(luma, (columns, rows), interpolation=interpolation)
        luma = luma.astype(np.float32) / 255.0
        padding = ((0, self._rows - rows), (0, self._columns - columns))
        images = {"visible": luma, "thermal": np.where(valid, grey, luma)}
        return {n: np.pad(image, padding, "edge")[None, None] for n, image in images.items()}


def network_input_size(card: ModelCard) -> tuple[int, int]:
    """Rows and columns of a fusion network's images. Raises UserError for a card of another network."""
    names = list(card.inputs), list(card.outputs)
    if names != (["visible", "thermal"], ["fused"]):
        raise UserError(
            f"pipeline.image_fusion.model: {card.source} is not an image fusion network "
            "(inputs visible, thermal; output fused)"
        )
    shape = card.inputs["visible"].shape
    for name, spec in {**card.inputs, **card.outputs}.items():
        if len(spec.shape) != 4 or spec.shape[:2] != (1, 1) or spec.shape != shape:
            raise UserError(
                f"pipeline.image_fusion.model: {card.source}: {name}: shape: must be [1, 1, H, W], "
                f"the same for all tensors; got {list(spec.shape)}"
            )
    return shape[2], shape[3]


def replace_luma(rgb: NDArray[np.uint8], luma: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Replace the brightness of an RGB image (H, W, 3) by luma (H, W) in [0, 1], keeping its chroma."""
    ycrcb = cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2YCrCb)
    ycrcb[..., 0] = np.clip(np.rint(255.0 * luma), 0, 255).astype(np.uint8)
    return cv2.cvtColor(ycrcb, cv2.COLOR_YCrCb2RGB)


def frame_inputs(card: ModelCard) -> Callable[[SensorFrame], dict[str, Any]]:
    """A function from recorded frames to the network's inputs, for the calibration of quantised engines.

    It raises UserError for a frame without a pair of images.
    """
    runtime = RuntimeConfig(measure="never")  # its network does not run here
    fuser = ImageFuser(ImageFusionConfig(card.source), runtime, card=card)

    def build(frame: SensorFrame) -> dict[str, Any]:
        for name in fuser.select_cameras(frame):
            arrays = fuser.build_inputs(frame, name)
            if arrays is not None:
                return arrays
        raise UserError("the frame has no camera image with a thermal image")

    return build


def _blend_weight(valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    """1 inside the mask (H, W), decreasing to 0 at its edge. The border of the image is not an edge."""
    distance = cv2.distanceTransform(valid.astype(np.uint8), cv2.DIST_L2, 3)
    return np.minimum(distance / np.float32(BLEND_WIDTH), np.float32(1.0))
