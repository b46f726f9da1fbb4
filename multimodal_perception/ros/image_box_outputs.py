"""Boxes in images as messages: Detection2DArray by camera."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from multimodal_perception.frame import Modality, SensorFrame
from multimodal_perception.messages import encoders, message_types
from multimodal_perception.perception import Boxes2D
from multimodal_perception.pipeline import PipelineConfig
from multimodal_perception.rig import Rig

PREFIX = "perception/boxes2d"


def image_box_topics(rig: Rig, config: PipelineConfig) -> dict[str, str]:
    """Topics of the rig's images and the message on each; none where no image detector runs."""
    if config.image_detector == "none":
        return {}
    names = [*rig.of(Modality.CAMERA), *rig.of(Modality.THERMAL)]
    topics = [f"{PREFIX}/{name}" for name in names]
    return dict.fromkeys(topics, "vision_msgs/msg/Detection2DArray")


def image_box_messages(
    types: message_types.MessageTypes, frame: SensorFrame, found: Mapping[str, Boxes2D]
) -> Iterator[tuple[str, Any]]:
    """Topic and message of each image's boxes, with its stamp and frame."""
    for name, boxes in found.items():
        frame_id = frame.readings[name].frame_id
        yield f"{PREFIX}/{name}", encoders.image_boxes_to_message(types, boxes, frame_id)
