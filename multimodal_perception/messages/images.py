"""sensor_msgs/Image, CompressedImage and CameraInfo to images and camera models.

Pixels are views of the message's memory; OpenCV converts colours where the encoding needs it.
Works on any object with the messages' attributes.
"""

from __future__ import annotations

import io
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from multimodal_perception.frame import CameraImage, ThermalImage
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.messages.errors import MessageError

# Encoding to (dtype, channels), as sensor_msgs/image_encodings names them.
ENCODINGS: dict[str, tuple[str, int]] = {
    "mono8": ("u1", 1),
    "8UC1": ("u1", 1),
    "mono16": ("u2", 1),
    "16UC1": ("u2", 1),
    "32FC1": ("f4", 1),
    "rgb8": ("u1", 3),
    "bgr8": ("u1", 3),
    "8UC3": ("u1", 3),
    "rgba8": ("u1", 4),
    "bgra8": ("u1", 4),
    "8UC4": ("u1", 4),
    "bayer_rggb8": ("u1", 1),
    "bayer_bggr8": ("u1", 1),
    "bayer_gbrg8": ("u1", 1),
    "bayer_grbg8": ("u1", 1),
    "yuv422": ("u1", 2),
    "uyvy": ("u1", 2),
    "yuv422_yuy2": ("u1", 2),
    "yuyv": ("u1", 2),
}
# OpenCV names a Bayer pattern by its second row, ROS by its first.
TO_RGB = {
    "rgba8": cv2.COLOR_RGBA2RGB,
    "bgra8": cv2.COLOR_BGRA2RGB,
    "8UC4": cv2.COLOR_BGRA2RGB,
    "bayer_rggb8": cv2.COLOR_BayerBG2RGB,
    "bayer_bggr8": cv2.COLOR_BayerRG2RGB,
    "bayer_gbrg8": cv2.COLOR_BayerGR2RGB,
    "bayer_grbg8": cv2.COLOR_BayerGB2RGB,
    "yuv422": cv2.COLOR_YUV2RGB_UYVY,
    "uyvy": cv2.COLOR_YUV2RGB_UYVY,
    "yuv422_yuy2": cv2.COLOR_YUV2RGB_YUY2,
    "yuyv": cv2.COLOR_YUV2RGB_YUY2,
}
MAX_COMPRESSED_PIXELS = 64_000_000
MODELS = {"": "pinhole", "none": "pinhole", "fisheye": "equidistant"}


def pixels_from_message(msg: Any) -> NDArray[Any]:
    """The image as it lies in memory: (H, W) or (H, W, C), read-only where the message is.

    Native byte order; a foreign one costs a copy.

    Raises MessageError with reason zero_size, unknown_encoding, bad_step, truncated or oversized.
    """
    width, height, step = int(msg.width), int(msg.height), int(msg.step)
    if width <= 0 or height <= 0:
        raise MessageError("zero_size", f"image of {width} x {height}")
    if msg.encoding not in ENCODINGS:
        known = ", ".join(ENCODINGS)
        raise MessageError("unknown_encoding", f"{str(msg.encoding)[:40]!r}; known: {known}")
    code, channels = ENCODINGS[msg.encoding]
    dtype = np.dtype((">" if msg.is_bigendian else "<") + code)
    if step < width * channels * dtype.itemsize or step % dtype.itemsize:
        raise MessageError("bad_step", f"step {step} for {width} {msg.encoding} pixels")
    size = memoryview(msg.data).nbytes
    if size != height * step:
        reason = "truncated" if size < height * step else "oversized"
        raise MessageError(reason, f"{size} bytes of data, {height * step} announced")
    shape, strides = (height, width, channels), (step, channels * dtype.itemsize, dtype.itemsize)
    pixels = np.ndarray(shape, dtype, memoryview(msg.data), 0, strides)
    if channels == 1:
        pixels = pixels[..., 0]
    return pixels if dtype.isnative else pixels.astype(dtype.newbyteorder("="))


def image_from_message(msg: Any, sensor: str, stamp_ns: int) -> CameraImage:
    """Decode an Image or a CompressedImage into a visible image.

    16-bit grey is scaled to 8 bits as cv_bridge does. 32FC1 is refused: it is a depth map.

    Raises MessageError; see pixels_from_message, and undecodable, too_large, not_a_picture.
    """
    frame_id = msg.header.frame_id
    if hasattr(msg, "format"):
        pixels = _decompress(msg, cv2.IMREAD_COLOR)
        return CameraImage(sensor, stamp_ns, frame_id, pixels, "bgr8")
    pixels = pixels_from_message(msg)
    encoding = msg.encoding
    if encoding in TO_RGB:
        # OpenCV leaves a smaller mosaic black.
        if encoding.startswith("bayer") and min(pixels.shape) < 3:
            raise MessageError("zero_size", f"{encoding} needs at least 3 x 3 pixels")
        if encoding in ("yuv422", "uyvy", "yuv422_yuy2", "yuyv") and pixels.shape[1] % 2:
            raise MessageError("bad_step", f"{encoding} needs an even width")
        rgb = cv2.cvtColor(np.ascontiguousarray(pixels), TO_RGB[encoding])
        return CameraImage(sensor, stamp_ns, frame_id, rgb, "rgb8")
    if encoding == "32FC1":
        raise MessageError("not_a_picture", "32FC1 holds distances or temperatures")
    if pixels.dtype == np.uint16:
        grey = cv2.convertScaleAbs(pixels, alpha=255.0 / 65535.0)
        return CameraImage(sensor, stamp_ns, frame_id, grey, "mono8")
    if pixels.ndim == 2:
        return CameraImage(sensor, stamp_ns, frame_id, pixels, "mono8")
    order = "rgb8" if encoding == "rgb8" else "bgr8"
    return CameraImage(sensor, stamp_ns, frame_id, pixels, order)  # type: ignore[arg-type]


def thermal_from_message(
    msg: Any, sensor: str, stamp_ns: int, kelvin: tuple[float, float] | None = None
) -> ThermalImage:
    """Decode a thermal image: mono8, mono16, 16UC1 or compressed; 32FC1 is taken as kelvin.

    kelvin: scale and offset from counts to kelvin, from the rig. Colour images count as grey.
    Raises MessageError as image_from_message does.
    """
    frame_id = msg.header.frame_id
    if hasattr(msg, "format"):
        pixels = _decompress(msg, cv2.IMREAD_ANYDEPTH | cv2.IMREAD_GRAYSCALE)
        return ThermalImage(sensor, stamp_ns, frame_id, pixels, kelvin)
    pixels = pixels_from_message(msg)
    if pixels.dtype == np.float32:
        with np.errstate(over="ignore", invalid="ignore"):
            counts = np.nan_to_num(pixels * 100.0, nan=0.0, posinf=65535.0, neginf=0.0)
        rounded = np.clip(np.rint(counts), 0, 65535).astype(np.uint16)
        return ThermalImage(sensor, stamp_ns, frame_id, rounded, (0.01, 0.0))
    if pixels.ndim == 3 or msg.encoding in TO_RGB:
        rgb = np.ascontiguousarray(image_from_message(msg, sensor, stamp_ns).rgb())
        pixels = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    return ThermalImage(sensor, stamp_ns, frame_id, pixels, kelvin)


def camera_model_from_message(msg: Any) -> CameraModel:
    """Intrinsics of a CameraInfo, region of interest and binning taken into account.

    Raises MessageError("bad_camera_info") when it is not calibrated or cannot be.
    """
    if len(msg.k) != 9:
        raise MessageError("bad_camera_info", f"k has {len(msg.k)} values, not 9")
    matrix = np.array(msg.k, np.float64).reshape(3, 3)
    model = MODELS.get(msg.distortion_model, msg.distortion_model)
    coefficients = np.array(msg.d, np.float64)
    if model != "equidistant" and not coefficients.any():
        model, coefficients = "pinhole", np.zeros(0)
    width, height = int(msg.width), int(msg.height)
    roi = msg.roi
    if roi.width and roi.height:
        matrix[:2, 2] -= int(roi.x_offset), int(roi.y_offset)
        width, height = int(roi.width), int(roi.height)
    try:
        camera = CameraModel(width, height, matrix, model, coefficients)
        binning = max(int(msg.binning_x), 1), max(int(msg.binning_y), 1)
        return camera if binning == (1, 1) else camera.scaled(1 / binning[0], 1 / binning[1])
    except ValueError as error:
        raise MessageError("bad_camera_info", str(error)) from error


def _decompress(msg: Any, flags: int) -> NDArray[Any]:
    data = bytes(memoryview(msg.data))
    if not data:
        raise MessageError("zero_size", "no compressed data")
    try:
        # Pillow reads only the header here: a small file must not become a huge image.
        with PillowImage.open(io.BytesIO(data), formats=("JPEG", "PNG")) as header:
            width, height = header.size
    except PillowImage.DecompressionBombError as error:
        raise MessageError("too_large", str(error)) from error
    except (OSError, SyntaxError, ValueError) as error:
        raise MessageError(
            "undecodable", f"neither JPEG nor PNG ({type(error).__name__})"
        ) from error
    if width * height > MAX_COMPRESSED_PIXELS:
        raise MessageError("too_large", f"{width} x {height} pixels")
    if not (_png_is_whole(data) if data[:1] == b"\x89" else _jpeg_is_whole(data)):
        raise MessageError("truncated", "the compressed image has no end")
    try:
        # Calibration holds for the pixels as read out, whatever an orientation tag says.
        flags |= cv2.IMREAD_IGNORE_ORIENTATION
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise MessageError("undecodable", str(error).strip()[:80]) from error
    if pixels is None or pixels.dtype not in (np.uint8, np.uint16):
        raise MessageError("undecodable", f"format {str(msg.format)[:40]!r}")
    return pixels


def _jpeg_is_whole(data: bytes) -> bool:
    return data.rstrip(b"\0").endswith(b"\xff\xd9")


def _png_is_whole(data: bytes) -> bool:
    """Whether each part lies within the data, up to IEND: OpenCV allocates what a part announces."""
    position = 8
    while position + 12 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        kind = data[position + 4 : position + 8]
        position += 12 + length
        if kind == b"IEND":
            return position <= len(data)
    return False
