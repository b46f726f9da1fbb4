"""Boxes in images as messages: Detection2DArray by camera."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from multimodal_perception.frame import Boxes2D, Modality, SensorFrame
from multimodal_perception.pipeline import PipelineConfig
from multimodal_perception.rig import Rig
from multimodal_perception.ros import messages

PREFIX = "perception/boxes2d"


def image_box_topics(rig: Rig, config: PipelineConfig) -> dict[str, str]:
    """Topics of the rig's images and the message on each; none where no image detector runs."""
    if config.image_detector == "none":
        return {}
    names = [*rig.of(Modality.CAMERA), *rig.of(Modality.INFRARED)]
    topics = [f"{PREFIX}/{name}" for name in names]
    return dict.fromkeys(topics, "vision_msgs/msg/Detection2DArray")


def image_box_messages(
    types: messages.MessageTypes, frame: SensorFrame, found: Mapping[str, Boxes2D]
) -> Iterator[tuple[str, Any]]:
    """Topic and message of each image's boxes, with its stamp and frame."""
    for name, boxes in found.items():
        frame_id = frame.readings[name].frame_id
        yield f"{PREFIX}/{name}", messages.image_boxes_to_message(types, boxes, frame_id)
