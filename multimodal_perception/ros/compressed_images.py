"""Compressed copies of images, on the topics and in the format of image_transport."""

from __future__ import annotations

import array
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import cv2
import numpy as np

from multimodal_perception.frame import CameraImage
from multimodal_perception.messages import encoders
from multimodal_perception.messages.message_types import MessageTypes

COMPRESSED = "/compressed"
IMAGE_TYPE = "sensor_msgs/msg/Image"
COMPRESSED_TYPE = "sensor_msgs/msg/CompressedImage"
JPEG_QUALITY = 80


def with_compressed(topics: Mapping[str, str]) -> dict[str, str]:
    """The topics and types, with TOPIC/compressed for each topic of images."""
    images = [topic for topic, name in topics.items() if name == IMAGE_TYPE]
    return {**topics, **{f"{topic}{COMPRESSED}": COMPRESSED_TYPE for topic in images}}


def image_messages(
    types: MessageTypes, topic: str, image: CameraImage, has_subscribers: Callable[[str], bool]
) -> Iterator[tuple[str, Any]]:
    """Topic and message of an image (rgb8 or mono8), raw and compressed, where there are subscribers."""
    if has_subscribers(topic):
        yield topic, encoders.image_to_message(types, image)
    if has_subscribers(topic + COMPRESSED):
        yield topic + COMPRESSED, compressed_message(types, image)


def compressed_message(types: MessageTypes, image: CameraImage) -> Any:
    """CompressedImage: rgb8 as JPEG, mono8 as PNG, because JPEG changes the labels of masks.

    The format is written as compressed_image_transport writes it.
    """
    if image.encoding == "mono8":
        encoded, text = cv2.imencode(".png", image.pixels)[1], "mono8; png compressed "
    else:
        bgr = np.ascontiguousarray(image.pixels[..., ::-1])
        encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
        text = "rgb8; jpeg compressed bgr8"
    return types.new(
        "sensor_msgs/msg/CompressedImage",
        header=encoders.make_header(types, image.stamp_ns, image.frame_id),
        format=text,
        data=array.array("B", encoded.tobytes()),
    )
