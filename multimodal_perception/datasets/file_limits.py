"""Bounded reading of files from data sets: regular files only, with limits of size and of pixels."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from multimodal_perception.datasets.dataset import DatasetError
from multimodal_perception.files import FileError, read_regular_file

MAX_IMAGE_BYTES = 64 << 20
MAX_IMAGE_PIXELS = 64_000_000
MAX_JSON_BYTES = 1 << 30
MAX_SWEEP_BYTES = 1 << 30
MAX_TEXT_BYTES = 16 << 20


def read_bytes(path: Path, max_bytes: int) -> bytes:
    """Read a regular file of at most max_bytes.

    A pipe, a device or a folder is refused without waiting for it. Raises DatasetError that names the
    file.
    """
    try:
        return read_regular_file(path, max_bytes)
    except FileError as error:
        raise DatasetError(str(error)) from error


def read_floats(path: Path, max_bytes: int = MAX_SWEEP_BYTES) -> NDArray[np.float32]:
    """Values (N,) float32 of a binary file; a trailing part of a value is refused.

    Raises DatasetError that names the file.
    """
    content = read_bytes(path, max_bytes)
    if len(content) % 4:
        raise DatasetError(
            f"{path}: the size is {len(content)} bytes, not a multiple of 4 (float32 values)"
        )
    return np.frombuffer(content, np.float32).copy()


def read_text_lines(path: Path, max_bytes: int = MAX_TEXT_BYTES) -> list[str]:
    """Lines of an ASCII file. Raises DatasetError that names the file."""
    content = read_bytes(path, max_bytes)
    try:
        return content.decode("ascii").splitlines()
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: not ASCII text (byte {error.start})") from error


def read_json(path: Path, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """Parse a JSON file. Raises DatasetError that names the file."""
    content = read_bytes(path, max_bytes)
    try:
        return json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: not JSON: {error}") from error


def read_colour_image(path: Path) -> NDArray[np.uint8]:
    """Pixels (H, W, 3) uint8 in BGR order; an orientation in the metadata is not applied.

    Raises DatasetError for a file that is not an image, or has more than MAX_IMAGE_PIXELS.
    """
    return _decode(path, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)


def read_label_image(path: Path) -> NDArray[Any]:
    """Pixels of a label image as stored: (H, W) uint8 or uint16, or (H, W, 3) uint8 in BGR order.

    The colours of an image with a palette are resolved. Raises DatasetError.
    """
    pixels = _decode(path, cv2.IMREAD_UNCHANGED)
    return pixels[..., :3] if pixels.ndim == 3 else pixels


def _decode(path: Path, flags: int) -> NDArray[Any]:
    content = read_bytes(path, MAX_IMAGE_BYTES)
    try:
        with PillowImage.open(io.BytesIO(content)) as header:  # reads no pixels
            width, height = header.size
    except (OSError, ValueError, PillowImage.DecompressionBombError) as error:
        raise DatasetError(f"{path}: not a readable image ({error})") from error
    if width * height > MAX_IMAGE_PIXELS:
        raise DatasetError(
            f"{path}: {width}x{height} pixels; allowed: at most {MAX_IMAGE_PIXELS} pixels"
        )
    try:
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except cv2.error:
        pixels = None
    if pixels is None:
        raise DatasetError(f"{path}: not a readable image")
    return np.asarray(pixels)
