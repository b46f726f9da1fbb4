"""Image, CompressedImage and CameraInfo decoding, checked against the pixels that were written."""

from __future__ import annotations

import array
import io
import math
import random
import struct
import zlib
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PillowImage
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, RegionOfInterest
from std_msgs.msg import Header

from multimodal_perception.messages import images
from multimodal_perception.messages.errors import MessageError
from multimodal_perception.messages.images import (
    camera_model_from_message,
    image_from_message,
    pixels_from_message,
    thermal_from_message,
)

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
    """An Image holding pixels (H, W) or (H, W, C), each row followed by padding bytes of 0xAB."""
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


def make_compressed(data, name="jpeg"):
    return CompressedImage(
        header=Header(frame_id="front_optical"), format=name, data=array.array("B", bytes(data))
    )


def encoded(pixels, suffix):
    return cv2.imencode(suffix, pixels)[1].tobytes()


def random_pixels(seed, height, width, code, channels=1):
    rng = np.random.default_rng(seed)
    shape = (height, width) if channels == 1 else (height, width, channels)
    if code == "f4":
        return rng.uniform(0, 600, shape).astype(np.float32)
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
def test_pixels_are_what_was_written(image):
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
def test_colours_come_out_red_first(image):
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
def test_plain_opencv_types_are_taken_as_opencv_orders_them(encoding, same):
    pixels = random_pixels(1, 3, 4, *FORMATS[same])
    got, expected = (image_from_message(make_image(pixels, e), "c", 0) for e in (encoding, same))
    assert got.encoding == expected.encoding
    np.testing.assert_array_equal(got.pixels, expected.pixels)


@settings(max_examples=100)
@given(raw_images(("mono16", "16UC1")))
def test_sixteen_bits_are_scaled_to_eight(image):
    pixels, _, msg = image
    decoded = image_from_message(msg, "front", 0)
    assert decoded.encoding == "mono8"
    np.testing.assert_array_equal(decoded.pixels, np.rint(pixels / 257.0))


@settings(max_examples=150)
@given(raw_images(("bayer_rggb8", "bayer_bggr8", "bayer_gbrg8", "bayer_grbg8"), smallest=3))
def test_bayer_keeps_each_measured_colour(image):
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
def test_a_bayer_image_of_one_colour_has_that_colour_or_is_refused(encoding, size):
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
def test_a_bayer_line_is_refused(size):
    msg = make_image(np.zeros(size, np.uint8), "bayer_rggb8")
    assert reason_of(image_from_message, msg, "front", 0) == "zero_size"


def test_both_orders_of_yuv_agree():
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


def test_yuv_of_an_odd_width_is_refused():
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
def test_a_wrong_image_is_refused_by_its_reason(decoder, reason, changes):
    msg = make_image(np.zeros((4, 5, 3), np.uint8), "rgb8")
    for name, value in changes.items():
        setattr(msg, name, value)
    assert reason_of(decoder, msg, "front", 0) == reason


def test_a_step_that_splits_a_number_is_refused():
    msg = make_image(np.zeros((2, 3), np.uint16), "mono16", padding=1)
    assert reason_of(pixels_from_message, msg) == "bad_step"


def test_an_error_about_an_encoding_stays_short_and_names_what_is_known():
    msg = make_image(np.zeros((1, 1), np.uint8), "y" * 10_000)
    with pytest.raises(MessageError, match="bayer_rggb8") as caught:
        image_from_message(msg, "front", 0)
    assert len(str(caught.value)) < 500


def test_distances_are_not_a_picture():
    msg = make_image(np.ones((2, 2), np.float32), "32FC1")
    assert reason_of(image_from_message, msg, "front", 0) == "not_a_picture"


@settings(max_examples=100)
@given(raw_images(("mono8", "mono16", "16UC1")))
def test_thermal_keeps_the_counts(image):
    pixels, _, msg = image
    decoded = thermal_from_message(msg, "ir", 9, (0.04, 10.0))
    assert decoded.pixels.dtype == pixels.dtype and decoded.kelvin == (0.04, 10.0)
    np.testing.assert_array_equal(decoded.pixels, pixels)
    assert (decoded.sensor, decoded.stamp_ns, decoded.frame_id) == ("ir", 9, "front_optical")


@settings(max_examples=50)
@given(raw_images(("32FC1",)))
def test_thermal_in_kelvin_keeps_a_hundredth(image):
    pixels, _, msg = image
    decoded = thermal_from_message(msg, "ir", 0)
    scale, offset = decoded.kelvin
    np.testing.assert_allclose(decoded.pixels * scale + offset, pixels, atol=0.0051)


def test_thermal_values_that_are_no_temperature_are_clipped():
    pixels = np.array([[np.nan, np.inf, -np.inf, -3.0, 1e30, 300.0]], np.float32)
    decoded = thermal_from_message(make_image(pixels, "32FC1"), "ir", 0)
    np.testing.assert_array_equal(decoded.pixels, [[0, 65535, 0, 0, 65535, 30000]])


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "rgba8", "bgra8"])
def test_thermal_in_false_colour_is_taken_as_grey(encoding):
    pixels = np.full((3, 4, FORMATS[encoding][1]), 77, np.uint8)
    np.testing.assert_array_equal(
        thermal_from_message(make_image(pixels, encoding), "ir", 0).pixels, np.full((3, 4), 77)
    )


def test_thermal_grey_weighs_red_and_blue_by_name():
    red = np.zeros((3, 4, 3), np.uint8)
    red[..., 0] = 255
    for pixels, encoding in ((red, "rgb8"), (red[..., ::-1], "bgr8")):
        decoded = thermal_from_message(make_image(pixels, encoding), "ir", 0).pixels
        np.testing.assert_allclose(decoded, 0.299 * 255, atol=1)


def test_a_compressed_image_without_loss_comes_back_exactly():
    bgr = random_pixels(3, 7, 5, "u1", 3)
    image = image_from_message(make_compressed(encoded(bgr, ".png"), "png"), "front", 3)
    np.testing.assert_array_equal(image.rgb(), bgr[..., ::-1])
    assert (image.sensor, image.stamp_ns, image.frame_id) == ("front", 3, "front_optical")


def test_a_compressed_image_with_loss_comes_back_nearly():
    ramp = np.linspace(0, 255, 64).astype(np.uint8)
    bgr = np.stack([np.tile(ramp, (48, 1)), np.full((48, 64), 90), np.full((48, 64), 20)], -1)
    bgr = bgr.astype(np.uint8)
    image = image_from_message(make_compressed(encoded(bgr, ".jpg")), "front", 3)
    assert np.abs(image.rgb().astype(int) - bgr[..., ::-1]).mean() < 4


@pytest.mark.parametrize("code", ["u1", "u2"])
def test_compressed_thermal_keeps_its_depth(code):
    pixels = random_pixels(4, 6, 8, code)
    decoded = thermal_from_message(make_compressed(encoded(pixels, ".png"), "png"), "ir", 0)
    assert decoded.pixels.dtype == pixels.dtype
    np.testing.assert_array_equal(decoded.pixels, pixels)


def test_a_compressed_image_from_rosbags_decodes():
    bgr = random_pixels(3, 7, 5, "u1", 3)
    data = np.frombuffer(encoded(bgr, ".png"), np.uint8)
    msg = SimpleNamespace(header=SimpleNamespace(frame_id="f"), format="png", data=data)
    np.testing.assert_array_equal(image_from_message(msg, "front", 0).rgb(), bgr[..., ::-1])


def test_the_sensor_s_own_rows_and_columns_are_kept():
    # An orientation tag turns a picture for people; calibration holds for the pixels as read out.
    exif = PillowImage.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    PillowImage.new("RGB", (20, 10)).save(stream, "JPEG", exif=exif)
    msg = make_compressed(stream.getvalue())
    assert image_from_message(msg, "front", 0).pixels.shape == (10, 20, 3)
    assert thermal_from_message(msg, "ir", 0).pixels.shape == (10, 20)


def png_of_size(width, height):
    """A PNG whose header announces a size that its data does not have."""
    data = bytearray(encoded(np.zeros((2, 2), np.uint8), ".png"))
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("size", [(8001, 8001), (15_000, 15_000), (2**31 - 1, 2**31 - 1)])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_small_file_that_would_be_a_huge_image_is_refused(decoder, size):
    assert reason_of(decoder, make_compressed(png_of_size(*size)), "front", 0) == "too_large"


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("length", [300, 0x0FFF_FFFF])
def test_a_png_part_longer_than_the_message_is_refused_before_it_is_read(decoder, length):
    # OpenCV makes room for what a part announces, up to 4 GB, before it looks for the data.
    data = bytearray(encoded(np.zeros((12, 16), np.uint8), ".png"))
    start = data.index(b"IDAT") - 4
    data[start : start + 4] = struct.pack(">I", length)
    assert reason_of(decoder, make_compressed(data), "front", 0) == "truncated"


def other_format(name):
    stream = io.BytesIO()
    PillowImage.new("RGB", (8, 8)).save(stream, name)
    return stream.getvalue()


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("name", ["GIF", "BMP", "TIFF", "WEBP"])
def test_formats_that_ros_does_not_use_are_refused(decoder, name):
    assert reason_of(decoder, make_compressed(other_format(name)), "front", 0) == "undecodable"


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(
    ("reason", "data"),
    [
        ("zero_size", b""),
        ("undecodable", b"\0"),
        ("undecodable", b"not an image at all"),
        ("undecodable", b"\xff\xd8\xff\xd9"),
        ("undecodable", b"\x89PNG\r\n\x1a\n"),
    ],
)
def test_compressed_data_that_is_no_image_is_refused(decoder, reason, data):
    assert reason_of(decoder, make_compressed(data), "front", 0) == reason


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_compressed_image_cut_short_is_refused(decoder, suffix, share):
    data = encoded(random_pixels(5, 40, 40, "u1", 3), suffix)
    msg = make_compressed(data[: int(share * len(data))])
    assert reason_of(decoder, msg, "front", 0) in ("truncated", "undecodable")


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_driver_s_padding_after_a_compressed_image_is_accepted(suffix):
    data = encoded(np.full((8, 8, 3), 90, np.uint8), suffix)
    image = image_from_message(make_compressed(data + bytes(64)), "front", 0)
    np.testing.assert_allclose(image.pixels, 90, atol=2)


def make_camera_info(**changes):
    values = {
        "header": Header(frame_id="front_optical"),
        "width": 640,
        "height": 480,
        "distortion_model": "plumb_bob",
        "d": [-0.2, 0.05, 0.001, -0.001, 0.0],
        "k": [500.0, 0.0, 320.0, 0.0, 510.0, 240.0, 0.0, 0.0, 1.0],
    }
    return CameraInfo(**{**values, **changes})


def test_camera_info_becomes_the_model_that_it_describes():
    model = camera_model_from_message(make_camera_info())
    assert (model.width, model.height, model.model) == (640, 480, "plumb_bob")
    np.testing.assert_array_equal(model.matrix, [[500, 0, 320], [0, 510, 240], [0, 0, 1]])
    np.testing.assert_array_equal(model.coefficients, [-0.2, 0.05, 0.001, -0.001, 0.0])


@pytest.mark.parametrize(
    ("name", "d", "expected"),
    [
        ("plumb_bob", [0.0] * 5, "pinhole"),
        ("", [], "pinhole"),
        ("none", [], "pinhole"),
        ("rational_polynomial", [0.1] * 8, "rational_polynomial"),
        ("rational_polynomial", [0.0] * 8, "pinhole"),
        ("equidistant", [0.0] * 4, "equidistant"),
        ("fisheye", [0.01] * 4, "equidistant"),
    ],
)
def test_distortion_models_by_their_ros_names(name, d, expected):
    assert camera_model_from_message(make_camera_info(distortion_model=name, d=d)).model == expected


POINTS = np.random.default_rng(0).uniform((-1, -1, 3), (1, 1, 9), (50, 3))


def test_a_region_of_interest_moves_the_pixels():
    roi = RegionOfInterest(x_offset=100, y_offset=50, width=300, height=200)
    whole = camera_model_from_message(make_camera_info())
    part = camera_model_from_message(make_camera_info(roi=roi))
    assert (part.width, part.height) == (300, 200)
    np.testing.assert_allclose(part.project(POINTS)[0] + (100, 50), whole.project(POINTS)[0])


def test_binned_pixels_lie_in_the_middle_of_those_that_they_join():
    whole = camera_model_from_message(make_camera_info())
    binned = camera_model_from_message(make_camera_info(binning_x=2, binning_y=4))
    assert (binned.width, binned.height) == (320, 120)
    # Binned pixel (0, 0) joins columns 0 to 1 and rows 0 to 3: its centre is (0.5, 1.5).
    expected = whole.project(POINTS)[0]
    np.testing.assert_allclose(binned.project(POINTS)[0] * (2, 4) + (0.5, 1.5), expected)


@pytest.mark.parametrize("binning", [0, 1])
def test_binning_of_none_and_one_change_nothing(binning):
    msg = make_camera_info(binning_x=binning, binning_y=binning)
    np.testing.assert_array_equal(
        camera_model_from_message(msg).matrix, camera_model_from_message(make_camera_info()).matrix
    )


K = [500.0, 0.0, 320.0, 0.0, 510.0, 240.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize(
    "changes",
    [
        {"k": [0.0] * 9},
        {"k": [-500.0, *K[1:]]},
        {"k": [*K[:4], 0.0, *K[5:]]},
        {"k": [math.nan, *K[1:]]},
        {"k": [*K[:2], math.inf, *K[3:]]},
        {"k": [1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0]},
        {"k": [*K[:6], 5.0, 6.0, 7.0]},
        {"k": [*K[:8], 0.0]},
        {"width": 0},
        {"height": 0},
        {"d": [0.1]},
        {"d": [0.1] * 8},
        {"d": [math.nan] * 5},
        {"d": [math.inf, 0.0, 0.0, 0.0, 0.0]},
        {"distortion_model": "equidistant", "d": []},
        {"distortion_model": "equidistant", "d": [0.1] * 5},
        {"distortion_model": "rational_polynomial", "d": [0.1] * 5},
        {"distortion_model": "", "d": [0.1] * 5},
        {"distortion_model": "wide", "d": [0.1] * 5},
        {"binning_x": 2**32 - 1},
    ],
)
def test_a_camera_info_of_nonsense_is_refused(changes):
    assert reason_of(camera_model_from_message, make_camera_info(**changes)) == "bad_camera_info"


def test_an_uncalibrated_camera_is_refused():
    assert reason_of(camera_model_from_message, CameraInfo()) == "bad_camera_info"


def test_camera_info_from_rosbags_with_a_short_matrix_is_refused():
    roi = SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0)
    msg = SimpleNamespace(
        width=np.uint32(640),
        height=np.uint32(480),
        distortion_model="plumb_bob",
        d=np.zeros(5),
        k=np.array(K),
        roi=roi,
        binning_x=np.uint32(0),
        binning_y=np.uint32(0),
    )
    assert camera_model_from_message(msg).width == 640
    msg.k = np.ones(8)
    assert reason_of(camera_model_from_message, msg) == "bad_camera_info"


def outcome(decoder, *arguments):
    try:
        decoder(*arguments)
    except MessageError:
        return "refused"
    return "decoded"


def test_mutated_images_raise_nothing_but_message_errors():
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


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_mutated_compressed_images_raise_nothing_but_message_errors(monkeypatch):
    # A mutated header may announce any size; hundreds of megabytes each would make this slow.
    monkeypatch.setattr(images, "MAX_COMPRESSED_PIXELS", 100_000)
    rng = random.Random(3)
    picture = random_pixels(0, 12, 16, "u1", 3)
    seeds = [
        encoded(picture, ".jpg"),
        encoded(picture, ".png"),
        encoded(picture[..., 0], ".png"),
        encoded(random_pixels(0, 9, 7, "u2"), ".png"),
        other_format("GIF"),
    ]
    outcomes = {"decoded": 0, "refused": 0}
    for _ in range(100_000):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.randint(1, 4)):
            position = rng.randrange(len(data))
            kind = rng.choice(("flip", "flip", "header", "cut", "insert"))
            if kind == "flip":
                data[position] ^= 1 << rng.randrange(8)
            elif kind == "header":
                data[position % 40 % len(data)] = rng.choice((0, 1, 0x7F, 0xFF, rng.randrange(256)))
            elif kind == "cut" and len(data) > 30:
                start = rng.randrange(len(data))
                del data[start : start + rng.randrange(20)]
            else:
                data[position:position] = rng.randbytes(rng.randrange(12))
        for decoder in DECODERS:
            outcomes[outcome(decoder, make_compressed(data), "c", 0)] += 1
    assert min(outcomes.values()) > 100


def test_mutated_camera_infos_raise_nothing_but_message_errors():
    rng = random.Random(4)
    numbers = (0.0, 1.0, -1.0, 1e-300, 1e300, math.nan, math.inf, 0.5, 640.0)
    sizes = (0, 1, 2, 3, 640, 2**31, 2**32 - 1)
    models = ("", "none", "plumb_bob", "rational_polynomial", "equidistant", "fisheye", "é")
    outcomes = {"decoded": 0, "refused": 0}
    for _ in range(100_000):
        msg = make_camera_info()
        for _ in range(rng.randint(1, 2)):
            name = rng.choice(("k", "d", "model", "size", "roi", "binning"))
            if name == "k":
                msg.k[rng.randrange(9)] = rng.choice(numbers)
            elif name == "d":
                msg.d = [rng.choice(numbers) for _ in range(rng.choice((0, 1, 4, 5, 8, 12, 14)))]
            elif name == "model":
                msg.distortion_model = rng.choice(models)
            elif name == "size":
                setattr(msg, rng.choice(("width", "height")), rng.choice(sizes))
            elif name == "roi":
                field = rng.choice(("width", "height", "x_offset", "y_offset"))
                setattr(msg.roi, field, rng.choice(sizes))
            else:
                setattr(msg, rng.choice(("binning_x", "binning_y")), rng.choice(sizes))
        outcomes[outcome(camera_model_from_message, msg)] += 1
    assert min(outcomes.values()) > 200
