"""Decode sensor_msgs/Image and CompressedImage of cameras.

Pixels are views of the message's memory, unless the encoding requires a conversion. The decoders accept
any object with the attributes of the messages.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.frame import CameraImage
from multimodal_perception.image_topics import DEPTH_WORDS, is_depth_topic
from multimodal_perception.images.byte_order import has_swapped_bytes
from multimodal_perception.messages.accepted import Accepted
from multimodal_perception.messages.compressed import decode_compressed
from multimodal_perception.messages.encodings import ENCODINGS, PLANAR_TO_RGB, TO_RGB
from multimodal_perception.messages.errors import MessageError
from multimodal_perception.notices import Notices

# Encodings of distances or temperatures, which are not used as pictures.
MEASUREMENT_ENCODINGS = ("32FC1", "64FC1", "16SC1")
# 16-bit images with no value above this are reported: 10 or 12 bits that are not scaled to 16.
MAX_12_BIT = 4095
# The byte order of smaller images is not examined: neighbouring pixels differ by chance.
MIN_PIXELS_FOR_BYTE_ORDER = 256


def is_known_encoding(msg: Any) -> bool:
    """Whether pixels_from_message decodes an Image's encoding; also true for a CompressedImage."""
    encoding = getattr(msg, "encoding", None)
    return encoding is None or encoding in ENCODINGS or encoding in PLANAR_TO_RGB


def pixels_from_message(msg: Any) -> NDArray[Any]:
    """Return the pixels of an Image without conversion: (H, W) or (H, W, C).

    The result is a view of the message's memory (read-only if that is), or a copy if the byte order is
    not native. nv12 and nv21 are returned as (3/2 H, W). `step` is not used for an image of one row that
    has exactly the bytes of its pixels.

    Raises MessageError with reason zero_size, unknown_encoding, bad_step, truncated or oversized.
    """
    width, height, step = int(msg.width), int(msg.height), int(msg.step)
    if width <= 0 or height <= 0:
        raise MessageError("zero_size", f"image of {width} x {height}")
    if msg.encoding in PLANAR_TO_RGB:
        if width % 2 or height % 2:
            raise MessageError("bad_step", f"{msg.encoding} needs an even width and height")
        code, channels, rows = "u1", 1, height * 3 // 2
    elif msg.encoding in ENCODINGS:
        (code, channels), rows = ENCODINGS[msg.encoding], height
    else:
        known = ", ".join((*ENCODINGS, *PLANAR_TO_RGB))
        raise MessageError("unknown_encoding", f"{str(msg.encoding)[:40]!r}; known: {known}"[:480])
    dtype = np.dtype((">" if msg.is_bigendian else "<") + code)
    size = memoryview(msg.data).nbytes
    row_bytes = width * channels * dtype.itemsize
    if rows == 1 and size == row_bytes:
        step = row_bytes
    if step < row_bytes or step % dtype.itemsize:
        raise MessageError("bad_step", f"step {step} for {width} {msg.encoding} pixels")
    if size != rows * step:
        reason = "truncated" if size < rows * step else "oversized"
        raise MessageError(reason, f"{size} bytes of data, {rows * step} expected")
    shape, strides = (rows, width, channels), (step, channels * dtype.itemsize, dtype.itemsize)
    pixels = np.ndarray(shape, dtype, memoryview(msg.data), 0, strides)
    if channels == 1:
        pixels = pixels[..., 0]
    return pixels if dtype.isnative else pixels.astype(dtype.newbyteorder("="))


def image_from_message(
    msg: Any, sensor: str, stamp_ns: int, topic: str = "", notices: Notices | None = None
) -> CameraImage:
    """Decode an Image or a CompressedImage of a camera.

    16-bit images are scaled to 8 bits like in cv_bridge. Floating-point images and 16-bit images of a
    depth camera (by `topic` and frame_id) are rejected. Assumptions are added to `notices`.

    Raises MessageError with a reason of pixels_from_message or decode_compressed, or not_a_picture.
    """
    frame_id = msg.header.frame_id
    if hasattr(msg, "format"):
        decoded = decode_compressed(msg, sensor, notices)
        pixels, encoding = decoded.pixels, decoded.encoding
        if decoded.depth:
            raise MessageError("not_a_picture", "compressedDepth has distances or temperatures")
    else:
        pixels, encoding = pixels_from_message(msg), msg.encoding
    if encoding in MEASUREMENT_ENCODINGS:
        raise MessageError("not_a_picture", f"{encoding} has distances or temperatures")
    if pixels.dtype == np.uint16:
        if pixels.ndim == 2 and is_depth_topic(topic, frame_id):
            raise MessageError("not_a_picture", f"{encoding} image of a depth camera ({topic})")
        if pixels.ndim == 2 and encoding not in TO_RGB:
            pixels = in_native_byte_order(pixels, sensor, notices)
        if notices is not None:
            _notice_16_bit(pixels, encoding, sensor, notices)
    pixels, order = to_8_bit_colour(pixels, encoding)
    return CameraImage(sensor, stamp_ns, frame_id, pixels, order)  # type: ignore[arg-type]


def to_8_bit_colour(pixels: NDArray[Any], encoding: str) -> tuple[NDArray[np.uint8], str]:
    """Convert decoded pixels to (H, W) mono8 or (H, W, 3) rgb8 or bgr8, without a copy if possible.

    Raises MessageError with reason zero_size or bad_step if the size is not allowed for the encoding.
    """
    order = "mono8"
    if encoding in PLANAR_TO_RGB:
        pixels, order = cv2.cvtColor(np.ascontiguousarray(pixels), PLANAR_TO_RGB[encoding]), "rgb8"
    elif encoding in TO_RGB:
        # OpenCV returns black images for smaller Bayer images.
        if encoding.startswith("bayer") and min(pixels.shape) < 3:
            raise MessageError("zero_size", f"{encoding} needs at least 3 x 3 pixels")
        if ENCODINGS[encoding] == ("u1", 2) and pixels.shape[1] % 2:
            raise MessageError("bad_step", f"{encoding} needs an even width")
        pixels, order = cv2.cvtColor(np.ascontiguousarray(pixels), TO_RGB[encoding]), "rgb8"
    elif pixels.ndim == 3:
        order = "rgb8" if encoding.startswith("rgb") else "bgr8"
    if pixels.dtype == np.uint16:
        shape = pixels.shape
        pixels = cv2.convertScaleAbs(np.ascontiguousarray(pixels), alpha=255.0 / 65535.0)
        pixels = pixels.reshape(shape)
    return pixels, order


def in_native_byte_order(
    pixels: NDArray[np.uint16], sensor: str, notices: Notices | None
) -> NDArray[np.uint16]:
    """Return 16-bit pixels (H, W) with swapped bytes if is_bigendian of the message is clearly wrong."""
    if pixels.size < MIN_PIXELS_FOR_BYTE_ORDER or not has_swapped_bytes(pixels):
        return pixels
    if notices is not None:
        notices.add(
            sensor,
            "16-bit pixels are smooth only with swapped bytes: they are swapped; correct is_bigendian "
            "of the driver",
        )
    return pixels.byteswap()


def _notice_16_bit(
    pixels: NDArray[np.uint16], encoding: str, sensor: str, notices: Notices
) -> None:
    if encoding == "16UC1":
        notices.add(
            sensor,
            "16UC1 images are taken as 16-bit grey images; if this is a depth camera, remove the sensor",
        )
    if int(pixels.max()) <= MAX_12_BIT:
        notices.add(
            sensor,
            f"{encoding} images use only values up to {MAX_12_BIT}: they are scaled by 255/65535 and "
            "dark, as the encoding states 16 bits",
        )


ACCEPTED: tuple[Accepted, ...] = (
    Accepted(
        "sensor_msgs/Image of a camera: encoding",
        (*(e for e in ENCODINGS if e not in MEASUREMENT_ENCODINGS), *PLANAR_TO_RGB),
        "8UC3, 8UC4, 16UC3 and 16UC4 are BGR or BGRA; an alpha channel is not used; Bayer is "
        "demosaiced; yuv422 is UYVY; 16 bits are scaled to 8 by 255/65535. 16UC1 gives a notice.",
        f"{', '.join(MEASUREMENT_ENCODINGS)}, and 16-bit grey images with a word of "
        f"{', '.join(DEPTH_WORDS)} in topic or frame_id: not_a_picture. Others: unknown_encoding.",
    ),
    Accepted(
        "sensor_msgs/Image: step, is_bigendian and size of data",
        (
            "step >= bytes of a row",
            "any step for one row with exactly its bytes",
            "both byte orders",
        ),
        "Bytes beyond the pixels of a row are padding. 16-bit grey pixels that are smooth only with "
        "swapped bytes are swapped (notice).",
        "bad_step, truncated or oversized.",
    ),
)
