"""Decode sensor_msgs/Image and CompressedImage of thermal cameras to counts with a scale to kelvin."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.frame import ThermalImage
from multimodal_perception.image_topics import DEPTH_WORDS, is_depth_topic
from multimodal_perception.messages.accepted import Accepted
from multimodal_perception.messages.compressed import decode_compressed
from multimodal_perception.messages.decoding_log import DecodingLog
from multimodal_perception.messages.encodings import TO_RGB
from multimodal_perception.messages.errors import MessageError
from multimodal_perception.messages.images import (
    in_native_byte_order,
    pixels_from_message,
    to_8_bit_colour,
)
from multimodal_perception.rig import TemperatureUnit

# Scale and offset of the counts to which floating-point temperatures are converted.
KELVIN_PER_COUNT = 0.01
CELSIUS_OFFSET = 273.15
# Kelvin by unit: scale and offset.
UNITS: dict[str, tuple[float, float]] = {
    "kelvin": (1.0, 0.0),
    "celsius": (1.0, CELSIUS_OFFSET),
    "fahrenheit": (5.0 / 9.0, CELSIUS_OFFSET - 32.0 * 5.0 / 9.0),
}
# Values of outdoor and industrial scenes in each unit that the automatic choice distinguishes.
PLAUSIBLE_VALUES = {"kelvin": (180.0, 1000.0), "celsius": (-90.0, 150.0)}
# A unit is chosen if at least this fraction of the pixels is plausible in it.
MIN_PLAUSIBLE_FRACTION = 0.25
# Temperatures outside these limits are no measurement, kelvin.
MIN_KELVIN, MAX_KELVIN = 1.0, 3000.0
# 0 and 65535 are no measurement if all other counts differ from them by at least this.
SENTINEL_GAP = 1000
# Medians outside these limits are reported as an implausible scale, kelvin.
PLAUSIBLE_MEDIAN_K = (200.0, 1000.0)
# A scale is for 8-bit images if their counts reach this temperature and cover this range, kelvin.
MIN_8_BIT_KELVIN, MIN_8_BIT_RANGE = 200.0, 10.0


def thermal_from_message(
    msg: Any,
    sensor: str,
    stamp_ns: int,
    counts_to_kelvin: tuple[float, float] | None = None,
    unit: TemperatureUnit = "auto",
    invalid_counts: tuple[int, ...] | None = None,
    topic: str = "",
    log: DecodingLog | None = None,
) -> ThermalImage:
    """Decode an Image or a CompressedImage of a thermal camera.

    8-bit and 16-bit images keep their counts; 16SC1 is shifted by 32768. Floating-point images are
    temperatures in `unit` and are stored as counts of 0.01 K. Colour images are converted to grey.
    Pixels without a measurement are marked in ThermalImage.valid: NaN, impossible temperatures, and
    `invalid_counts` (None: 0 and 65535 if no other count is near).

    counts_to_kelvin: scale and offset from the rig file for integer images. Raises MessageError like
    image_from_message, or with reason ambiguous_temperature_unit or no_measurement.
    """
    log = log or DecodingLog()
    frame_id = msg.header.frame_id
    if hasattr(msg, "format"):
        decoded = decode_compressed(msg, sensor, log.notices)
        pixels, encoding = decoded.pixels, decoded.encoding
        if decoded.lossy_16_bit:
            log.notices.add(
                sensor,
                f"format {str(msg.format)[:40]!r} with 8-bit data: the 16-bit counts are lost, and the "
                "images are used without temperatures",
            )
            counts_to_kelvin = None
    else:
        pixels, encoding = pixels_from_message(msg), msg.encoding
    if pixels.ndim == 2 and pixels.dtype != np.uint8 and is_depth_topic(topic, frame_id):
        raise MessageError("not_a_picture", f"{encoding} image of a depth camera ({topic})")
    counts: NDArray[Any]
    if pixels.dtype.kind == "f":
        counts, valid = _float_counts(pixels, encoding, unit, sensor, log)
        counts_to_kelvin = (KELVIN_PER_COUNT, 0.0)
    else:
        if pixels.ndim == 3 or encoding in TO_RGB or pixels.dtype.itemsize == 1:
            counts = _grey(pixels, encoding, sensor, log)
        else:
            counts, counts_to_kelvin = _unsigned(pixels, counts_to_kelvin)
        valid = None
        if counts.dtype == np.uint8:
            counts_to_kelvin = _scale_of_8_bits(counts_to_kelvin, sensor, log)
        else:
            counts = in_native_byte_order(np.asarray(counts, np.uint16), sensor, log.notices)
            valid = _valid_counts(counts, invalid_counts, sensor, log)
            _notice_scale(counts, valid, counts_to_kelvin, sensor, log)
    if valid is not None:
        missing = int(valid.size - np.count_nonzero(valid))
        if missing == valid.size:
            raise MessageError("no_measurement", f"no pixel of {encoding} has a measurement")
        log.information[sensor, "no_measurement"] += missing
    return ThermalImage(sensor, stamp_ns, frame_id, counts, counts_to_kelvin, valid)


def _float_counts(
    pixels: NDArray[Any], encoding: str, unit: TemperatureUnit, sensor: str, log: DecodingLog
) -> tuple[NDArray[np.uint16], NDArray[np.bool_] | None]:
    """Counts of 0.01 K and the mask of measured pixels, None if all are."""
    if unit == "auto":
        unit = _choose_unit(pixels, encoding)
        log.notices.add(
            sensor,
            f"{encoding} pixels are taken as {unit} by their values; temperature_unit fixes it",
        )
    scale, offset = UNITS[unit]
    with np.errstate(over="ignore", invalid="ignore"):
        kelvin = pixels * pixels.dtype.type(scale) + pixels.dtype.type(offset)
        valid = (kelvin >= MIN_KELVIN) & ((kelvin <= MAX_KELVIN) | np.isposinf(kelvin))
        counts = np.nan_to_num(kelvin / KELVIN_PER_COUNT, nan=0.0, posinf=65535.0, neginf=0.0)
        clipped = valid & (counts > 65535)
    if clipped.any():
        log.notices.add(
            sensor, f"temperatures above {65535 * KELVIN_PER_COUNT:.0f} K are limited to this value"
        )
    counts = np.clip(np.rint(counts), 0, 65535).astype(np.uint16)
    return counts, None if valid.all() else valid


def _choose_unit(pixels: NDArray[Any], encoding: str) -> TemperatureUnit:
    """Kelvin or celsius, whichever makes more pixels plausible. Raises MessageError."""
    finite = pixels[np.isfinite(pixels)]
    if not finite.size:
        raise MessageError("no_measurement", f"no pixel of {encoding} is finite")
    # Zero is no measurement in many drivers, so it does not count for celsius.
    fractions = {
        unit: np.count_nonzero((finite >= low) & (finite <= high) & (finite != 0)) / finite.size
        for unit, (low, high) in PLAUSIBLE_VALUES.items()
    }
    best: TemperatureUnit = "kelvin" if fractions["kelvin"] >= fractions["celsius"] else "celsius"
    if fractions[best] < MIN_PLAUSIBLE_FRACTION:
        if not finite.any():
            raise MessageError("no_measurement", f"all pixels of {encoding} are zero")
        low, high = np.percentile(finite, (5, 95))
        raise MessageError(
            "ambiguous_temperature_unit",
            f"{encoding} values {low:.4g} to {high:.4g} are neither kelvin nor degrees Celsius; "
            "set temperature_unit",
        )
    return best


def _grey(pixels: NDArray[Any], encoding: str, sensor: str, log: DecodingLog) -> NDArray[np.uint8]:
    converted, order = to_8_bit_colour(pixels, encoding)
    if converted.ndim == 2:
        return converted
    converted = np.ascontiguousarray(converted)
    sample = converted[::8, ::8]
    if not np.array_equal(sample.min(axis=2), sample.max(axis=2)):
        log.notices.add(
            sensor,
            f"{encoding} images have colours: they are converted to grey; a colour palette of the "
            "camera does not keep the order of temperatures, so select a grey palette",
        )
    code = cv2.COLOR_RGB2GRAY if order == "rgb8" else cv2.COLOR_BGR2GRAY
    return np.asarray(cv2.cvtColor(converted, code), np.uint8)


def _unsigned(
    pixels: NDArray[Any], counts_to_kelvin: tuple[float, float] | None
) -> tuple[NDArray[np.uint16], tuple[float, float] | None]:
    if pixels.dtype != np.int16:
        return pixels, counts_to_kelvin
    shifted = (pixels.astype(np.int32) + 32768).astype(np.uint16)
    if counts_to_kelvin is None:
        return shifted, None
    scale, offset = counts_to_kelvin
    return shifted, (scale, offset - 32768 * scale)


def _scale_of_8_bits(
    counts_to_kelvin: tuple[float, float] | None, sensor: str, log: DecodingLog
) -> tuple[float, float] | None:
    """The scale if it is meant for 8-bit counts, else None and a notice."""
    if counts_to_kelvin is None:
        return None
    scale, offset = counts_to_kelvin
    if 255 * scale >= MIN_8_BIT_RANGE and 255 * scale + offset >= MIN_8_BIT_KELVIN:
        return counts_to_kelvin
    log.notices.add(
        sensor,
        f"8-bit images, but counts_to_kelvin ({scale:g}, {offset:g}) is for 16-bit counts: the images "
        "are used without temperatures",
    )
    return None


def _valid_counts(
    counts: NDArray[np.uint16],
    invalid_counts: tuple[int, ...] | None,
    sensor: str,
    log: DecodingLog,
) -> NDArray[np.bool_] | None:
    """Mask of measured pixels, None if all are."""
    if invalid_counts is not None:
        valid = ~np.isin(counts, invalid_counts)
        return None if valid.all() else valid
    low, high = int(counts.min()), int(counts.max())
    if low != 0 and high != 65535:
        return None
    valid = np.ones(counts.shape, np.bool_)
    recognised = []
    if low == 0:
        others = counts[counts > 0]
        if not others.size or int(others.min()) >= SENTINEL_GAP:
            valid &= counts > 0
            recognised.append("0")
    if high == 65535:
        others = counts[counts < 65535]
        if not others.size or int(others.max()) <= 65535 - SENTINEL_GAP:
            valid &= counts < 65535
            recognised.append("65535")
    if not recognised:
        return None
    log.notices.add(
        sensor,
        f"pixels of value {' and '.join(recognised)} are taken as no measurement; invalid_counts fixes "
        "this",
    )
    return valid


def _notice_scale(
    counts: NDArray[np.uint16],
    valid: NDArray[np.bool_] | None,
    counts_to_kelvin: tuple[float, float] | None,
    sensor: str,
    log: DecodingLog,
) -> None:
    measured = counts[::4, ::4]
    if valid is not None:
        measured = measured[valid[::4, ::4]]
    if counts_to_kelvin is None or not measured.size:
        return
    scale, offset = counts_to_kelvin
    low, high = PLAUSIBLE_MEDIAN_K
    median = float(np.median(measured))
    if low <= scale * median + offset <= high:
        return
    hint = next(
        (f"; {s:g} K per count would fit" for s in (0.01, 0.04, 0.1) if low <= s * median <= 400),
        "",
    )
    log.notices.add(
        sensor,
        f"counts_to_kelvin ({scale:g}, {offset:g}) gives implausible temperatures{hint}: check the "
        "camera's output (raw counts or linear in temperature)",
    )


ACCEPTED: tuple[Accepted, ...] = (
    Accepted(
        "sensor_msgs/Image of a thermal camera: integer encodings",
        ("mono8", "8UC1", "mono16", "16UC1", "16SC1", "colour and Bayer encodings of cameras"),
        "Counts; kelvin = scale * count + offset with counts_to_kelvin of the rig file. A scale for "
        "16-bit counts is not used for 8-bit images (notice). Colours are converted to grey (notice).",
        f"16-bit and floating-point images with a word of {', '.join(DEPTH_WORDS)} in topic or "
        "frame_id: not_a_picture.",
    ),
    Accepted(
        "Thermal images: floating-point pixels (32FC1, 64FC1), rig key temperature_unit",
        ("auto", *UNITS),
        "auto: "
        + "; ".join(f"{unit} for {a:g} to {b:g}" for unit, (a, b) in PLAUSIBLE_VALUES.items())
        + f", if at least {MIN_PLAUSIBLE_FRACTION:.0%} of the pixels are in the range and more than in "
        "the other one; a notice states the choice. Stored with 0.01 K resolution up to 655 K.",
        "Dropped and counted as ambiguous_temperature_unit.",
    ),
    Accepted(
        "Thermal images: pixels without a measurement, rig key invalid_counts",
        (
            "NaN, -inf",
            f"below {MIN_KELVIN:g} or above {MAX_KELVIN:g} K",
            "16-bit counts 0 and 65535",
        ),
        f"Marked as invalid. 0 and 65535 only if all other counts are at least {SENTINEL_GAP} away "
        "(notice), or the values of invalid_counts. +inf is the highest temperature.",
        "An image without any measurement is dropped and counted as no_measurement.",
    ),
)
