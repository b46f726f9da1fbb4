"""Fused visible and thermal images as messages, one topic a camera."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from multimodal_perception.frame import CameraImage, Modality
from multimodal_perception.messages import encoders, message_types
from multimodal_perception.rig import Rig

PREFIX = "perception/fused"


def fused_topics(rig: Rig) -> dict[str, str]:
    """Topics of fused images, and the message on each, by the rig's cameras.

    None where the rig has no thermal camera that could be a camera's partner.
    """
    if not rig.of(Modality.THERMAL):
        return {}
    topics = [f"{PREFIX}/{name}" for name in rig.of(Modality.CAMERA)]
    return dict.fromkeys(topics, "sensor_msgs/msg/Image")


def fused_messages(
    types: message_types.MessageTypes, rig: Rig, images: Mapping[str, CameraImage]
) -> Iterator[tuple[str, Any]]:
    """Topic and message of each image, in the camera's frame though the camera itself is silent."""
    for name, image in images.items():
        placed = replace(image, frame_id=image.frame_id or rig.sensors[name].frame_id)
        yield f"{PREFIX}/{name}", encoders.image_to_message(types, placed)
