"""Runs the image networks on the images of a frame."""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.configuration import UserError
from multimodal_perception.detection.bev_fusion.image_bev import FrameImage
from multimodal_perception.detection.bev_fusion.image_view import ImageView
from multimodal_perception.detection.bev_fusion.network_config import BevFusionNetworkConfig
from multimodal_perception.detection.bev_fusion.painting import group_scores, paint_grid
from multimodal_perception.detection.bev_fusion.ray_features import ray_features
from multimodal_perception.frame import CameraImage, SensorFrame, ThermalImage
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.images.resize import fit_image, fitted_model
from multimodal_perception.images.thermal_normalization import ThermalNormaliser
from multimodal_perception.runtime.card import ModelCard
from multimodal_perception.runtime.engine import Arrays, EngineError, run_many
from multimodal_perception.stages import ImageResults

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EncodedImage:
    """An image with the outputs of its network."""

    sensor: str
    image: FrameImage


@dataclass(frozen=True)
class ScaledImage:
    """An image scaled to the size of the network.

    size: width and height of the original image. view: of the scaled image. arrays: inputs of the
    network by name.
    """

    sensor: str
    size: tuple[int, int]
    modality: str
    view: ImageView
    arrays: dict[str, NDArray]


@dataclass(frozen=True)
class _RayFeatures:
    """Ray features of a camera, and what they were computed from."""

    model: CameraModel
    base_from_optical: NDArray[np.float64]
    ground_z: float
    features: NDArray[np.float32]

    def valid_for(
        self, model: CameraModel, base_from_optical: NDArray[np.float64], ground_z: float
    ) -> bool:
        same_model = self.model is model or _same_camera(self.model, model)
        return (
            same_model
            and self.ground_z == ground_z
            and np.array_equal(self.base_from_optical, base_from_optical)
        )


class ImagePreprocessor:
    """Selects and scales the images of a frame and computes the features of their rays.

    limits: maximum number of images per frame by modality. counts: images that cannot be used, by
    reason: surplus_images (beyond the limit), uncalibrated_images (no intrinsics or extrinsics),
    image_size_mismatch (the intrinsics belong to another image size).
    """

    def __init__(self, config: BevFusionNetworkConfig, limits: Mapping[str, int]) -> None:
        self.config = config
        self.limits = dict(limits)
        self.counts: Counter[str] = Counter()
        self._normalisers: dict[str, ThermalNormaliser] = {}
        self._rays: dict[str, _RayFeatures] = {}

    def process(
        self, frame: SensorFrame, select: Callable[[Sequence[str]], Sequence[str]] | None = None
    ) -> list[ScaledImage]:
        """Scaled images. select: chooses some of the usable names of a modality; None for all."""
        inputs = []
        for modality, images in (("camera", frame.cameras), ("thermal", frame.thermals)):
            names = self._usable(frame, modality, images)
            for name in names if select is None else select(names):
                inputs.append(self._input(frame, modality, name, images[name]))
        return inputs

    def _usable(self, frame: SensorFrame, modality: str, images: Mapping) -> list[str]:
        names = []
        for name, image in images.items():
            model = frame.intrinsics.get(name)
            if model is None or name not in frame.base_from_sensor:
                self.counts["uncalibrated_images"] += 1
            elif image.pixels.shape[:2] != (model.height, model.width):
                self.counts["image_size_mismatch"] += 1
            else:
                names.append(name)
        limit = self.limits[modality]
        self.counts["surplus_images"] += max(len(names) - limit, 0)
        return names[:limit]

    def _input(
        self, frame: SensorFrame, modality: str, name: str, image: CameraImage | ThermalImage
    ) -> ScaledImage:
        size = self.config.image_size(modality)
        if isinstance(image, ThermalImage):
            normaliser = self._normalisers.setdefault(name, ThermalNormaliser())
            normalised = normaliser.normalise(image.filled_pixels(), image.stamp_ns)
            pixels = fit_image(np.rint(255 * normalised).astype(np.uint8), size)
        else:
            pixels = fit_image(image.rgb(), size)
        model = frame.intrinsics[name]
        arrays: dict[str, NDArray] = {
            "pixels": pixels[None],
            "ray_features": self._ray_features(
                name, model, frame.base_from_sensor[name], size, frame.ground_z
            )[None],
        }
        view = ImageView(fitted_model(model, size), frame.reference_from_sensor(name))
        return ScaledImage(name, (model.width, model.height), modality, view, arrays)

    def _ray_features(
        self,
        name: str,
        model: CameraModel,
        base_from_optical: NDArray[np.float64],
        size: tuple[int, int],
        ground_z: float,
    ) -> NDArray[np.float32]:
        """Ray features of a camera, computed again only when its calibration changes."""
        cached = self._rays.get(name)
        if cached is None or not cached.valid_for(model, base_from_optical, ground_z):
            features = ray_features(fitted_model(model, size), base_from_optical, size, ground_z)
            cached = _RayFeatures(model, base_from_optical.copy(), ground_z, features)
            self._rays[name] = cached
        return cached.features


class ImageEncoders:
    """The image networks by modality. An image whose network fails counts as missing.

    counts: failed_images. failures: reasons of the last call.
    """

    def __init__(self, networks: dict) -> None:
        """networks: by modality, with `run` and perhaps `run_many` of runtime.engine.Engine."""
        self.networks = networks
        self.counts: Counter[str] = Counter()
        self.failures: list[str] = []

    def encode(self, inputs: Sequence[ScaledImage]) -> list[EncodedImage]:
        """Outputs of the images whose network succeeds."""
        encoded = []
        self.failures = []
        for modality, network in self.networks.items():
            own = [i for i in inputs if i.modality == modality]
            if not own:
                continue
            try:
                results = run_many(network, [i.arrays for i in own])
            except EngineError as error:
                self.counts["failed_images"] += len(own)
                self.failures.append(f"{error}; {len(own)} {modality} images are not used")
                continue
            for one, outputs in zip(own, results, strict=True):
                features, ranges = outputs["features"][0], outputs["ranges"][0]
                image = FrameImage(modality, one.view, features, ranges)
                encoded.append(EncodedImage(one.sensor, image))
        return encoded


def image_group_scores(
    inputs: Sequence[ScaledImage], results: ImageResults
) -> dict[str, NDArray[np.float32]]:
    """Group scores by sensor of the images that a 2D network covers (see painting.group_scores)."""
    scores = {i.sensor: group_scores(results, i.sensor, i.size) for i in inputs}
    return {sensor: values for sensor, values in scores.items() if values is not None}


def paint_images(
    encoded: Sequence[EncodedImage],
    scores: Mapping[str, NDArray[np.float32]],
    config: BevFusionNetworkConfig,
) -> list[FrameImage]:
    """The images, with the painting of those that have group scores."""
    images = []
    for e in encoded:
        model, size = e.image.view.model, config.image_size(e.image.modality)
        paint = None
        if e.sensor in scores:
            paint = paint_grid(scores[e.sensor], (model.width, model.height), size)
        images.append(dataclasses.replace(e.image, paint=paint))
    return images


def frame_inputs(card: ModelCard) -> Callable[[SensorFrame], Arrays]:
    """Function from a recorded frame to the inputs of an image network, for int8 calibration.

    The function raises UserError for a frame without an image of the network's modality.
    """
    from multimodal_perception.detection.bev_fusion.model_cards import read_network_config

    modality = str(card.settings.get("image"))
    preprocessor = ImagePreprocessor(read_network_config(card), {"camera": 1, "thermal": 1})

    def convert(frame: SensorFrame) -> Arrays:
        for one in preprocessor.process(frame):
            if one.modality == modality:
                return one.arrays
        raise UserError(f"the frame has no {modality} image")

    return convert


def _same_camera(a: CameraModel, b: CameraModel) -> bool:
    return (
        (a.width, a.height, a.model) == (b.width, b.height, b.model)
        and np.array_equal(a.matrix, b.matrix)
        and np.array_equal(a.coefficients, b.coefficients)
    )
