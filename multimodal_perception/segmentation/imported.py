"""Segmentation by a network that `import segmenter` imported."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.configuration import UserError, build
from multimodal_perception.frame import SensorFrame
from multimodal_perception.image_models.preprocessing import (
    Placement,
    image_size,
    prepare_image,
    read_preprocessing,
)
from multimodal_perception.images.network_runs import run_images
from multimodal_perception.images.sensor_images import SensorImages
from multimodal_perception.images.turns import ImageTurns
from multimodal_perception.perception import SegmentationMask, StageStatus
from multimodal_perception.rig import Rig
from multimodal_perception.runtime.card import ModelCard, load_card
from multimodal_perception.runtime.engine import Engine
from multimodal_perception.runtime.engine_status import engine_status
from multimodal_perception.runtime.open_model import open_model
from multimodal_perception.runtime.settings import RuntimeConfig
from multimodal_perception.segmentation.classes import SEGMENTATION_CLASSES
from multimodal_perception.segmentation.rgb_thermal import argmax_of_upsampled_logits
from multimodal_perception.sensor_use import SensorUse, of_views

ARCHITECTURE = "imported_segmenter"
PARAMETER = "pipeline.imported_segmenter.model"
OTHER = SEGMENTATION_CLASSES.index("other")
# Class scores of label maps, whose networks give no scores: those of a confident softmax.
LABEL_LOGIT = 5.0


@dataclass(frozen=True)
class ImportedSegmenterConfig:
    """Segmentation by an imported network.

    Attributes:
        model: Folder that `import segmenter` wrote. Set it whenever the segmenter is `imported`, because
            there is no shipped model.
        cameras: Names of the cameras and thermal cameras to segment; empty segments all of them. Set it
            to leave out cameras that show nothing of interest; each image costs a run of the network.
        max_images_per_frame: Maximum number of images that are segmented in one frame; 0 segments all.
            Set it on slow computers: the images are then segmented in turns, those that have waited
            longest first.
    """

    model: str = ""
    cameras: tuple[str, ...] = ()
    max_images_per_frame: int = field(default=0, metadata={"min": 0, "max": 64})


@dataclass(frozen=True)
class SegmenterOutput:
    """The output of a segmentation network; part of its model card.

    output: name of the tensor. kind: `scores` of classes, or `labels` of pixels. layout: axes of the
    output, C for classes, N for the batch.
    """

    output: str
    kind: str = "scores"
    layout: str = "NCHW"

    def __post_init__(self) -> None:
        allowed = {"scores": ("NCHW", "NHWC"), "labels": ("NHW", "NCHW", "NHWC")}
        if self.kind not in allowed or self.layout not in allowed[self.kind]:
            raise ValueError(
                f"kind and layout: allowed: {allowed}; got {self.kind!r}, {self.layout!r}"
            )

    def table(self, values: NDArray[Any]) -> NDArray[Any]:
        """Scores (h, w, C) or labels (h, w) of one image, from values (1, ...)."""
        first = values[0]
        if self.kind == "labels":
            axis = {"NHW": None, "NCHW": 0, "NHWC": 2}[self.layout]
            return first if axis is None else np.take(first, 0, axis=axis)
        return first.transpose(1, 2, 0) if self.layout == "NCHW" else first


class ImportedSegmenter:
    """Segmenter (see stages) for imported networks of visible images.

    All cameras are segmented, and thermal cameras as grey images. counts: unusable and skipped images
    and failed runs, by `sensor.reason`.
    """

    class_names = SEGMENTATION_CLASSES

    def __init__(
        self,
        config: ImportedSegmenterConfig,
        runtime: RuntimeConfig | None = None,
        engine: Engine | None = None,
        card: ModelCard | None = None,
    ) -> None:
        """engine: used instead of opening one for the card. Raises UserError for an unsuitable card."""
        if card is None:
            if not config.model:
                raise UserError(f"{PARAMETER}: missing; see `import segmenter --help`")
            card = load_card(config.model)
        self.config = config
        self._output = read_output(card)
        self._own_labels = read_class_map(card)
        self._preprocessing = read_preprocessing(card)
        self._input = next(iter(card.inputs))
        self._spec = card.inputs[self._input]
        self._size = image_size(self._spec, self._preprocessing.layout)
        self.engine: Engine = open_model(card, runtime) if engine is None else engine
        self.counts: Counter[str] = Counter()
        self._images = SensorImages(config.cameras, self.counts)
        self._turns = ImageTurns(config.max_images_per_frame, self.counts)
        # Compile the kernel (or load it from the cache) now, not at the first frame.
        argmax_of_upsampled_logits(np.zeros((1, 1, 1), np.float32), 1.0, np.zeros((1, 1), np.uint8))

    @property
    def status(self) -> tuple[StageStatus, ...]:
        """State of the inference engine."""
        return (engine_status(self.engine),)

    def sensor_use(self, rig: Rig) -> SensorUse:
        """The cameras and thermal cameras whose images are segmented."""
        return of_views(rig, self.config.cameras, self.config.max_images_per_frame)

    def segment(self, frame: SensorFrame) -> Mapping[str, SegmentationMask]:
        """Masks by sensor, each in the size of its image; empty for a frame without usable images."""
        inputs = {}
        for name in self._turns.select(self._images.names(frame)):
            pixels = self._images.rgb(frame, name)
            if pixels is not None:
                values, placement = prepare_image(pixels, self._spec, self._preprocessing)
                inputs[name] = {self._input: values}, placement
        outputs = run_images(self.engine, [arrays for arrays, _ in inputs.values()])
        masks = {}
        for (name, (_, placement)), results in zip(inputs.items(), outputs, strict=True):
            if results is None:
                self.counts[f"{name}.engine"] += 1
                continue
            table = self._output.table(results[self._output.output])
            model = frame.intrinsics[name]
            scores = self._own_scores(self._content(table, placement))
            labels = upsampled_labels(scores, model.width, model.height)
            stamp_ns = frame.readings[name].stamp_ns
            masks[name] = SegmentationMask(name, stamp_ns, labels, SEGMENTATION_CLASSES, scores)
        return masks

    def _content(self, table: NDArray[Any], placement: Placement) -> NDArray[Any]:
        """The part of an output (h, w, ...) that shows the image, without the fill of a letterbox."""
        rows, columns = table.shape[0] / self._size[0], table.shape[1] / self._size[1]
        top, left = round(placement.top * rows), round(placement.left * columns)
        height = max(round(placement.height * rows), 1)
        width = max(round(placement.width * columns), 1)
        return table[top : top + height, left : left + width]

    def _own_scores(self, table: NDArray[Any]) -> NDArray[np.float32]:
        """Scores (h, w, package classes): the highest one of the network's classes of each of them."""
        shape = (*table.shape[:2], len(SEGMENTATION_CLASSES))
        if self._output.kind == "labels":
            numbers = np.clip(np.rint(table.astype(np.float64)), 0, len(self._own_labels)).astype(
                int
            )
            labels = np.append(self._own_labels, OTHER)[numbers]
            scores = np.zeros(shape, np.float32)
            np.put_along_axis(scores, labels[..., None], LABEL_LOGIT, axis=2)
            return scores
        lowest = np.float32(table.min()) - 1.0
        scores = np.full(shape, lowest, np.float32)
        for k in range(table.shape[2]):
            label = self._own_labels[k]
            np.maximum(scores[..., label], table[..., k], out=scores[..., label])
        return scores


def upsampled_labels(scores: NDArray[np.float32], width: int, height: int) -> NDArray[np.uint8]:
    """Labels (height, width) with the highest of the bilinearly interpolated scores (h, w, classes)."""
    labels = np.empty((height, width), np.uint8)
    scale_x, scale_y = scores.shape[1] / width, scores.shape[0] / height
    if abs(scale_x - scale_y) > 1e-3 * scale_y:
        # The kernel has one scale; an image that was stretched is first brought to its aspect ratio.
        rows = max(round(height * scale_x), 1)
        scores = np.asarray(cv2.resize(scores, (scores.shape[1], rows)), np.float32)
        scores = scores.reshape(rows, -1, len(SEGMENTATION_CLASSES))
    argmax_of_upsampled_logits(np.ascontiguousarray(scores), scale_x, labels)
    return labels


def read_output(card: ModelCard) -> SegmenterOutput:
    """The output settings of an imported segmenter's card. Raises UserError with the key."""
    if card.architecture != ARCHITECTURE:
        raise UserError(
            f"{PARAMETER}: {card.source}: architecture: allowed: {ARCHITECTURE}; got "
            f"{card.architecture!r}; see `import segmenter --help`"
        )
    values = card.settings.get("output", {})
    if not isinstance(values, Mapping):
        raise UserError(f"{card.source}: settings.output: expected a mapping")
    output = build(SegmenterOutput, values, f"{card.source}: settings", "output")
    if output.output not in card.outputs:
        raise UserError(
            f"{card.source}: settings.output.output: {output.output!r}; allowed: "
            f"{', '.join(card.outputs)}"
        )
    shape = card.outputs[output.output].shape
    if len(shape) != len(output.layout):
        raise UserError(f"{card.source}: settings.output.layout: {output.layout} for {list(shape)}")
    if output.kind == "scores" and shape[output.layout.index("C")] != len(card.classes):
        raise UserError(
            f"{card.source}: classes: {len(card.classes)}, but the output is {list(shape)}"
        )
    return output


def read_class_map(card: ModelCard) -> NDArray[np.int64]:
    """Index in SEGMENTATION_CLASSES of each class of the network; `other` where the card has none."""
    table = card.settings.get("class_map", {})
    if not isinstance(table, Mapping):
        raise UserError(f"{card.source}: settings.class_map: expected package class by class name")
    for name, package_class in table.items():
        if name not in card.classes or package_class not in SEGMENTATION_CLASSES:
            raise UserError(
                f"{card.source}: settings.class_map.{name}: {package_class!r}; expected a class of the "
                f"network and one of {', '.join(SEGMENTATION_CLASSES)}"
            )
    indices = [SEGMENTATION_CLASSES.index(table.get(n, "other")) for n in card.classes]
    return np.array(indices, np.int64)
