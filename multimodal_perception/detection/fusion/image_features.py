"""Feature maps of all images of a frame from the image networks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.detection.bev_fusion.image_view import ImageView
from multimodal_perception.detection.fusion.network_inputs import FEATURE_STRIDE, ImageViews
from multimodal_perception.runtime.card import TensorSpec
from multimodal_perception.runtime.engine import Arrays, EngineError, run_many


class Network(Protocol):
    """Runs one network: arrays by tensor name in, arrays by tensor name out.

    A network may also have a method run_many, see runtime.engine.run_many.
    """

    @property
    def inputs(self) -> Mapping[str, TensorSpec]: ...

    @property
    def device(self) -> str: ...

    def run(self, arrays: Arrays) -> dict[str, NDArray[Any]]:
        """Raises EngineError if no engine can run the network."""
        ...


# Called for an image that could not be processed, with its modality and the error.
ReportFailure = Callable[[str, EngineError], None]


def run_image_networks(
    networks: Mapping[str, Network],
    views: ImageViews,
    pixels: Arrays,
    channels: int,
    report: ReportFailure,
) -> tuple[ImageViews, dict[str, NDArray[np.float32]]]:
    """Views of the processed images, and the stacked feature maps by tensor name.

    networks: by modality. The images of one modality run in parallel if the engine can. Feature maps
    (1, channels, N * H/4, W/4) are zero for missing images. An image whose network fails counts as
    missing.
    """
    processed: dict[str, list[ImageView | None]] = {}
    feature_maps = {}
    for modality, images in (("camera", views.cameras), ("thermal", views.thermals)):
        height, width = (n // FEATURE_STRIDE for n in pixels[f"{modality}s"].shape[1:3])
        stacked = np.zeros((1, channels, len(images), height, width), np.float32)
        processed[modality] = [None] * len(images)
        present = [k for k, view in enumerate(images) if view is not None]
        inputs = [{"pixels": pixels[f"{modality}s"][k : k + 1]} for k in present]
        if inputs:
            outputs = _outputs(networks[modality], inputs, modality, report)
            for k, output in zip(present, outputs, strict=True):
                if output is not None:
                    stacked[:, :, k], processed[modality][k] = output["features"], images[k]
        feature_maps[f"{modality}_feature_map"] = stacked.reshape(1, channels, -1, width)
    views = dataclasses.replace(views, cameras=processed["camera"], thermals=processed["thermal"])
    return views, feature_maps


def _outputs(
    network: Network, inputs: Sequence[Arrays], modality: str, report: ReportFailure
) -> list[dict[str, NDArray[Any]] | None]:
    """Outputs of a network for each input; None where no engine can run it."""
    try:
        return list(run_many(network, inputs))
    except EngineError as error:
        if len(inputs) > 1:  # one image that cannot be processed must not remove the others
            return [_outputs(network, [arrays], modality, report)[0] for arrays in inputs]
        report(modality, error)
        return [None]
