"""Segmentation masks as messages: labels (mono8) and a picture of them over the image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from multimodal_perception.frame import CameraImage, Modality, SensorFrame
from multimodal_perception.messages import encoders, message_types
from multimodal_perception.perception import SegmentationMask
from multimodal_perception.rig import Rig
from multimodal_perception.visualization.segmentation_view import draw_segmentation

PREFIX = "perception/segmentation"


def mask_topics(rig: Rig) -> dict[str, str]:
    """Topics of masks and of their pictures, and the message on each, by the rig's images."""
    names = [*rig.of(Modality.CAMERA), *rig.of(Modality.THERMAL)]
    topics = [f"{PREFIX}/{name}{ending}" for name in names for ending in ("", "/colour")]
    return dict.fromkeys(topics, "sensor_msgs/msg/Image")


def mask_messages(
    types: message_types.MessageTypes,
    frame: SensorFrame,
    masks: Mapping[str, SegmentationMask],
    is_heard: Callable[[str], bool],
) -> Iterator[tuple[str, Any]]:
    """Topic and message of each mask, and of its picture where somebody listens to it."""
    for name, mask in masks.items():
        frame_id = frame.readings[name].frame_id
        topic = f"{PREFIX}/{name}"
        image = CameraImage(name, mask.stamp_ns, frame_id, mask.labels, "mono8")
        yield topic, encoders.image_to_message(types, image)
        if is_heard(f"{topic}/colour"):
            drawn = draw_segmentation(frame, mask)
            image = CameraImage(name, mask.stamp_ns, frame_id, drawn, "rgb8")
            yield f"{topic}/colour", encoders.image_to_message(types, image)
