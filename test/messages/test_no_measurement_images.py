"""Thermal images: units, pixels without a measurement, byte order; depth images of depth cameras."""

from __future__ import annotations

import array
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from multimodal_perception.frame import ThermalImage
from multimodal_perception.images.thermal_to_camera import ThermalViews
from multimodal_perception.messages import thermal as thermal_module
from multimodal_perception.messages.decoding_log import DecodingLog
from multimodal_perception.messages.errors import MessageError
from multimodal_perception.messages.images import image_from_message
from multimodal_perception.messages.thermal import thermal_from_message
from multimodal_perception.notices import Notices

SCENE = np.add.outer(np.linspace(-8.0, 12.0, 24), np.linspace(0.0, 25.0, 32))  # degrees Celsius


def raw(pixels: np.ndarray, encoding: str, big: bool = False, frame_id: str = "ir") -> Image:
    data = np.ascontiguousarray(pixels)
    return Image(
        header=Header(frame_id=frame_id),
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding=encoding,
        is_bigendian=int(big),
        step=data.nbytes // pixels.shape[0],
        data=array.array("B", data.tobytes()),
    )


def decode(
    pixels: np.ndarray, encoding: str, big: bool = False, **options: Any
) -> tuple[ThermalImage, DecodingLog]:
    log = DecodingLog()
    return thermal_from_message(raw(pixels, encoding, big), "ir", 0, log=log, **options), log


def kelvin_of(image: ThermalImage) -> np.ndarray:
    assert image.counts_to_kelvin is not None
    return image.pixels * image.counts_to_kelvin[0] + image.counts_to_kelvin[1]


@pytest.mark.parametrize(("encoding", "code"), [("32FC1", "f4"), ("64FC1", "f8")])
def test_degrees_celsius_are_recognised_and_reported(encoding: str, code: str) -> None:
    image, log = decode(SCENE.astype(code), encoding)
    assert_allclose(kelvin_of(image), SCENE + 273.15, atol=0.006)
    assert image.valid is None
    assert any(f"{encoding} pixels are taken as celsius" in n for n in log.notices.pop())


@pytest.mark.parametrize(("encoding", "code"), [("32FC1", "f4"), ("64FC1", "f8")])
def test_kelvin_is_recognised_and_reported(encoding: str, code: str) -> None:
    image, log = decode((SCENE + 273.15).astype(code), encoding)
    assert_allclose(kelvin_of(image), SCENE + 273.15, atol=0.006)
    assert any("taken as kelvin" in n for n in log.notices.pop())


@settings(max_examples=60)
@given(st.floats(-60, 100), st.floats(0.5, 40), st.booleans(), st.booleans())
def test_unit_is_chosen_for_any_scene(mean: float, spread: float, kelvin: bool, big: bool) -> None:
    celsius = np.random.default_rng(0).uniform(mean - spread, mean + spread, (16, 20))
    pixels = (celsius + (273.15 if kelvin else 0.0)).astype(">f4" if big else "<f4")
    image, _ = decode(pixels, "32FC1", big)
    assert_allclose(kelvin_of(image), celsius + 273.15, atol=0.01)


@pytest.mark.parametrize(
    ("unit", "convert"),
    [
        ("kelvin", lambda c: c + 273.15),
        ("celsius", lambda c: c),
        ("fahrenheit", lambda c: c * 9 / 5 + 32),
    ],
)
def test_unit_of_the_rig_file_is_used_without_notice(unit: Any, convert: Any) -> None:
    image, log = decode(convert(SCENE).astype(np.float32), "32FC1", unit=unit)
    assert_allclose(kelvin_of(image), SCENE + 273.15, atol=0.006)
    assert not log.notices.pop()


@pytest.mark.parametrize("pixels", [SCENE * 100 + 27315, SCENE + 1e5, np.full((4, 4), -300.0)])
def test_other_values_are_refused_with_reason(pixels: np.ndarray) -> None:
    with pytest.raises(MessageError) as caught:
        decode(pixels.astype(np.float32), "32FC1")
    assert caught.value.reason == "ambiguous_temperature_unit"
    assert "temperature_unit" in caught.value.detail


@pytest.mark.parametrize("kelvin", [True, False])
def test_invalid_temperatures_are_no_measurement(kelvin: bool) -> None:
    pixels = (SCENE + (273.15 if kelvin else 0)).astype(np.float32)
    pixels[0, :4] = np.nan, -np.inf, -999.0, 1e9
    image, log = decode(pixels, "32FC1")
    assert image.valid is not None
    assert_array_equal(np.flatnonzero(~image.valid), range(4))
    assert log.information["ir", "no_measurement"] == 4
    median = np.median(image.pixels[image.valid])
    assert_allclose(image.filled_pixels()[0, :4], median, atol=100)
    assert_array_equal(image.filled_pixels()[1:], image.pixels[1:])


def test_zero_kelvin_is_no_measurement_but_zero_celsius_is_one() -> None:
    pixels = (SCENE + 273.15).astype(np.float32)
    pixels[0, 0] = 0.0
    assert not decode(pixels, "32FC1")[0].valid[0, 0]  # type: ignore[index]
    celsius = SCENE.astype(np.float32)
    celsius[0, 0] = 0.0
    assert decode(celsius, "32FC1")[0].valid is None


@pytest.mark.parametrize("value", [np.nan, 0.0])
def test_image_without_measurement_is_dropped(value: float) -> None:
    with pytest.raises(MessageError) as caught:
        decode(np.full((8, 8), value, np.float32), "32FC1")
    assert caught.value.reason == "no_measurement"


@settings(max_examples=60)
@given(
    st.sampled_from([(0,), (65535,), (0, 65535)]),
    st.integers(6000, 40_000),
    st.integers(1, 60),
    st.booleans(),
)
def test_sentinel_counts_are_no_measurement(
    sentinels: tuple[int, ...], base: int, number: int, big: bool
) -> None:
    rng = np.random.default_rng(1)
    counts = (base + 10 * SCENE + rng.normal(0, 3, SCENE.shape)).astype(np.uint16)
    expected = np.ones(counts.shape, bool)
    for k, sentinel in enumerate(sentinels):
        rows = slice(k * 100, k * 100 + number)
        counts.reshape(-1)[rows] = sentinel
        expected.reshape(-1)[rows] = False
    image, log = decode(counts.astype(">u2" if big else "<u2"), "mono16", big)
    assert_array_equal(image.pixels, counts)
    assert_array_equal(image.valid, expected)
    assert any("no measurement" in n for n in log.notices.pop())
    views = ThermalViews(Counter())
    grey = views.normalised(image)
    assert grey is not None
    # The sentinels do not use up the contrast of the image.
    assert np.ptp(grey[expected]) > 0.8


def test_extreme_counts_of_the_scene_are_measurements() -> None:
    counts = np.linspace(0, 65535, 24 * 32).reshape(24, 32).astype(np.uint16)
    assert decode(counts, "mono16")[0].valid is None


def test_invalid_counts_of_the_rig_file() -> None:
    counts = (8000 + 10 * SCENE).astype(np.uint16)
    counts[0, :3] = 16383, 0, 8000
    image, log = decode(counts, "mono16", invalid_counts=(16383,))
    assert image.valid is not None and int((~image.valid).sum()) == 1
    assert not log.notices.pop()
    assert decode(counts, "mono16", invalid_counts=())[0].valid is None


@pytest.mark.parametrize("value", [0, 65535])
def test_constant_sentinel_image_is_dropped(value: int) -> None:
    with pytest.raises(MessageError) as caught:
        decode(np.full((24, 32), value, np.uint16), "mono16")
    assert caught.value.reason == "no_measurement"


@pytest.mark.parametrize("shape", [(24, 32)])
def test_swapped_bytes_are_corrected_and_reported(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(2)
    counts = (29_000 + 40 * SCENE + rng.normal(0, 3, shape)).astype(np.uint16)
    image, log = decode(counts.byteswap(), "mono16")
    assert_array_equal(image.pixels, counts)
    assert any("is_bigendian" in n for n in log.notices.pop())
    assert_array_equal(decode(counts, "mono16")[0].pixels, counts)
    notices = Notices()
    grey = image_from_message(raw(counts.byteswap(), "mono16"), "c", 0, "", notices)
    assert_array_equal(grey.pixels, np.rint(counts / 257.0))
    assert any("is_bigendian" in n for n in notices.pop())


@pytest.mark.parametrize(("scale", "fits"), [(0.01, "0.04"), (0.4, "0.04")])
def test_implausible_scale_gives_a_notice(scale: float, fits: str) -> None:
    counts = ((SCENE + 273.15) / 0.04).astype(np.uint16)
    image, log = decode(counts, "mono16", counts_to_kelvin=(scale, 0.0))
    assert image.counts_to_kelvin == (scale, 0.0)
    assert any("implausible temperatures" in n and fits in n for n in log.notices.pop())
    assert not decode(counts, "mono16", counts_to_kelvin=(0.04, 0.0))[1].notices.pop()


def test_8_bit_raw_image_does_not_get_the_16_bit_scale() -> None:
    image, log = decode(SCENE.astype(np.uint8), "mono8", counts_to_kelvin=(0.01, 0.0))
    assert image.counts_to_kelvin is None
    assert any("8-bit images" in n for n in log.notices.pop())


def test_signed_counts_keep_their_temperature() -> None:
    centi_celsius = np.rint(SCENE * 100).astype(np.int16)
    image, _ = decode(centi_celsius, "16SC1", counts_to_kelvin=(0.01, 273.15))
    assert_allclose(kelvin_of(image), SCENE + 273.15, atol=0.006)


def test_colour_palette_gives_a_notice() -> None:
    colours = np.dstack([SCENE + 20, 60 - SCENE, SCENE * 0 + 30]).astype(np.uint8)
    _, log = decode(colours, "rgb8")
    assert any("colour palette" in n for n in log.notices.pop())
    grey = np.repeat((SCENE + 20).astype(np.uint8)[..., None], 3, axis=2)
    assert not decode(grey, "rgb8")[1].notices.pop()


@pytest.mark.parametrize("encoding", ["16UC1", "mono16", "32FC1"])
@pytest.mark.parametrize(
    ("topic", "frame_id"),
    [("/camera/depth/image_rect_raw", "f"), ("/cam/image", "camera_depth_optical_frame")],
)
def test_depth_image_is_neither_camera_nor_thermal(
    encoding: str, topic: str, frame_id: str
) -> None:
    pixels = np.full((12, 16), 1500).astype(np.float32 if encoding == "32FC1" else np.uint16)
    msg = raw(pixels, encoding, frame_id=frame_id)
    for decoder in (image_from_message, thermal_from_message):
        with pytest.raises(MessageError) as caught:
            decoder(msg, "c", 0, topic=topic)
        assert caught.value.reason == "not_a_picture"


def test_16uc1_camera_image_and_dark_16_bit_image_give_a_notice() -> None:
    notices = Notices()
    pixels = np.linspace(0, 65535, 24 * 32).reshape(24, 32).astype(np.uint16)
    image_from_message(raw(pixels, "16UC1"), "c", 0, "/cam/image", notices)
    assert any("depth camera" in n for n in notices.pop())
    image_from_message(raw(pixels // 17, "mono16"), "d", 0, "/cam/image", notices)
    assert any("4095" in n for n in notices.pop())


def test_accepted_conventions_are_listed() -> None:
    assert all(e.values and e.interpretation and e.otherwise for e in thermal_module.ACCEPTED)
