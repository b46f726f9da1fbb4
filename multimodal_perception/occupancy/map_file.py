"""Writes a map in the format of Nav2's map_server: an image and a YAML file with its geometry."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.files import FileError, UserError, atomic_write, check_name, user_path

MapMode = Literal["trinary", "scale", "raw"]
ImageFormat = Literal["pgm", "png", "bmp"]
MODES, FORMATS = get_args(MapMode), get_args(ImageFormat)
# Grey levels of a trinary map, and the thresholds that separate them when the map is loaded.
FREE_LEVEL, UNKNOWN_LEVEL, OCCUPIED_LEVEL = 254, 205, 0
TRINARY_OCCUPIED, TRINARY_FREE = 0.65, 0.196
# Level of an unknown cell in the modes scale (transparent) and raw.
SCALE_UNKNOWN_LEVEL, RAW_UNKNOWN_LEVEL = 128, 255


@dataclass(frozen=True)
class MapFormat:
    """Format of a map file, with the defaults of map_server.

    image_format: scale needs png, because its unknown cells are transparent. free_threshold,
    occupied_threshold: values (divided by 100) up to which a cell is free, and from which it is
    occupied, in the mode trinary. Raises UserError for other values.
    """

    image_format: str = "pgm"
    mode: str = "trinary"
    free_threshold: float = 0.25
    occupied_threshold: float = 0.65

    def __post_init__(self) -> None:
        if self.image_format not in FORMATS:
            raise UserError(f"image format {self.image_format!r}: allowed: {', '.join(FORMATS)}")
        if self.mode not in MODES:
            raise UserError(f"map mode {self.mode!r}: allowed: {', '.join(MODES)}")
        if self.mode == "scale" and self.image_format != "png":
            raise UserError("map mode scale: allowed image format: png; unknown is transparent")
        if not 0.0 <= self.free_threshold < self.occupied_threshold <= 1.0:
            raise UserError(
                "thresholds: allowed: 0 <= free < occupied <= 1; got "
                f"{self.free_threshold:g} and {self.occupied_threshold:g}"
            )


def write_map(
    path: Path,
    cells: NDArray[np.int8],
    resolution: float,
    origin: tuple[float, float],
    map_format: MapFormat | None = None,
) -> tuple[Path, Path]:
    """Write PATH.yaml and its image; returns both paths.

    path: without extension; its folder is created. cells: (rows, columns), -1 to 100 as in
    nav_msgs/OccupancyGrid, the first row has the smallest y. resolution: m. origin: x and y of the lower
    left corner of the first cell, m. Each file replaces an older one atomically. Raises FileError.
    """
    c = map_format or MapFormat()
    image_path = path.with_name(f"{path.name}.{c.image_format}")
    yaml_path = path.with_name(f"{path.name}.yaml")
    ok, encoded = cv2.imencode(f".{c.image_format}", _pixels(cells, c))
    if not ok:
        raise FileError(f"{image_path}: the image could not be encoded")
    occupied, free = c.occupied_threshold, c.free_threshold
    if c.mode == "trinary":  # the levels of the image do not depend on the thresholds
        occupied, free = TRINARY_OCCUPIED, TRINARY_FREE
    lines = (
        f"image: {json.dumps(image_path.name, ensure_ascii=False)}",
        f"mode: {c.mode}",
        f"resolution: {resolution:.6g}",
        f"origin: [{origin[0]:.6f}, {origin[1]:.6f}, 0]",
        "negate: 0",
        f"occupied_thresh: {occupied:g}",
        f"free_thresh: {free:g}",
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"{path.parent}: cannot be created: {error.strerror}") from error
    with atomic_write(image_path) as file:
        file.write(encoded.tobytes())
    with atomic_write(yaml_path) as file:
        file.write(("\n".join(lines) + "\n").encode())
    return yaml_path, image_path


def resolve_map_path(name: str, folder: Path) -> Path:
    """Path of a map without extension: a name, or a path inside of the folder of maps.

    name: may start with file:// and end with .yaml, as in nav2_msgs/SaveMap. Raises UserError for a path
    that is outside of the folder, also by .. or by a symbolic link.
    """
    text = re.sub(r"\.ya?ml$", "", name.removeprefix("file://"))
    path = user_path(text) if text else Path()
    try:
        root = user_path(folder).resolve()
        path = (path if path.is_absolute() else root / path).resolve()
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of symbolic links
        raise UserError(f"map {name[:100]!r}: {error}") from error
    if path == root or not path.is_relative_to(root):
        raise UserError(f"map {name[:100]!r}: allowed: a name or a path in the folder {root}")
    check_name(path.name, f"map {name[:100]!r}", "file name")
    return path


def _pixels(cells: NDArray[np.int8], c: MapFormat) -> NDArray[np.uint8]:
    """Image of a map: the first row of pixels has the largest y."""
    values = np.flipud(cells).astype(np.int16)
    unknown = (values < 0) | (values > 100)
    if c.mode == "raw":
        return np.where(unknown, RAW_UNKNOWN_LEVEL, values).astype(np.uint8)
    if c.mode == "trinary":
        levels = np.full(values.shape, UNKNOWN_LEVEL, np.uint8)
        levels[values <= round(100 * c.free_threshold)] = FREE_LEVEL
        levels[values >= round(100 * c.occupied_threshold)] = OCCUPIED_LEVEL
        levels[unknown] = UNKNOWN_LEVEL
        return levels
    levels = np.rint(255 * (100 - np.clip(values, 0, 100)) / 100).astype(np.uint8)
    levels[unknown] = SCALE_UNKNOWN_LEVEL
    alpha = np.where(unknown, 0, 255).astype(np.uint8)
    return np.dstack([levels, levels, levels, alpha])
