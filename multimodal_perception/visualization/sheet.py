"""One image per frame: cameras and thermal cameras with boxes, a top view of the point cloud and the
ultrasonic sensors, and the occupancy grid."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.configuration import UserError
from multimodal_perception.frame import Boxes3D, SensorFrame
from multimodal_perception.perception import OccupancyGrid
from multimodal_perception.visualization.camera_view import draw_camera, draw_thermal
from multimodal_perception.visualization.canvas import write_text
from multimodal_perception.visualization.palette import (
    BACKGROUND,
    FREE,
    GROUND_TRUTH,
    MUTED,
    OCCUPIED,
    TEXT,
    class_colour,
)
from multimodal_perception.visualization.top_view import draw_occupancy, draw_sweep

WIDTH = 1640
GAP = 16
TITLE = 34
MAX_COLUMNS = 3


def draw_sheet(
    frame: SensorFrame,
    boxes: Boxes3D,
    occupancy: OccupancyGrid | None = None,
    title: str = "",
    extent: float = 40.0,
) -> NDArray[np.uint8]:
    """RGB image (H, 1640, 3) uint8 of a frame and the perception results of it.

    extent: distance from base_link to each edge of the top views in metres.
    """
    rows = [_heading(frame, boxes, title)]
    images = [(n, draw_camera(frame, n, boxes)) for n in sorted(frame.cameras, key=_camera_order)]
    images += [(n, draw_thermal(frame, n, boxes)) for n in sorted(frame.thermals)]
    rows += arrange_rows(images)
    size = (WIDTH - 3 * GAP) // 2
    sensors = "LiDAR and ultrasonic sensors" if frame.ultrasonics else "LiDAR"
    top = [add_title(draw_sweep(frame, boxes, extent, size), f"{sensors}, top view")]
    if occupancy is not None:
        grid = draw_occupancy(occupancy, boxes, extent, size)
        _legend(grid, (("free", FREE), ("occupied", OCCUPIED)))
        top.append(add_title(grid, "occupancy"))
    rows.append(join_panels(top))
    return np.concatenate(rows)


def save_png(path: Path, image: NDArray[np.uint8]) -> None:
    """Write an RGB image (H, W, 3) uint8 as PNG. Raises UserError if it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    written, data = cv2.imencode(".png", image[..., ::-1])
    if not written:
        raise UserError(f"{path}: the image could not be encoded")
    try:
        path.write_bytes(data.tobytes())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error


def _camera_order(name: str) -> tuple[int, str]:
    """Sort key: front cameras before rear cameras, each from left to right; other names last."""
    positions = ("front_left", "front", "front_right", "back_left", "back", "back_right")
    ending = max((p for p in positions if name.endswith(p)), key=len, default=None)
    return (positions.index(ending) if ending else len(positions)), name


def _heading(frame: SensorFrame, boxes: Boxes3D, title: str) -> NDArray[np.uint8]:
    bar = np.full((44, WIDTH, 3), BACKGROUND, np.uint8)
    points = sum(len(s.points) for s in frame.lidars.values())
    text = f"{title}   {points:,} points   {len(boxes)} boxes"
    if frame.missing:
        text += f"   missing: {', '.join(sorted(frame.missing))}"
    write_text(bar, text, (GAP, 30), TEXT, 0.65)
    named = ("car", "van", "truck", "bus", "pedestrian", "cyclist")
    entries = [(n, class_colour(n)) for n in named]
    if frame.labels is not None:
        entries.append(("label", GROUND_TRUTH))
    column = WIDTH - GAP - 118 * len(entries)
    for name, colour in entries:
        cv2.rectangle(bar, (column, 18), (column + 14, 32), colour, -1)
        write_text(bar, name, (column + 20, 31), MUTED, 0.45)
        column += 118
    return bar


def _legend(
    image: NDArray[np.uint8], entries: tuple[tuple[str, tuple[int, int, int]], ...]
) -> None:
    row = image.shape[0] - 14
    for i, (name, colour) in enumerate(entries):
        column = 12 + 110 * i
        cv2.rectangle(image, (column, row - 12), (column + 14, row + 2), colour, -1)
        write_text(image, name, (column + 20, row), MUTED, 0.45)


def resize_to_width(image: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    """Resize an image to a width in pixels; the aspect ratio is kept."""
    height = max(round(image.shape[0] * width / image.shape[1]), 1)
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def add_title(image: NDArray[np.uint8], title: str) -> NDArray[np.uint8]:
    """Add a line of text above an image."""
    bar = np.full((TITLE, image.shape[1], 3), BACKGROUND, np.uint8)
    write_text(bar, title, (2, 24), MUTED, 0.5)
    return np.concatenate([bar, image])


def arrange_rows(images: list[tuple[str, NDArray[np.uint8]]]) -> list[NDArray[np.uint8]]:
    """Rows of named images; each row is WIDTH pixels wide and holds at most MAX_COLUMNS images."""
    columns = min(MAX_COLUMNS, len(images))
    rows = []
    for start in range(0, len(images), MAX_COLUMNS):
        width = (WIDTH - GAP * (columns + 1)) // columns
        part = images[start : start + MAX_COLUMNS]
        rows.append(
            join_panels([add_title(resize_to_width(image, width), name) for name, image in part])
        )
    return rows


def join_panels(panels: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Join panels side by side to a row of WIDTH pixels with GAP pixels between them."""
    height = max(p.shape[0] for p in panels) + GAP
    row = np.full((height, WIDTH, 3), BACKGROUND, np.uint8)
    column = GAP
    for panel in panels:
        row[: panel.shape[0], column : column + panel.shape[1]] = panel
        column += panel.shape[1] + GAP
    return row
