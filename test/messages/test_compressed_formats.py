"""CompressedImage.format: encodings, channel orders, codecs, compressedDepth."""

from __future__ import annotations

import array
import io
import struct
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from PIL import Image as PillowImage
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Header

from multimodal_perception.messages.compressed import ACCEPTED, parse_format
from multimodal_perception.messages.compressed_depth import decode_rvl
from multimodal_perception.messages.decoding_log import DecodingLog
from multimodal_perception.messages.errors import MessageError
from multimodal_perception.messages.images import image_from_message
from multimodal_perception.messages.thermal import thermal_from_message
from multimodal_perception.notices import Notices

RNG = np.random.default_rng(7)
# Smooth colours, which a JPEG changes little: red left, green top, blue constant.
RAMP = np.linspace(20, 230, 48).astype(np.uint8)
RGB = np.stack(
    [np.tile(RAMP, (40, 1)), np.tile(RAMP[:40, None], (1, 48)), np.full((40, 48), 60)], axis=-1
).astype(np.uint8)
KELVIN = (0.01, 0.0)


def message(data: bytes, format_: str) -> CompressedImage:
    return CompressedImage(
        header=Header(frame_id="f"), format=format_, data=array.array("B", bytes(data))
    )


def encoded(pixels: np.ndarray, suffix: str) -> bytes:
    if not cv2.haveImageWriter(f"image{suffix}"):
        pytest.skip(f"this version of OpenCV writes no {suffix} files")
    return cv2.imencode(suffix, np.ascontiguousarray(pixels))[1].tobytes()


def camera(data: bytes, format_: str, topic: str = "/cam/image") -> tuple[Any, list[str]]:
    notices = Notices()
    return image_from_message(message(data, format_), "camera", 0, topic, notices), notices.pop()


def thermal(data: bytes, format_: str, **options: Any) -> tuple[Any, list[str]]:
    log = DecodingLog()
    options = {"counts_to_kelvin": KELVIN, **options}
    return thermal_from_message(message(data, format_), "ir", 0, log=log, **options), (
        log.notices.pop()
    )


def reason_of(decoder: Any, *arguments: Any, **options: Any) -> str:
    with pytest.raises(MessageError) as caught:
        decoder(*arguments, **options)
    return caught.value.reason


def mosaic(rgb: np.ndarray, pattern: str) -> np.ndarray:
    """The raw Bayer image of a colour image."""
    result = np.zeros(rgb.shape[:2], rgb.dtype)
    for i, colour in enumerate(pattern):
        rows, columns = slice(i // 2, None, 2), slice(i % 2, None, 2)
        result[rows, columns] = rgb[rows, columns, "rgb".index(colour)]
    return result


@pytest.mark.parametrize(
    ("format_", "suffix", "stored"),
    [
        # image_transport converts to BGR, which OpenCV's encoder expects.
        ("rgb8; jpeg compressed bgr8", ".jpg", "bgr"),
        ("bgr8; jpeg compressed bgr8", ".jpg", "bgr"),
        ("rgba8; jpeg compressed bgr8", ".jpg", "bgr"),
        ("rgb8; png compressed bgr8", ".png", "bgr"),
        ("RGB8; PNG compressed BGR8", ".png", "bgr"),
        # RGB given to OpenCV's encoder without conversion.
        ("rgb8; jpeg compressed rgb8", ".jpg", "rgb"),
        ("rgb8; png compressed rgb8", ".png", "rgb"),
        ("bgr8; png compressed rgb8", ".png", "rgb"),
        ("rgb8; png compressed", ".png", "rgb"),
        ("rgb8; jpeg compressed ", ".jpg", "rgb"),
        # TIFF is compressed without conversion.
        ("rgb8; tiff compressed ", ".tiff", "rgb"),
        ("bgr8; tiff compressed ", ".tiff", "bgr"),
        # Drivers and cv_bridge state only the codec.
        ("jpeg", ".jpg", "bgr"),
        ("jpg", ".jpg", "bgr"),
        ("JPEG", ".jpg", "bgr"),
        ("png", ".png", "bgr"),
        ("mjpeg", ".jpg", "bgr"),
        ("", ".png", "bgr"),
        ("; png compressed", ".png", "bgr"),
        ("rgb8", ".png", "bgr"),
        ("bgr8", ".jpg", "bgr"),
        ("tiff", ".tiff", "bgr"),
        ("webp", ".webp", "bgr"),
        ("avif", ".avif", "bgr"),
    ],
)
def test_channel_order_of_the_format(format_: str, suffix: str, stored: str) -> None:
    channels = RGB if stored == "rgb" else RGB[..., ::-1]
    image, _ = camera(encoded(channels, suffix), format_)
    assert np.abs(image.rgb().astype(int) - RGB).mean() < 6
    grey, _ = thermal(encoded(channels, suffix), format_)
    expected = cv2.cvtColor(RGB, cv2.COLOR_RGB2GRAY)
    assert np.abs(grey.pixels.astype(int) - expected).mean() < 6


def test_format_without_order_gives_a_notice() -> None:
    _, notices = camera(encoded(RGB, ".png"), "rgb8; png compressed")
    assert any("without 'compressed bgr8'" in n for n in notices)
    assert not camera(encoded(RGB, ".png"), "rgb8; png compressed bgr8")[1]


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["rggb", "bggr", "gbrg", "grbg"]),
    st.sampled_from(["8", "16"]),
    st.sampled_from(["png compressed", "png compressed ", "tiff compressed"]),
    st.tuples(*[st.integers(0, 255)] * 3),
)
def test_bayer_payload_is_demosaiced(
    pattern: str, bits: str, codec: str, colour: tuple[int, int, int]
) -> None:
    rgb = np.broadcast_to(np.array(colour, np.uint16), (8, 10, 3))
    values = mosaic(rgb * (257 if bits == "16" else 1), pattern)
    values = values.astype(np.uint16 if bits == "16" else np.uint8)
    suffix = "." + codec.split()[0]
    image, _ = camera(encoded(values, suffix), f"bayer_{pattern}{bits}; {codec}")
    assert_array_equal(image.rgb(), np.broadcast_to(colour, (8, 10, 3)))


def test_bayer_jpeg_is_demosaiced_unless_it_was_converted_to_grey() -> None:
    flat = np.broadcast_to(np.array([200, 120, 40], np.uint8), (32, 32, 3))
    data = encoded(mosaic(flat, "rggb"), ".jpg")
    image, _ = camera(data, "bayer_rggb8; jpeg compressed ")
    assert np.abs(image.rgb()[4:-4, 4:-4].mean((0, 1)) - (200, 120, 40)).max() < 12
    grey, _ = camera(data, "bayer_rggb8; jpeg compressed mono8")
    assert grey.encoding == "mono8"
    white = np.full((8, 8, 3), 180, np.uint8)
    converted, _ = camera(encoded(white, ".png"), "bayer_rggb8; png compressed bgr8")
    assert_array_equal(converted.rgb(), white)
    colour, _ = camera(encoded(flat[..., ::-1], ".png"), "bayer_rggb8; png compressed bgr8")
    assert_array_equal(colour.rgb(), flat)


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("format_", ["mono16; png compressed ", "16UC1; png compressed", "png"])
def test_16_bit_images_keep_their_counts(suffix: str, format_: str) -> None:
    counts = RNG.integers(20_000, 40_000, (12, 16), np.uint16)
    image, notices = thermal(encoded(counts, suffix), format_)
    assert_array_equal(image.pixels, counts)
    assert image.counts_to_kelvin == KELVIN
    assert not [n for n in notices if "temperature" in n]
    grey, _ = camera(encoded(counts, suffix), "mono16; png compressed ")
    assert_array_equal(grey.pixels, np.rint(counts / 257.0))


@pytest.mark.parametrize(
    ("format_", "suffix"),
    [
        ("mono8; jpeg compressed mono8", ".jpg"),
        ("mono16; jpeg compressed mono8", ".jpg"),
        ("16UC1; jpeg compressed ", ".jpg"),
        ("mono8; png compressed ", ".png"),
        ("jpeg", ".jpg"),
        ("rgb8; jpeg compressed bgr8", ".jpg"),
    ],
)
def test_8_bit_thermal_image_does_not_get_the_16_bit_scale(format_: str, suffix: str) -> None:
    image, notices = thermal(encoded(np.tile(RAMP, (20, 1)), suffix), format_)
    assert image.pixels.dtype == np.uint8 and image.counts_to_kelvin is None
    assert any("without temperatures" in n for n in notices)


def test_scale_for_8_bit_counts_is_kept() -> None:
    image, notices = thermal(
        encoded(np.tile(RAMP, (20, 1)), ".png"),
        "mono8; png compressed",
        counts_to_kelvin=(0.5, 250),
    )
    assert image.counts_to_kelvin == (0.5, 250) and not notices


def test_16_bit_colour_image_is_scaled_to_8_bits() -> None:
    image, _ = camera(
        encoded(RGB[..., ::-1].astype(np.uint16) * 257, ".png"), "rgb16; png compressed bgr16"
    )
    assert_array_equal(image.rgb(), RGB)


def test_alpha_channel_and_palette_are_decoded() -> None:
    bgra = np.dstack([RGB[..., ::-1], np.full(RGB.shape[:2], 9, np.uint8)])
    assert_array_equal(camera(encoded(bgra, ".png"), "rgba8; png compressed bgra8")[0].rgb(), RGB)
    stream = io.BytesIO()
    PillowImage.fromarray(np.array([[0, 1], [1, 0]], np.uint8), "P").save(stream, "PNG")
    assert camera(stream.getvalue(), "png")[0].pixels.shape[:2] == (2, 2)


def test_format_that_contradicts_the_data_gives_a_notice() -> None:
    image, notices = camera(encoded(RGB[..., ::-1], ".png"), "rgb8; jpeg compressed bgr8")
    assert_array_equal(image.rgb(), RGB)
    assert any("format states JPEG, but the data is PNG" in n for n in notices)


@pytest.mark.parametrize(
    "format_",
    [
        "h264",
        "hevc",
        "bgr8; ffmpeg",
        "libx264;yuv420p",
        "theora",
        "qoi",
        "rgb8; zstd",
        "vp9",
        "av1",
    ],
)
def test_video_and_other_codecs_are_refused_with_reason(format_: str) -> None:
    for decoder in (image_from_message, thermal_from_message):
        assert reason_of(decoder, message(RNG.bytes(300), format_), "c", 0) == "unsupported_codec"


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tiff", ".webp", ".avif"])
@pytest.mark.parametrize(
    "tail", [b"\0" * 64, b"\xff" * 7, b"metadata: gain=3", b"\xff\xd8\xff\xe0"]
)
def test_bytes_after_the_image_are_ignored(suffix: str, tail: bytes) -> None:
    data = encoded(RGB[..., ::-1], suffix)
    if suffix == ".avif":
        tail = struct.pack(">I", 8 + len(tail)) + b"free" + tail
    assert_array_equal(camera(data + tail, "")[0].pixels, camera(data, "")[0].pixels)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tiff", ".webp", ".avif"])
@pytest.mark.parametrize("fraction", [0.2, 0.5, 0.8, 0.95, 0.999])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_truncated_images_are_refused(suffix: str, fraction: float) -> None:
    data = encoded(RNG.integers(0, 255, (40, 48, 3), np.uint8), suffix)
    cut = message(data[: min(int(fraction * len(data)), len(data) - 2)], "")
    assert reason_of(image_from_message, cut, "c", 0) in ("truncated", "undecodable")


def test_jpeg_with_thumbnail_and_restart_markers_is_complete() -> None:
    stream = io.BytesIO()
    thumbnail = encoded(RGB[:8, :8], ".jpg")
    PillowImage.fromarray(RGB).save(stream, "JPEG", exif=b"Exif\0\0" + thumbnail, progressive=True)
    data = stream.getvalue()
    assert camera(data + b"tail", "jpeg")[0].pixels.shape == RGB.shape
    cut = message(data[:-40], "jpeg")
    assert reason_of(image_from_message, cut, "c", 0) == "truncated"


# compressedDepth


def rvl_encoded(values: np.ndarray) -> bytes:
    """Reference encoder of the RVL codec (Wilson 2017, listing 1)."""
    nibbles: list[int] = []

    def put(value: int) -> None:
        while True:
            nibble, value = value & 7, value >> 3
            nibbles.append(nibble | (8 if value else 0))
            if not value:
                return

    flat, i, previous = values.reshape(-1).astype(int), 0, 0
    while i < len(flat):
        zeros = 0
        while i + zeros < len(flat) and flat[i + zeros] == 0:
            zeros += 1
        put(zeros)
        i += zeros
        nonzeros = 0
        while i + nonzeros < len(flat) and flat[i + nonzeros]:
            nonzeros += 1
        put(nonzeros)
        for value in flat[i : i + nonzeros]:
            delta = int(value) - previous
            put((delta << 1) ^ (delta >> 63))
            previous = int(value)
        i += nonzeros
    nibbles += [0] * (-len(nibbles) % 8)
    words = b""
    for start in range(0, len(nibbles), 8):
        word = 0
        for nibble in nibbles[start : start + 8]:
            word = word << 4 | nibble
        words += struct.pack("<I", word)
    return struct.pack("<II", values.shape[1], values.shape[0]) + words


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**32), st.floats(0, 1))
def test_rvl_round_trip(height: int, width: int, seed: int, zeros: float) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 65536, (height, width), np.uint16)
    values[rng.random((height, width)) < zeros] = 0
    assert_array_equal(decode_rvl(rvl_encoded(values)), values)


@pytest.mark.parametrize("codec", ["png", "rvl", ""])
@pytest.mark.parametrize("encoding", ["16UC1", "mono16"])
def test_compressed_depth_of_counts(encoding: str, codec: str) -> None:
    counts = RNG.integers(7000, 9000, (12, 16), np.uint16)
    payload = rvl_encoded(counts) if codec == "rvl" else encoded(counts, ".png")
    data = struct.pack("<iff", 0, 0.0, 0.0) + payload
    image, _ = thermal(data, f"{encoding}; compressedDepth {codec}", counts_to_kelvin=(0.04, 0.0))
    assert_array_equal(image.pixels, counts)
    assert image.counts_to_kelvin == (0.04, 0.0)


@pytest.mark.parametrize("codec", ["png", "rvl"])
def test_compressed_depth_of_floats_is_dequantised(codec: str) -> None:
    # As image_transport quantises: a / value + b with a = q (q + 1) and b = 1 - a / depth_max.
    kelvin = np.linspace(280, 320, 16 * 12).reshape(12, 16).astype(np.float32)
    a = 5000.0 * 5001.0
    b = 1.0 - a / 400.0
    quantised = (a / kelvin + b).astype(np.uint16)
    quantised[0, 0] = 0
    payload = rvl_encoded(quantised) if codec == "rvl" else encoded(quantised, ".png")
    data = struct.pack("<iff", 0, a, b) + payload
    image, _ = thermal(data, f"32FC1; compressedDepth {codec}")
    scale, offset = image.counts_to_kelvin
    np.testing.assert_allclose(
        (image.pixels * scale + offset).reshape(-1)[1:], kelvin.reshape(-1)[1:], atol=0.02
    )
    assert image.valid is not None and not image.valid[0, 0] and image.valid.sum() == 191


@pytest.mark.parametrize("format_", ["16UC1; compressedDepth png", "32FC1; compressedDepth"])
def test_compressed_depth_is_no_camera_image(format_: str) -> None:
    data = bytes(12) + encoded(np.full((4, 4), 900, np.uint16), ".png")
    assert reason_of(image_from_message, message(data, format_), "c", 0) == "not_a_picture"
    assert reason_of(image_from_message, message(data, "16UC1"), "c", 0) == "not_a_picture"


@pytest.mark.parametrize(
    ("data", "format_", "reasons"),
    [
        (bytes(5), "16UC1; compressedDepth png", ("undecodable",)),
        (bytes(16), "16UC1; compressedDepth rvl", ("truncated",)),
        (bytes(20), "16UC1; compressedDepth rvl", ("zero_size",)),
        (
            bytes(12) + struct.pack("<II", 2**31, 2**31),
            "16UC1; compressedDepth rvl",
            ("too_large",),
        ),
        (
            bytes(12) + rvl_encoded(RNG.integers(1, 9999, (9, 9)))[:-8],
            "16UC1; compressedDepth rvl",
            ("truncated",),
        ),
        (
            bytes(12) + encoded(np.zeros((4, 4, 3), np.uint8), ".png"),
            "16UC1; compressedDepth",
            ("undecodable",),
        ),
        (
            bytes(12) + encoded(np.zeros((4, 4), np.uint16), ".png"),
            "rgb8; compressedDepth",
            ("undecodable",),
        ),
    ],
)
def test_invalid_compressed_depth_is_refused(data: bytes, format_: str, reasons: Any) -> None:
    assert reason_of(thermal_from_message, message(data, format_), "ir", 0) in reasons


@settings(max_examples=200)
@given(st.text(max_size=40))
def test_any_format_text_is_parsed(text: str) -> None:
    parsed = parse_format(text)
    assert isinstance(parsed.encoding, str) and isinstance(parsed.depth, bool)


def test_accepted_formats_are_listed() -> None:
    assert all(entry.values and entry.interpretation and entry.otherwise for entry in ACCEPTED)
