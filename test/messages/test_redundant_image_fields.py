"""Redundant fields of sensor_msgs/Image: step; 16-bit colours and planar encodings."""

from __future__ import annotations

import array
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from multimodal_perception.messages.errors import MessageError
from multimodal_perception.messages.images import image_from_message, pixels_from_message

RNG = np.random.default_rng(7)


def reason_of(decoder: Any, *arguments: Any, **options: Any) -> str:
    with pytest.raises(MessageError) as caught:
        decoder(*arguments, **options)
    return caught.value.reason


def raw_image(pixels: np.ndarray, encoding: str, **changes: Any) -> Image:
    data = np.ascontiguousarray(pixels)
    values = {
        "header": Header(frame_id="f"),
        "height": pixels.shape[0],
        "width": pixels.shape[1],
        "encoding": encoding,
        "step": data.nbytes // pixels.shape[0],
        "data": array.array("B", data.tobytes()),
    }
    return Image(**{**values, **changes})


@pytest.mark.parametrize("step", [0, 1, 14, 16, 4096])
@pytest.mark.parametrize(("encoding", "shape"), [("rgb8", (1, 5, 3)), ("mono16", (1, 7))])
def test_step_of_a_single_row_is_redundant(step: int, encoding: str, shape: Any) -> None:
    dtype = np.uint16 if encoding == "mono16" else np.uint8
    pixels = RNG.integers(0, 255, shape).astype(dtype)
    assert_array_equal(pixels_from_message(raw_image(pixels, encoding, step=step)), pixels)


@pytest.mark.parametrize("encoding", ["rgb16", "bgr16", "rgba16", "bgra16"])
def test_16_bit_colour_encodings(encoding: str) -> None:
    order = [encoding[:3].index(c) for c in "rgb"]
    pixels = np.zeros((4, 5, len(encoding) - 2), np.uint16)
    for channel, value in zip(order, (51, 102, 204), strict=True):
        pixels[..., channel] = value * 257
    image = image_from_message(raw_image(pixels, encoding), "c", 0)
    assert_array_equal(image.rgb(), np.broadcast_to((51, 102, 204), (4, 5, 3)))


@pytest.mark.parametrize("encoding", ["nv12", "nv21"])
def test_planar_yuv_is_decoded(encoding: str) -> None:
    yuv = np.full((6, 4), 128, np.uint8)
    yuv[:4] = 126
    image = image_from_message(raw_image(yuv, encoding, height=4), "c", 0)
    assert image.pixels.shape == (4, 4, 3)
    np.testing.assert_allclose(image.rgb(), 128, atol=1)
    assert reason_of(image_from_message, raw_image(yuv, encoding), "c", 0) == "truncated"
