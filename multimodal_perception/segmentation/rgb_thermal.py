"""Segmentation of visible images together with thermal images (or LiDAR depth), or of one of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.configuration import UserError
from multimodal_perception.frame import Modality, SensorFrame
from multimodal_perception.images.network_runs import run_images
from multimodal_perception.images.rgb_thermal_inputs import (
    INPUTS,
    RgbThermalInputBuilder,
    RgbThermalSegmenterConfig,
    check_second_input,
)
from multimodal_perception.images.turns import ImageTurns
from multimodal_perception.kernels import njit
from multimodal_perception.perception import SegmentationMask, StageStatus
from multimodal_perception.rig import Rig
from multimodal_perception.runtime.card import ModelCard, load_card
from multimodal_perception.runtime.engine import Engine
from multimodal_perception.runtime.engine_status import engine_status
from multimodal_perception.runtime.open_model import open_model
from multimodal_perception.runtime.settings import RuntimeConfig
from multimodal_perception.runtime.temperatures import read_temperatures
from multimodal_perception.segmentation.averaging import (
    mean_logits,
    mirror_columns,
    mirrored_inputs,
)
from multimodal_perception.sensor_use import SensorUse, merged, of_modalities, of_views


class RgbThermalSegmenter:
    """Segmenter for visible and thermal images.

    All cameras are segmented, each together with the thermal camera that covers most of its view, if
    there is one. Thermal cameras that no camera is segmented with are segmented in their own view,
    under their own name. With `mirrored` or `ensemble` of the configuration, the logits of a mask are
    logarithms of mean probabilities. counts: rejected and skipped images and failed runs by
    `sensor.reason`.
    """

    def __init__(
        self,
        config: RgbThermalSegmenterConfig | None = None,
        runtime: RuntimeConfig | None = None,
        engine: Engine | None = None,
        card: ModelCard | None = None,
    ) -> None:
        """engine: used instead of the engine of the card.

        Raises UserError for a card of another network, or if the configuration contradicts the card.
        """
        self.config = config or RgbThermalSegmenterConfig()
        card = load_card(self.config.model) if card is None else card
        if tuple(card.inputs) != INPUTS or list(card.outputs) != ["logits"] or not card.classes:
            raise UserError(
                f"pipeline.rgb_thermal_segmenter.model: {card.source} is not a segmentation "
                f"network for visible and thermal images "
                f"(inputs {', '.join(INPUTS)}; output logits; classes)"
            )
        check_second_input(
            card, self.config.second_input, "pipeline.rgb_thermal_segmenter.second_input"
        )
        self.engine = open_model(card, runtime) if engine is None else engine
        self._engines = [self.engine]
        self._engines += [_member(name, card, runtime) for name in self.config.ensemble]
        self.class_names = card.classes
        self._temperatures = read_temperatures(card)
        self.counts: Counter[str] = Counter()
        self._inputs = RgbThermalInputBuilder(card, self.config, self.counts)
        self._turns = ImageTurns(self.config.max_images_per_frame, self.counts)
        # Compile the kernel (or load it from the cache) now, not at the first frame.
        argmax_of_upsampled_logits(np.zeros((1, 1, 1), np.float32), 1.0, np.zeros((1, 1), np.uint8))

    @property
    def status(self) -> tuple[StageStatus, ...]:
        """Status of the inference engine of each network, for diagnostics."""
        return tuple(engine_status(engine) for engine in self._engines)

    def sensor_use(self, rig: Rig) -> SensorUse:
        """The cameras whose views are segmented, and the sensors of the second input."""
        second = self.config.second_input
        lidars = of_modalities(rig, Modality.LIDAR) if second == "lidar" else frozenset()
        views = of_views(
            rig, self.config.cameras, self.config.max_images_per_frame, second == "thermal"
        )
        return merged(views, SensorUse(lidars))

    def segment(self, frame: SensorFrame) -> Mapping[str, SegmentationMask]:
        """Masks by sensor, each in the size of its image; empty for a frame without usable images."""
        return self._segment(frame, self._turns.select(self._inputs.select_views(frame)))

    def segment_view(self, frame: SensorFrame, name: str) -> NDArray[np.uint8] | None:
        """Labels (H, W) uint8 in the view of a sensor; None if the view has no usable image.

        The frame must have the intrinsics and extrinsics of the sensor. Its own image may be missing if
        a thermal camera covers the view.
        """
        mask = self.segment_view_mask(frame, name)
        return None if mask is None else mask.labels

    def segment_view_mask(self, frame: SensorFrame, name: str) -> SegmentationMask | None:
        """The mask in the view of a sensor, see segment_view."""
        return self._segment(frame, [name]).get(name)

    def _segment(self, frame: SensorFrame, names: list[str]) -> dict[str, SegmentationMask]:
        inputs = {name: self._inputs.build(frame, name) for name in names}
        usable = {name: arrays for name, arrays in inputs.items() if arrays is not None}
        masks = {}
        for name, logits in self._logits(frame, usable).items():
            model = frame.intrinsics[name]
            labels = np.empty((model.height, model.width), np.uint8)
            # The logits have half the size of the network's input.
            scale = self._inputs.scale(model) / 2.0
            argmax_of_upsampled_logits(logits, scale, labels)
            rows, columns = round(model.height * scale), round(model.width * scale)
            image = frame.readings.get(name)
            masks[name] = SegmentationMask(
                name,
                frame.stamp_ns if image is None else image.stamp_ns,
                labels,
                self.class_names,
                logits[:rows, :columns],
                self._temperatures,
            )
        return masks

    def _logits(
        self, frame: SensorFrame, inputs: Mapping[str, Mapping[str, NDArray[np.float32]]]
    ) -> dict[str, NDArray[np.float32]]:
        """Logits (h, w, classes) by sensor, averaged over the networks and mirrored images.

        Failed runs are left out and counted; a sensor without any run is missing.
        """
        columns = {}
        for name in inputs:
            model = frame.intrinsics[name]
            # Even, because the logits have half the size.
            columns[name] = 2 * round(model.width * self._inputs.scale(model) / 2.0)
        runs: dict[str, list[NDArray[np.float32]]] = {name: [] for name in inputs}
        for mirrored in (False, True) if self.config.mirrored else (False,):
            images: list[Mapping[str, NDArray[np.float32]]] = [
                mirrored_inputs(arrays, columns[name]) if mirrored else arrays
                for name, arrays in inputs.items()
            ]
            for engine in self._engines:
                outputs = run_images(engine, images)
                for name, results in zip(inputs, outputs, strict=True):
                    if results is None:
                        self.counts[f"{name}.engine"] += 1
                        continue
                    logits = results["logits"][0]
                    if mirrored:
                        logits = mirror_columns(logits, columns[name] // 2)
                    runs[name].append(np.ascontiguousarray(logits.transpose(1, 2, 0)))
        return {name: mean_logits(logits) for name, logits in runs.items() if logits}


def _member(name: str, card: ModelCard, runtime: RuntimeConfig | None) -> Engine:
    """The engine of a further network of an ensemble. Raises UserError if it differs from the card."""
    other = load_card(name)
    for key in ("inputs", "outputs", "classes", "normalisation"):
        if getattr(other, key) != getattr(card, key):
            raise UserError(
                f"pipeline.rgb_thermal_segmenter.ensemble: {other.source}: {key} differ from those of "
                f"{card.source}"
            )
    for key in ("second_input", "thermal_quartile"):
        if other.settings.get(key) != card.settings.get(key):
            raise UserError(
                f"pipeline.rgb_thermal_segmenter.ensemble: {other.source}: settings.{key} is "
                f"{other.settings.get(key)!r}; {card.source} has {card.settings.get(key)!r}"
            )
    return open_model(other, runtime)


@njit(nogil=True)
def argmax_of_upsampled_logits(logits, scale, labels):  # type: ignore[no-untyped-def]
    """Fill labels (H, W) uint8 with the argmax of the bilinearly upsampled logits.

    logits: (h, w, classes) float32. scale: factor from the size of the labels to that of the logits.
    """
    height, width, classes = logits.shape
    for i in range(labels.shape[0]):
        y = min(max((i + 0.5) * scale - 0.5, 0.0), height - 1.0)
        top = int(y)
        below = min(top + 1, height - 1)
        b = np.float32(y - top)
        for j in range(labels.shape[1]):
            x = min(max((j + 0.5) * scale - 0.5, 0.0), width - 1.0)
            left = int(x)
            right = min(left + 1, width - 1)
            r = np.float32(x - left)
            best_class, best_value = 0, np.float32(-np.inf)
            for c in range(classes):
                upper = logits[top, left, c] + r * (logits[top, right, c] - logits[top, left, c])
                lower = logits[below, left, c] + r * (
                    logits[below, right, c] - logits[below, left, c]
                )
                value = upper + b * (lower - upper)
                if value > best_value:
                    best_class, best_value = c, value
            labels[i, j] = best_class
