"""The functions of each architecture that a card may name.

This is an allow-list, because a card is an untrusted file and must not select code to import.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from multimodal_perception.configuration import UserError
from multimodal_perception.runtime.card import ModelCard


@dataclass(frozen=True)
class Architecture:
    """References "module:function" to an architecture's functions.

    build: `function(settings) -> torch.nn.Module`. The module's forward takes the card's inputs and
    returns its outputs (a tensor or a tuple), both in the card's order.
    frame_inputs: `function(card) -> Callable[[SensorFrame], dict[str, array]]`. The callable makes the
    network's inputs from a recorded frame for calibration, and may raise UserError. Empty if the
    architecture has none.
    """

    build: str
    frame_inputs: str = ""


ARCHITECTURES: dict[str, Architecture] = {
    "twinlitenet": Architecture("multimodal_perception.networks.twinlitenet:build"),
    "bev_fusion": Architecture(
        "multimodal_perception.networks.bev_fusion:build_stage1",
        "multimodal_perception.detection.bev_fusion.recorded_inputs:frame_inputs",
    ),
    "bev_fusion_image": Architecture(
        "multimodal_perception.networks.bev_fusion:build_image",
        "multimodal_perception.detection.bev_fusion.frame_images:frame_inputs",
    ),
    "bev_fusion_refinement": Architecture(
        "multimodal_perception.networks.bev_fusion_refinement:build_refinement",
        "multimodal_perception.detection.bev_fusion.recorded_inputs:frame_inputs",
    ),
    "moe_fusion": Architecture(
        "multimodal_perception.networks.moe_fusion:build",
        "multimodal_perception.image_fusion.stage:frame_inputs",
    ),
    "near_field": Architecture(
        "multimodal_perception.networks.near_field:build_near_field",
        "multimodal_perception.near_field.network_inputs:frame_inputs",
    ),
    "rgb_thermal_detection": Architecture(
        "multimodal_perception.networks.rgb_thermal_detection:build",
        "multimodal_perception.images.rgb_thermal_inputs:frame_inputs",
    ),
    "rgb_thermal_segmentation": Architecture(
        "multimodal_perception.networks.rgb_thermal_segmentation:build",
        "multimodal_perception.images.rgb_thermal_inputs:frame_inputs",
    ),
    "sensor_opinions": Architecture(
        "multimodal_perception.networks.sensor_opinions:build_sensor_opinions",
    ),
}


def resolve(card: ModelCard, name: Literal["build", "frame_inputs"]) -> Callable[..., Any]:
    """Import a function of a card's architecture. Raises UserError if there is none."""
    architecture = ARCHITECTURES.get(card.architecture)
    if architecture is None:
        allowed = ", ".join(sorted(ARCHITECTURES))
        raise UserError(
            f"{card.source}: architecture: unknown value {card.architecture!r}; allowed: {allowed}"
        )
    reference = getattr(architecture, name)
    if not reference:
        raise UserError(f"{card.source}: architecture: {card.architecture} has no function {name}")
    module, _, function = reference.partition(":")
    return getattr(importlib.import_module(module), function)
