"""Runs a box network on the images of a frame and their tiles, and suppresses duplicates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.detection.images.config import ImageDetectorConfig
from multimodal_perception.detection.images.suppression import suppress
from multimodal_perception.frame import SensorFrame
from multimodal_perception.images.network_runs import Outputs, run_images
from multimodal_perception.images.tiles import Region, crop_frame, is_complete, tile_regions
from multimodal_perception.perception import Boxes2D
from multimodal_perception.runtime.engine import Engine

# Boxes (N, 4) in pixels of the view, scores (N,) and labels (N,) of a network.
Candidates = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]


class BoxNetwork(Protocol):
    """Inputs and outputs of a network that detects objects in one image."""

    engine: Engine
    class_names: tuple[str, ...]

    def build_inputs(self, frame: SensorFrame, name: str) -> Mapping[str, NDArray[Any]] | None:
        """Inputs for the image of one sensor; None if the frame has no usable image of it."""
        ...

    def decode_outputs(self, outputs: Outputs, frame: SensorFrame, name: str) -> Candidates:
        """Boxes above the minimum score in pixels of the image, before suppression."""
        ...


def detect_boxes(
    network: BoxNetwork,
    frame: SensorFrame,
    names: Sequence[str],
    config: ImageDetectorConfig,
    counts: Counter[str],
) -> dict[str, Boxes2D]:
    """Boxes of the images of some sensors, by sensor, highest score first.

    All images and tiles of the frame are run together, so that they can share batches. An image whose
    runs fail has no entry and is counted in counts as `sensor.engine`.
    """
    runs: list[tuple[str, Region, SensorFrame, Mapping[str, NDArray[Any]]]] = []
    for name in names:
        model = frame.intrinsics[name]
        for region in tile_regions(model.width, model.height, config.tiles, config.tile_overlap):
            view = crop_frame(frame, name, region)
            inputs = network.build_inputs(view, name)
            if inputs is None:
                break
            runs.append((name, region, view, inputs))
    outputs = run_images(network.engine, [inputs for *_, inputs in runs])
    parts: dict[str, list[Candidates]] = {}
    failed: set[str] = set()
    for (name, region, view, _), results in zip(runs, outputs, strict=True):
        if results is None:
            failed.add(name)
            continue
        boxes, scores, labels = network.decode_outputs(results, view, name)
        boxes = boxes + np.array([region.left, region.top] * 2, np.float32)
        model = frame.intrinsics[name]
        complete = is_complete(boxes, region, model.width, model.height)
        parts.setdefault(name, []).append((boxes[complete], scores[complete], labels[complete]))
    for name in sorted(failed):
        counts[f"{name}.engine"] += 1
    return {
        name: _merge(network, frame, name, parts[name], config) for name in names if name in parts
    }


def _merge(
    network: BoxNetwork,
    frame: SensorFrame,
    name: str,
    parts: Sequence[Candidates],
    config: ImageDetectorConfig,
) -> Boxes2D:
    """Boxes of an image and its tiles after suppression, clipped to the image."""
    model = frame.intrinsics[name]
    boxes, scores, labels = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    boxes = np.clip(boxes, 0.0, np.array([model.width, model.height] * 2, np.float32))
    large = np.flatnonzero((boxes[:, 2:] - boxes[:, :2] >= 1.0).all(axis=1))
    boxes, scores, labels = boxes[large], scores[large], labels[large]
    kept = suppress(
        boxes, scores, labels, network.class_names, config.nms_iou, config.nms_containment
    )
    readings = frame.readings
    stamp_ns = readings[name].stamp_ns if name in readings else frame.stamp_ns
    return Boxes2D(
        name,
        stamp_ns,
        boxes[kept].astype(np.float32),
        scores[kept].astype(np.float32),
        labels[kept].astype(np.int64),
        network.class_names,
        (model.width, model.height),
    )
