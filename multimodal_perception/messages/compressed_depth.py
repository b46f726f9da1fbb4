"""Decode the data of image_transport's plugin compressedDepth.

A header of 12 bytes (format as int32, quantisation parameters a and b as float32, little-endian) is
followed by a PNG image or by the RVL codec (Wilson, Fast Lossless Depth Image Compression, ISS 2017).
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.kernels import njit
from multimodal_perception.messages.errors import MessageError

DEPTH_HEADER_BYTES = 12
# Width and height as uint32 in front of the RVL data.
RVL_HEADER_BYTES = 8


def rvl_size(payload: bytes) -> tuple[int, int]:
    """Return width and height of an RVL image."""
    width, height = struct.unpack_from("<II", payload)
    return int(width), int(height)


def decode_rvl(payload: bytes) -> NDArray[np.uint16]:
    """Decode an RVL image (H, W). Raises MessageError("truncated") or MessageError("undecodable")."""
    width, height = rvl_size(payload)
    count = (len(payload) - RVL_HEADER_BYTES) // 4
    words = np.frombuffer(payload, "<u4", count, RVL_HEADER_BYTES).astype(np.uint32)
    values = np.zeros(width * height, np.uint16)
    outcome = _decode_runs(words, values)
    if outcome == TRUNCATED:
        raise MessageError("truncated", f"RVL data ends before {width} x {height} pixels")
    if outcome == TOO_LONG:
        raise MessageError("undecodable", f"RVL data has more than {width} x {height} pixels")
    return values.reshape(height, width)


def dequantise(values: NDArray[np.uint16], header: bytes) -> NDArray[np.float32]:
    """Return the float values (H, W) of inverse values: a / (value - b), NaN where value is 0.

    Raises MessageError("undecodable") for quantisation parameters that are not finite.
    """
    a, b = struct.unpack_from("<ff", header, 4)
    if not (np.isfinite(a) and np.isfinite(b)):
        raise MessageError("undecodable", f"compressedDepth with parameters {a}, {b}")
    with np.errstate(divide="ignore", invalid="ignore"):
        result = np.float32(a) / (values.astype(np.float32) - np.float32(b))
    result[values == 0] = np.nan
    return result


# Results of _decode_runs.
DECODED, TRUNCATED, TOO_LONG = 0, 1, 2


@njit()
def _next_value(words, nibble):  # type: ignore[no-untyped-def]
    """Value with variable length that starts at a nibble, and the next nibble; -1 at the end."""
    value, shift = 0, 0
    while True:
        if nibble >= 8 * len(words) or shift > 30:
            return -1, nibble
        bits = (words[nibble >> 3] >> np.uint32(28 - 4 * (nibble & 7))) & np.uint32(15)
        nibble += 1
        value |= int(bits & np.uint32(7)) << shift
        shift += 3
        if bits < 8:
            return value, nibble


@njit()
def _decode_runs(words, values):  # type: ignore[no-untyped-def]
    """Fill values (N,) uint16 from the 4-bit groups of words (M,) uint32."""
    nibble, position, previous = 0, 0, 0
    while position < len(values):
        zeros, nibble = _next_value(words, nibble)
        if zeros < 0:
            return TRUNCATED
        nonzeros, nibble = _next_value(words, nibble)
        if nonzeros < 0:
            # An image that ends in zeros may omit the empty run behind them.
            return DECODED if position + zeros == len(values) else TRUNCATED
        if zeros + nonzeros == 0 or position + zeros + nonzeros > len(values):
            return TOO_LONG
        position += zeros
        for _ in range(nonzeros):
            delta, nibble = _next_value(words, nibble)
            if delta < 0:
                return TRUNCATED
            previous += (delta >> 1) ^ -(delta & 1)
            values[position] = np.uint16(previous & 0xFFFF)
            position += 1
    return DECODED
