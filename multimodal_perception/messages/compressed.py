"""Decode sensor_msgs/CompressedImage as image_transport's plugins define it.

The plugins are compressed and compressedDepth. The format is "ENCODING; CODEC compressed ORDER", for
example "rgb8; jpeg compressed bgr8", where ENCODING is that of the original image and ORDER the channel
order in which it was compressed, or only "CODEC".
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from multimodal_perception.messages.accepted import Accepted
from multimodal_perception.messages.compressed_depth import (
    DEPTH_HEADER_BYTES,
    RVL_HEADER_BYTES,
    decode_rvl,
    dequantise,
    rvl_size,
)
from multimodal_perception.messages.encodings import ENCODINGS
from multimodal_perception.messages.errors import MessageError
from multimodal_perception.notices import Notices

MAX_COMPRESSED_PIXELS = 64_000_000
# Names of the codecs in a format by Pillow's name of the data format.
CODECS: dict[str, tuple[str, ...]] = {
    "JPEG": ("jpeg", "jpg", "mjpeg", "mjpg"),
    "PNG": ("png",),
    "TIFF": ("tiff", "tif"),
    "WEBP": ("webp",),
    "AVIF": ("avif",),
}
# Codecs of formats that are refused, because a message has no complete image or OpenCV no decoder.
UNSUPPORTED_CODECS = (
    *("h264", "h265", "hevc", "avc", "libx264", "libx265", "vp8", "vp9", "av1", "mpeg4", "ffmpeg"),
    *(
        "theora",
        "zstd",
        "draco",
        "qoi",
        "jp2",
        "jpegxl",
        "jxl",
        "gif",
        "bmp",
        "lz4",
        "zlib",
        "depthz",
    ),
)
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# First marker of a JPEG scan that is neither a stuffed byte nor a restart marker.
SCAN_END = re.compile(rb"\xff+([^\x00\xd0-\xd7\xff])")
_ENCODING_NAMES = {name.lower(): name for name in ENCODINGS}


@dataclass(frozen=True)
class CompressedFormat:
    """Content of CompressedImage.format; empty texts if it is not stated.

    encoding: of the original image. codec: key of CODECS, or the name of an unsupported codec. target:
    encoding in which the image was compressed, such as bgr8 or mono8. depth: whether the transport is
    compressedDepth. rvl: whether its codec is RVL.
    """

    encoding: str = ""
    codec: str = ""
    target: str = ""
    depth: bool = False
    rvl: bool = False


@dataclass(frozen=True)
class DecodedImage:
    """Pixels (H, W) or (H, W, 3) uint8, uint16 or float32, and the encoding that describes them.

    encoding: a key of ENCODINGS. lossy_16_bit: whether a 16-bit image was compressed to 8 bits. depth:
    whether the transport is compressedDepth.
    """

    pixels: NDArray[Any]
    encoding: str
    lossy_16_bit: bool = False
    depth: bool = False


def parse_format(text: str) -> CompressedFormat:
    """Parse CompressedImage.format, ignoring upper and lower case and spaces."""
    lower = str(text).strip().lower()
    head, separator, rest = lower.partition(";")
    head = head.strip()
    encoding = _ENCODING_NAMES.get(head, head if separator else "")
    if not separator and encoding.startswith(("rgb", "bgr")):
        encoding = ""  # without a codec, colours are in the usual order of the codec
    words = re.findall(r"[a-z0-9_+.\-]+", rest if separator else lower)
    codec = ""
    for word in (*words, head):  # ffmpeg_image_transport starts with the codec
        named = next((codec for codec, names in CODECS.items() if word in names), "")
        codec = codec or named or (word if word in UNSUPPORTED_CODECS else "")
    target = ""
    if "compressed" in words:
        following = words[words.index("compressed") + 1 :]
        target = following[0] if following else ""
    return CompressedFormat(
        encoding,
        codec,
        target,
        "compresseddepth" in words,
        "rvl" in words and "compresseddepth" in words,
    )


def decode_compressed(msg: Any, sensor: str, notices: Notices | None = None) -> DecodedImage:
    """Decompress a CompressedImage; Bayer and single-channel images keep their encoding.

    Raises MessageError with reason zero_size, undecodable, unsupported_codec, too_large or truncated.
    """
    stated = parse_format(msg.format)
    data = bytes(memoryview(msg.data))
    if not data:
        raise MessageError("zero_size", "no compressed data")
    if stated.depth or data[DEPTH_HEADER_BYTES:].startswith(PNG_SIGNATURE):
        return _decode_depth(data, stated)
    pixels, codec = _decompress(data, stated, str(msg.format))
    if notices is not None and stated.codec and stated.codec != codec:
        notices.add(
            sensor, f"format states {stated.codec}, but the data is {codec}: decoded as {codec}"
        )
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        pixels = pixels[..., :3]  # the alpha channel is not used
    encoding = stated.encoding
    bits = 8 * pixels.dtype.itemsize
    if encoding.startswith("bayer") and stated.target[:5] in ("", "bayer"):
        if pixels.ndim == 3 and np.array_equal(pixels.min(axis=2), pixels.max(axis=2)):
            pixels = np.ascontiguousarray(pixels[..., 0])
        if pixels.ndim == 2 and f"{encoding.rstrip('0123456789')}{bits}" in ENCODINGS:
            return DecodedImage(pixels, f"{encoding.rstrip('0123456789')}{bits}")
    if pixels.dtype == np.float32:
        return DecodedImage(pixels, "32FC1")
    if pixels.ndim == 2:
        lossy = bits == 8 and encoding in ENCODINGS and ENCODINGS[encoding][0] != "u1"
        wide = "16UC1" if encoding == "16UC1" else "mono16"
        return DecodedImage(pixels, "mono8" if bits == 8 else wide, lossy)
    order = _channel_order(stated, codec, sensor, notices)
    return DecodedImage(pixels, f"{order}{bits}")


def _channel_order(
    stated: CompressedFormat, codec: str, sensor: str, notices: Notices | None
) -> str:
    """Order of OpenCV's decoded channels: bgr, or rgb if RGB was compressed without conversion."""
    if stated.target.startswith(("bgr", "rgb")):
        return stated.target[:3]
    colour = next((o for o in ("rgb", "bgr") if stated.encoding.startswith(o)), "")
    if not colour:
        return "bgr"
    if codec == "TIFF":
        return colour  # image_transport compresses TIFF without conversion
    if codec in ("JPEG", "PNG"):
        if notices is not None:
            notices.add(
                sensor,
                f"format {stated.encoding!r} without 'compressed bgr8': taken as compressed in RGB "
                "order, as image_transport's decoder does",
            )
        return "rgb"
    return "bgr"


def _decode_depth(data: bytes, stated: CompressedFormat) -> DecodedImage:
    """Decode the transport compressedDepth: a header of 12 bytes, then PNG or RVL of 16-bit values."""
    header, payload = data[:DEPTH_HEADER_BYTES], data[DEPTH_HEADER_BYTES:]
    if stated.rvl:
        if len(payload) < RVL_HEADER_BYTES:
            raise MessageError("truncated", f"{len(payload)} bytes of RVL data")
        width, height = rvl_size(payload)
        if not (width and height):
            raise MessageError("zero_size", f"{width} x {height} pixels")
        if width * height > MAX_COMPRESSED_PIXELS:
            raise MessageError("too_large", f"{width} x {height} pixels")
        values = decode_rvl(payload)
    else:
        decoded, _ = _decompress(payload, CompressedFormat(codec="PNG"), "compressedDepth")
        if decoded.ndim != 2:
            raise MessageError("undecodable", "compressedDepth with several channels")
        if decoded.dtype != np.uint16:
            raise MessageError("undecodable", f"compressedDepth with {decoded.dtype} values")
        values = decoded
    encoding = stated.encoding or "16UC1"
    if encoding in ("16UC1", "mono16"):
        return DecodedImage(values, "16UC1", depth=True)
    if encoding == "32FC1":
        return DecodedImage(dequantise(values, header), "32FC1", depth=True)
    raise MessageError("undecodable", f"compressedDepth of {encoding[:40]!r}")


def _decompress(data: bytes, stated: CompressedFormat, text: str) -> tuple[NDArray[Any], str]:
    try:
        # Pillow reads only the header: the image size is checked before a huge image is decompressed.
        with PillowImage.open(io.BytesIO(data), formats=tuple(CODECS)) as header:
            width, height = header.size
            codec = "JPEG" if header.format == "MPO" else str(header.format)
            end = _end_of_image(data, codec, header)
    except PillowImage.DecompressionBombError as error:
        raise MessageError("too_large", str(error)) from error
    except MessageError:
        raise
    except Exception as error:  # Pillow's parsers raise many types for a malformed header
        if stated.codec in UNSUPPORTED_CODECS:
            raise MessageError(
                "unsupported_codec",
                f"{stated.codec}: a message has no complete image; publish it raw or compressed",
            ) from error
        known = ", ".join(CODECS)
        raise MessageError(
            "undecodable", f"format {text[:40]!r}: none of {known} ({type(error).__name__})"
        ) from error
    if width * height > MAX_COMPRESSED_PIXELS:
        raise MessageError("too_large", f"{width} x {height} pixels")
    try:
        # UNCHANGED keeps the bit depth and ignores an EXIF orientation: the calibration refers to the
        # sensor's pixels.
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8, end), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise MessageError("undecodable", str(error).strip()[:80]) from error
    if pixels is None or pixels.size == 0:
        raise MessageError("undecodable", f"format {text[:40]!r}")
    if pixels.dtype not in (np.uint8, np.uint16) and not (
        pixels.dtype == np.float32 and pixels.ndim == 2
    ):
        raise MessageError("undecodable", f"{codec} with {pixels.dtype} values")
    if pixels.ndim == 3 and pixels.shape[2] in (1, 2):
        pixels = np.ascontiguousarray(pixels[..., 0])  # grey, with alpha
    return pixels, codec


def _end_of_image(data: bytes, codec: str, header: PillowImage.Image) -> int:
    """Return the position after the image; later bytes are ignored. Raises MessageError("truncated")."""
    if codec == "JPEG":
        end = _jpeg_end(data)
    elif codec == "PNG":
        end = _png_end(data)
    elif codec == "WEBP":
        end = 8 + int.from_bytes(data[4:8], "little")
    elif codec == "TIFF":
        end = _tiff_end(header)
    else:
        end = _boxes_end(data)
    if not 0 < end <= len(data):
        raise MessageError("truncated", "the end of the compressed image is missing")
    return len(data) if codec == "TIFF" else end


def _jpeg_end(data: bytes) -> int:
    """Position after the end-of-image marker that belongs to the start of the data, or 0.

    Thumbnails inside of segments have end markers of their own, and drivers append padding or metadata.
    """
    if data.endswith(b"\xff\xd9"):  # usual: the search below takes longer for large images
        return len(data)
    position = 2
    while True:
        match = SCAN_END.search(data, position)
        if match is None:
            return 0
        marker, position = match.group(1)[0], match.end()
        if marker == 0xD9:
            return position
        if marker == 0x01 or marker == 0xD8:
            continue
        position += int.from_bytes(data[position : position + 2], "big")


def _png_end(data: bytes) -> int:
    """Position after the IEND chunk, or 0.

    OpenCV allocates the length that a chunk declares, so a false length must be rejected first.
    """
    position = 8
    while position + 12 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        chunk_type = data[position + 4 : position + 8]
        position += 12 + length
        if chunk_type == b"IEND":
            return position
    return 0


def _tiff_end(header: Any) -> int:
    """Position after the last strip or tile of the first image of a TIFF file, or 0."""
    tags = header.tag_v2
    for offsets, lengths in ((273, 279), (324, 325)):
        if offsets in tags and lengths in tags:
            pairs = zip(np.atleast_1d(tags[offsets]), np.atleast_1d(tags[lengths]), strict=False)
            return max((int(o) + int(n) for o, n in pairs), default=0)
    return 0


def _boxes_end(data: bytes) -> int:
    """Position after the last box of an AVIF file, beyond the data if that box is truncated."""
    position = 0
    while position + 8 <= len(data):
        size = int.from_bytes(data[position : position + 4], "big")
        if size == 1:
            size = int.from_bytes(data[position + 8 : position + 16], "big")
        elif size == 0:  # up to the end of the data
            return len(data)
        if size < 8:
            return position
        position += size
    return position


ACCEPTED: tuple[Accepted, ...] = (
    Accepted(
        "sensor_msgs/CompressedImage: data",
        tuple(CODECS),
        "Recognised by the data; a format that states another codec gives a notice. Bytes after the end "
        "of the image are ignored; an EXIF orientation is ignored.",
        f"unsupported_codec for {', '.join(UNSUPPORTED_CODECS)}; otherwise undecodable. An incomplete "
        "image: truncated.",
    ),
    Accepted(
        "sensor_msgs/CompressedImage: format",
        ("ENCODING; CODEC compressed bgr8", "ENCODING; CODEC compressed rgb8", "CODEC", "empty"),
        "bgr: decoded channels are blue, green, red; rgb: red, green, blue. Without an order, rgb8 and "
        "bgr8 images in JPEG and PNG are taken as RGB like image_transport's decoder (notice), in TIFF "
        "in the order of ENCODING; without ENCODING as usual for the codec.",
        "Other words are ignored.",
    ),
    Accepted(
        "sensor_msgs/CompressedImage: Bayer images",
        ("bayer_PATTERN8; CODEC compressed", "bayer_PATTERN16; CODEC compressed"),
        "A single channel is demosaiced, unless the format ends in mono8 (already converted to grey).",
        "As grey image.",
    ),
    Accepted(
        "sensor_msgs/CompressedImage: compressedDepth",
        (
            "16UC1; compressedDepth png",
            "16UC1; compressedDepth rvl",
            "32FC1; compressedDepth png or rvl",
        ),
        "12 bytes of header, then 16-bit values; 32FC1 is dequantised from inverse values. Used for "
        "thermal images; values of 0 are no measurement.",
        "As camera image: not_a_picture.",
    ),
)
