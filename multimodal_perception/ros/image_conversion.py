"""Conversion of images by cv_bridge, for encodings that this package does not decode itself."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.messages.errors import MessageError

log = logging.getLogger(__name__)
COLOUR = "bgr8"
# Encodings of single-channel images by dtype.
SINGLE_CHANNEL = {
    "uint8": "8UC1",
    "uint16": "16UC1",
    "int16": "16SC1",
    "float32": "32FC1",
    "float64": "64FC1",
}


@dataclass(frozen=True)
class ConvertedImage:
    """A converted image with the attributes of sensor_msgs/Image."""

    header: Any
    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    data: NDArray[np.uint8]


def image_converter() -> Callable[[Any], ConvertedImage] | None:
    """The conversion by cv_bridge; None if it is not installed or cannot be imported."""
    try:
        from cv_bridge import CvBridge

        bridge = CvBridge()
    except ModuleNotFoundError:
        return None
    except Exception as error:  # a version that was built for another numpy or OpenCV
        log.warning("cv_bridge cannot be used: %s", str(error).partition("\n")[0])
        return None
    return lambda msg: convert(msg, bridge)


def convert(msg: Any, bridge: Any) -> ConvertedImage:
    """Convert a sensor_msgs/Image: to bgr8 if cv_bridge can, otherwise one channel keeps its values.

    bridge: a cv_bridge.CvBridge. Raises MessageError with reason unknown_encoding.
    """
    try:
        pixels, encoding = np.asarray(bridge.imgmsg_to_cv2(msg, COLOUR)), COLOUR
    except Exception as error:  # cv_bridge raises errors of several types
        pixels, encoding = _single_channel(msg, bridge, error)
    pixels = np.ascontiguousarray(pixels)
    height, width = pixels.shape[:2]
    data = pixels.reshape(-1).view(np.uint8)
    step = pixels.nbytes // max(height, 1)
    return ConvertedImage(msg.header, height, width, encoding, 0, step, data)


def _single_channel(msg: Any, bridge: Any, refusal: Exception) -> tuple[NDArray[Any], str]:
    """Values and encoding of an image that cv_bridge does not convert to colours."""
    try:
        pixels = np.asarray(bridge.imgmsg_to_cv2(msg, "passthrough"))
    except Exception as error:
        raise _unknown(msg, error) from error
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    encoding = SINGLE_CHANNEL.get(pixels.dtype.name)
    if pixels.ndim != 2 or encoding is None:
        raise _unknown(msg, refusal)
    return pixels.astype(pixels.dtype.newbyteorder("<"), copy=False), encoding


def _unknown(msg: Any, error: Exception) -> MessageError:
    reason = " ".join(str(error).split())[:200]
    return MessageError("unknown_encoding", f"{str(msg.encoding)[:40]!r}; cv_bridge: {reason}")
