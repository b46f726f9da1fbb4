"""CompressedImage decoding: round trips, truncated data, unsupported formats and decompression bombs."""

from __future__ import annotations

import array
import io
import random
import struct
import zlib
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image as PillowImage
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Header

from multimodal_perception.messages import compressed
from multimodal_perception.messages.errors import MessageError
from multimodal_perception.messages.images import image_from_message
from multimodal_perception.messages.thermal import thermal_from_message

DECODERS = (image_from_message, thermal_from_message)


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


def test_lossless_compressed_image_round_trip_is_exact():
    bgr = random_pixels(3, 7, 5, "u1", 3)
    image = image_from_message(make_compressed(encoded(bgr, ".png"), "png"), "front", 3)
    np.testing.assert_array_equal(image.rgb(), bgr[..., ::-1])
    assert (image.sensor, image.stamp_ns, image.frame_id) == ("front", 3, "front_optical")


def test_lossy_compressed_image_round_trip_is_close():
    ramp = np.linspace(0, 255, 64).astype(np.uint8)
    bgr = np.stack([np.tile(ramp, (48, 1)), np.full((48, 64), 90), np.full((48, 64), 20)], -1)
    bgr = bgr.astype(np.uint8)
    image = image_from_message(make_compressed(encoded(bgr, ".jpg")), "front", 3)
    assert np.abs(image.rgb().astype(int) - bgr[..., ::-1]).mean() < 4


@pytest.mark.parametrize("code", ["u1", "u2"])
def test_compressed_thermal_image_keeps_its_bit_depth(code):
    pixels = random_pixels(4, 6, 8, code)
    decoded = thermal_from_message(make_compressed(encoded(pixels, ".png"), "png"), "ir", 0)
    assert decoded.pixels.dtype == pixels.dtype
    np.testing.assert_array_equal(decoded.pixels, pixels)


def test_compressed_image_from_rosbags_is_decoded():
    bgr = random_pixels(3, 7, 5, "u1", 3)
    data = np.frombuffer(encoded(bgr, ".png"), np.uint8)
    msg = SimpleNamespace(header=SimpleNamespace(frame_id="f"), format="png", data=data)
    np.testing.assert_array_equal(image_from_message(msg, "front", 0).rgb(), bgr[..., ::-1])


def test_exif_orientation_is_ignored():
    # An orientation tag rotates the image for display; the calibration refers to the sensor's pixels.
    exif = PillowImage.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    PillowImage.new("RGB", (20, 10)).save(stream, "JPEG", exif=exif)
    msg = make_compressed(stream.getvalue())
    assert image_from_message(msg, "front", 0).pixels.shape == (10, 20, 3)
    assert thermal_from_message(msg, "ir", 0).pixels.shape == (10, 20)


def png_of_size(width, height):
    """A PNG whose header declares a size that its data does not have."""
    data = bytearray(encoded(np.zeros((2, 2), np.uint8), ".png"))
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("size", [(8001, 8001), (15_000, 15_000), (2**31 - 1, 2**31 - 1)])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_decompression_bomb_raises_error(decoder, size):
    assert reason_of(decoder, make_compressed(png_of_size(*size)), "front", 0) == "too_large"


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("length", [300, 0x0FFF_FFFF])
def test_png_chunk_longer_than_the_message_raises_error(decoder, length):
    # OpenCV allocates the length that a chunk declares, up to 4 GB, before it reads the data.
    data = bytearray(encoded(np.zeros((12, 16), np.uint8), ".png"))
    start = data.index(b"IDAT") - 4
    data[start : start + 4] = struct.pack(">I", length)
    assert reason_of(decoder, make_compressed(data), "front", 0) == "truncated"


def other_format(name):
    stream = io.BytesIO()
    PillowImage.new("RGB", (8, 8)).save(stream, name)
    return stream.getvalue()


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("name", ["GIF", "BMP"])
def test_unsupported_formats_raise_error(decoder, name):
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
def test_compressed_data_without_image_raises_error(decoder, reason, data):
    assert reason_of(decoder, make_compressed(data), "front", 0) == reason


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("fraction", [0.3, 0.6, 0.95])
def test_truncated_compressed_image_raises_error(decoder, suffix, fraction):
    data = encoded(random_pixels(5, 40, 40, "u1", 3), suffix)
    msg = make_compressed(data[: int(fraction * len(data))])
    assert reason_of(decoder, msg, "front", 0) in ("truncated", "undecodable")


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_padding_after_a_compressed_image_is_accepted(suffix):
    data = encoded(np.full((8, 8, 3), 90, np.uint8), suffix)
    image = image_from_message(make_compressed(data + bytes(64)), "front", 0)
    np.testing.assert_allclose(image.pixels, 90, atol=2)


def outcome(decoder, *arguments):
    try:
        decoder(*arguments)
    except MessageError:
        return "refused"
    return "decoded"


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_mutated_compressed_images_raise_only_message_errors(monkeypatch):
    # A mutated header may declare any size; images of hundreds of megabytes would make this slow.
    monkeypatch.setattr(compressed, "MAX_COMPRESSED_PIXELS", 100_000)
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
            mutation = rng.choice(("flip", "flip", "header", "cut", "insert"))
            if mutation == "flip":
                data[position] ^= 1 << rng.randrange(8)
            elif mutation == "header":
                data[position % 40 % len(data)] = rng.choice((0, 1, 0x7F, 0xFF, rng.randrange(256)))
            elif mutation == "cut" and len(data) > 30:
                start = rng.randrange(len(data))
                del data[start : start + rng.randrange(20)]
            else:
                data[position:position] = rng.randbytes(rng.randrange(12))
        for decoder in DECODERS:
            outcomes[outcome(decoder, make_compressed(data), "c", 0)] += 1
    assert min(outcomes.values()) > 100
