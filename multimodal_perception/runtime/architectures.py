"""Which code a card's architecture means: an allow-list, as a card is a file like any other.

build: module:function of `function(settings) -> torch.nn.Module`, whose forward takes the card's
inputs in their order and returns its outputs in theirs (a tensor or a tuple).
frame_inputs: module:function of `function(card) -> Callable[[SensorFrame], dict[str, array]]`, what
calibration feeds the network from recorded frames; the callable may raise UserError for a frame.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from multimodal_perception.configuration import UserError
from multimodal_perception.runtime.card import ModelCard


@dataclass(frozen=True)
class Architecture:
    """Where an architecture's functions are, as module:function; see above."""

    build: str
    frame_inputs: str = ""


ARCHITECTURES: dict[str, Architecture] = {
    "twinlitenet": Architecture("multimodal_perception.networks.twinlitenet:build"),
    "detector_image": Architecture(
        "multimodal_perception.networks.fusion_detector:build_image",
        "multimodal_perception.detection.fusion.network_inputs:image_inputs",
    ),
    "detector_proposals": Architecture(
        "multimodal_perception.networks.fusion_detector:build_proposals"
    ),
    "detector_refinement": Architecture(
        "multimodal_perception.networks.fusion_detector:build_refinement"
    ),
    "moe_fusion": Architecture(
        "multimodal_perception.networks.moe_fusion:build",
        "multimodal_perception.image_fusion.stage:frame_inputs",
    ),
    "near_field": Architecture(
        "multimodal_perception.networks.near_field:build_near_field",
        "multimodal_perception.near_field.network_inputs:frame_inputs",
    ),
    "rgbir_detection": Architecture(
        "multimodal_perception.networks.rgb_thermal_detection:build",
        "multimodal_perception.segmentation.rgb_thermal:frame_inputs",
    ),
    "rgbx_segmentation": Architecture(
        "multimodal_perception.networks.rgb_thermal_segmentation:build",
        "multimodal_perception.segmentation.rgb_thermal:frame_inputs",
    ),
}


def resolve(card: ModelCard, what: str) -> Callable[..., Any]:
    """The function `build` or `frame_inputs` of a card's architecture. Raises UserError."""
    known = ARCHITECTURES.get(card.architecture)
    if known is None:
        allowed = ", ".join(sorted(ARCHITECTURES)) or "none"
        raise UserError(
            f"{card.source}: architecture: {card.architecture!r} is unknown; allowed: {allowed}"
        )
    reference = getattr(known, what)
    if not reference:
        raise UserError(f"{card.source}: architecture: {card.architecture} has no {what}")
    module, _, function = reference.partition(":")
    return getattr(importlib.import_module(module), function)
