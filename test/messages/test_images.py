"""Image decoding, compared with the pixels that were written."""

from __future__ import annotations

import array
import random
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from multimodal_perception.messages.errors import MessageError
from multimodal_perception.messages.images import (
    image_from_message,
    pixels_from_message,
)
from multimodal_perception.messages.thermal import thermal_from_message

FORMATS = {
    "mono8": ("u1", 1),
    "mono16": ("u2", 1),
    "rgb8": ("u1", 3),
    "bgr8": ("u1", 3),
    "rgba8": ("u1", 4),
    "bgra8": ("u1", 4),
    "bayer_rggb8": ("u1", 1),
    "bayer_bggr8": ("u1", 1),
    "bayer_gbrg8": ("u1", 1),
    "bayer_grbg8": ("u1", 1),
    "16UC1": ("u2", 1),
    "32FC1": ("f4", 1),
}
DECODERS = (image_from_message, thermal_from_message)


def make_image(pixels, encoding, big=False, padding=0):
    """An Image with pixels (H, W) or (H, W, C), each row followed by padding bytes of 0xAB."""
    pixels = np.asarray(pixels)
    ordered = pixels.astype(pixels.dtype.newbyteorder(">" if big else "<"))
    rows = np.frombuffer(ordered.tobytes(), np.uint8).reshape(pixels.shape[0], -1)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=0xAB)
    return Image(
        header=Header(frame_id="front_optical"),
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding=encoding,
        is_bigendian=int(big),
        step=rows.shape[1],
        data=array.array("B", rows.tobytes()),
    )


def random_pixels(seed, height, width, code, channels=1):
    rng = np.random.default_rng(seed)
    shape = (height, width) if channels == 1 else (height, width, channels)
    if code == "f4":
        return rng.uniform(200, 600, shape).astype(np.float32)
    return rng.integers(0, 2 ** (8 * int(code[1])), shape).astype(code)


def reason_of(decoder, msg, *arguments):
    with pytest.raises(MessageError) as caught:
        decoder(msg, *arguments)
    return caught.value.reason


@st.composite
def raw_images(draw, encodings=tuple(FORMATS), smallest=1):
    encoding = draw(st.sampled_from(encodings))
    code, channels = FORMATS[encoding]
    height, width = draw(st.integers(smallest, 9)), draw(st.integers(smallest, 9))
    pixels = random_pixels(draw(st.integers(0, 2**32)), height, width, code, channels)
    big = draw(st.booleans())
    padding = draw(st.integers(0, 3)) * int(code[1])
    return pixels, encoding, make_image(pixels, encoding, big, padding)


@settings(max_examples=200)
@given(raw_images())
def test_pixels_round_trip(image):
    pixels, _, msg = image
    decoded = pixels_from_message(msg)
    assert decoded.dtype == pixels.dtype and decoded.dtype.isnative
    np.testing.assert_array_equal(decoded, pixels)


@pytest.mark.parametrize("encoding", sorted(FORMATS))
@pytest.mark.parametrize("padding", [0, 4])
def test_pixels_are_a_view_of_the_message(encoding, padding):
    msg = make_image(random_pixels(0, 3, 5, *FORMATS[encoding]), encoding, padding=padding)
    assert np.shares_memory(pixels_from_message(msg), np.frombuffer(msg.data, np.uint8))


@pytest.mark.parametrize("encoding", ["mono8", "rgb8", "bgr8"])
@pytest.mark.parametrize("make", [bytes, lambda d: np.frombuffer(bytes(d), np.uint8)])
def test_other_message_classes_decode_without_a_copy(encoding, make):
    pixels = random_pixels(0, 4, 6, *FORMATS[encoding])
    msg = make_image(pixels, encoding, padding=2)
    names = ("header", "height", "width", "encoding", "is_bigendian", "step")
    other = SimpleNamespace(**{n: getattr(msg, n) for n in names}, data=make(msg.data))
    image = image_from_message(other, "front", 5)
    np.testing.assert_array_equal(image.pixels, pixels)
    assert np.shares_memory(image.pixels, np.frombuffer(other.data, np.uint8))


@settings(max_examples=150)
@given(raw_images(("mono8", "rgb8", "bgr8", "rgba8", "bgra8")))
def test_colour_images_are_decoded_to_rgb_order(image):
    pixels, encoding, msg = image
    expected = {
        "mono8": lambda p: np.stack([p] * 3, axis=-1),
        "rgb8": lambda p: p,
        "bgr8": lambda p: p[..., ::-1],
        "rgba8": lambda p: p[..., :3],
        "bgra8": lambda p: p[..., 2::-1],
    }[encoding](pixels)
    decoded = image_from_message(msg, "front", 5)
    np.testing.assert_array_equal(decoded.rgb(), expected)
    assert (decoded.sensor, decoded.stamp_ns, decoded.frame_id) == ("front", 5, "front_optical")


@pytest.mark.parametrize(("encoding", "same"), [("8UC1", "mono8"), ("8UC3", "bgr8")])
def test_opencv_type_encodings_use_bgr_order(encoding, same):
    pixels = random_pixels(1, 3, 4, *FORMATS[same])
    got, expected = (image_from_message(make_image(pixels, e), "c", 0) for e in (encoding, same))
    assert got.encoding == expected.encoding
    np.testing.assert_array_equal(got.pixels, expected.pixels)


@settings(max_examples=100)
@given(raw_images(("mono16", "16UC1")))
def test_16_bit_images_are_scaled_to_8_bits(image):
    pixels, _, msg = image
    decoded = image_from_message(msg, "front", 0)
    assert decoded.encoding == "mono8"
    np.testing.assert_array_equal(decoded.pixels, np.rint(pixels / 257.0))


@settings(max_examples=150)
@given(raw_images(("bayer_rggb8", "bayer_bggr8", "bayer_gbrg8", "bayer_grbg8"), smallest=3))
def test_bayer_decoding_keeps_measured_colours(image):
    pixels, encoding, msg = image
    rgb = image_from_message(msg, "front", 0).rgb()
    assert rgb.shape == (*pixels.shape, 3)
    pattern = encoding[len("bayer_") : -1]
    for row in range(1, pixels.shape[0] - 1):
        for column in range(1, pixels.shape[1] - 1):
            channel = "rgb".index(pattern[2 * (row % 2) + column % 2])
            assert rgb[row, column, channel] == pixels[row, column]


@pytest.mark.parametrize("encoding", [e for e in FORMATS if e.startswith("bayer")])
@pytest.mark.parametrize("size", [(2, 2), (2, 3), (3, 2), (2, 8), (8, 2), (3, 3), (4, 6), (5, 7)])
def test_uniform_bayer_image_keeps_its_colour_or_raises_error(encoding, size):
    colour = {"r": 200, "g": 120, "b": 40}
    pattern = encoding[len("bayer_") : -1]
    tile = np.array([colour[c] for c in pattern], np.uint8).reshape(2, 2)
    pixels = np.tile(tile, (4, 4))[: size[0], : size[1]]
    try:
        rgb = image_from_message(make_image(pixels, encoding), "front", 0).rgb()
    except MessageError:
        assert min(size) < 3, "large enough to be decoded"
    else:
        np.testing.assert_array_equal(rgb, np.broadcast_to([200, 120, 40], rgb.shape))


@pytest.mark.parametrize("size", [(1, 4), (4, 1), (1, 1)])
def test_bayer_image_of_one_line_raises_error(size):
    msg = make_image(np.zeros(size, np.uint8), "bayer_rggb8")
    assert reason_of(image_from_message, msg, "front", 0) == "zero_size"


def test_yuv_byte_orders_agree():
    luma = np.random.default_rng(0).integers(16, 236, (4, 6), dtype=np.uint8)
    chroma = np.random.default_rng(1).integers(16, 241, (4, 6), dtype=np.uint8)
    decoded = [
        image_from_message(make_image(np.stack(pair, axis=-1), encoding), "front", 0).rgb()
        for encoding, pair in (
            ("uyvy", (chroma, luma)),
            ("yuv422", (chroma, luma)),
            ("yuyv", (luma, chroma)),
            ("yuv422_yuy2", (luma, chroma)),
        )
    ]
    for other in decoded[1:]:
        np.testing.assert_array_equal(other, decoded[0])


@pytest.mark.parametrize(("luma", "grey"), [(16, 0), (235, 255), (126, 128)])
def test_yuv_without_chroma_is_grey(luma, grey):
    pixels = np.tile(np.array([128, luma], np.uint8), (2, 4, 1))
    rgb = image_from_message(make_image(pixels, "uyvy"), "front", 0).rgb()
    np.testing.assert_allclose(rgb, grey, atol=1)


def test_yuv_with_odd_width_raises_error():
    msg = make_image(np.zeros((4, 3, 2), np.uint8), "uyvy")
    assert reason_of(image_from_message, msg, "front", 0) == "bad_step"


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(
    ("reason", "changes"),
    [
        ("zero_size", {"width": 0}),
        ("zero_size", {"height": 0}),
        ("unknown_encoding", {"encoding": ""}),
        ("unknown_encoding", {"encoding": "RGB8"}),
        ("unknown_encoding", {"encoding": "rgb8; jpeg compressed"}),
        ("unknown_encoding", {"encoding": "x" * 10_000}),
        ("bad_step", {"step": 14}),
        ("bad_step", {"step": 0}),
        ("bad_step", {"encoding": "bgra8"}),
        ("bad_step", {"width": 2**32 - 1}),
        ("truncated", {"data": array.array("B", bytes(59))}),
        ("truncated", {"data": array.array("B")}),
        ("truncated", {"height": 5}),
        ("truncated", {"height": 2**32 - 1, "step": 2**32 - 1}),
        ("oversized", {"data": array.array("B", bytes(61))}),
        ("oversized", {"height": 3}),
    ],
)
def test_invalid_image_raises_error_with_reason(decoder, reason, changes):
    msg = make_image(np.zeros((4, 5, 3), np.uint8), "rgb8")
    for name, value in changes.items():
        setattr(msg, name, value)
    assert reason_of(decoder, msg, "front", 0) == reason


def test_step_not_divisible_by_item_size_raises_error():
    msg = make_image(np.zeros((2, 3), np.uint16), "mono16", padding=1)
    assert reason_of(pixels_from_message, msg) == "bad_step"


def test_unknown_encoding_error_is_short_and_names_known_encodings():
    msg = make_image(np.zeros((1, 1), np.uint8), "y" * 10_000)
    with pytest.raises(MessageError, match="bayer_rggb8") as caught:
        image_from_message(msg, "front", 0)
    assert len(str(caught.value)) < 500


def test_depth_map_raises_error():
    msg = make_image(np.ones((2, 2), np.float32), "32FC1")
    assert reason_of(image_from_message, msg, "front", 0) == "not_a_picture"


@settings(max_examples=100)
@given(raw_images(("mono8", "mono16", "16UC1")))
def test_thermal_image_keeps_counts(image):
    pixels, _, msg = image
    decoded = thermal_from_message(msg, "ir", 9, (0.04, 10.0))
    assert decoded.pixels.dtype == pixels.dtype
    # The scale is for 16-bit counts: 8-bit images would be at 10 to 20 K.
    assert decoded.counts_to_kelvin == (None if pixels.dtype == np.uint8 else (0.04, 10.0))
    np.testing.assert_array_equal(decoded.pixels, pixels)
    assert (decoded.sensor, decoded.stamp_ns, decoded.frame_id) == ("ir", 9, "front_optical")


@settings(max_examples=50)
@given(raw_images(("32FC1",)))
def test_thermal_image_in_kelvin_keeps_hundredths(image):
    pixels, _, msg = image
    decoded = thermal_from_message(msg, "ir", 0)
    scale, offset = decoded.counts_to_kelvin
    np.testing.assert_allclose(decoded.pixels * scale + offset, pixels, atol=0.0051)


def test_invalid_temperatures_are_clipped():
    pixels = np.array([[np.nan, np.inf, -np.inf, -3.0, 1e30, 300.0]], np.float32)
    decoded = thermal_from_message(make_image(pixels, "32FC1"), "ir", 0)
    np.testing.assert_array_equal(decoded.pixels, [[0, 65535, 0, 0, 65535, 30000]])


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "rgba8", "bgra8"])
def test_colour_thermal_image_is_converted_to_grey(encoding):
    pixels = np.full((3, 4, FORMATS[encoding][1]), 77, np.uint8)
    np.testing.assert_array_equal(
        thermal_from_message(make_image(pixels, encoding), "ir", 0).pixels, np.full((3, 4), 77)
    )


def test_grey_conversion_respects_channel_order():
    red = np.zeros((3, 4, 3), np.uint8)
    red[..., 0] = 255
    for pixels, encoding in ((red, "rgb8"), (red[..., ::-1], "bgr8")):
        decoded = thermal_from_message(make_image(pixels, encoding), "ir", 0).pixels
        np.testing.assert_allclose(decoded, 0.299 * 255, atol=1)


def outcome(decoder, *arguments):
    try:
        decoder(*arguments)
    except MessageError:
        return "refused"
    return "decoded"


def test_mutated_images_raise_only_message_errors():
    rng = random.Random(2)
    encodings = (*FORMATS, "uyvy", "yuyv", "8UC1", "8UC3", "8UC4", "jpeg", "", "mono8\0")
    outcomes = {"decoded": 0, "refused": 0}
    for i in range(100_000):
        encoding = rng.choice(tuple(FORMATS))
        pixels = random_pixels(i, rng.randint(1, 5), rng.randint(1, 5), *FORMATS[encoding])
        msg = make_image(pixels, encoding, big=rng.random() < 0.3)
        for _ in range(rng.randint(0, 2)):
            name = rng.choice(("height", "width", "step", "encoding", "is_bigendian", "data"))
            if name == "encoding":
                msg.encoding = rng.choice(encodings)
            elif name == "data":
                msg.data = array.array("B", rng.randbytes(rng.randrange(120)))
            elif name == "is_bigendian":
                msg.is_bigendian = rng.randrange(256)
            else:
                setattr(msg, name, rng.choice((0, 1, 2, 3, 4, 8, 12, 2**31, 2**32 - 1)))
        for decoder in DECODERS:
            outcomes[outcome(decoder, msg, "c", 0)] += 1
    assert min(outcomes.values()) > 300
