"""One frame on one picture: cameras and thermal cameras with boxes, the sweep and the ultrasonics from
above, the occupancy grid."""

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
    LABEL,
    MUTED,
    OCCUPIED,
    TEXT,
    class_colour,
)
from multimodal_perception.visualization.top_view import draw_occupancy, draw_sweep

WIDTH = 1640
GAP = 16
TITLE = 34
MOST_COLUMNS = 3


def draw_sheet(
    frame: SensorFrame,
    boxes: Boxes3D,
    occupancy: OccupancyGrid | None = None,
    title: str = "",
    extent: float = 40.0,
) -> NDArray[np.uint8]:
    """RGB picture (H, 1640, 3) uint8 of a frame and what was perceived in it."""
    rows = [_heading(frame, boxes, title)]
    images = [(n, draw_camera(frame, n, boxes)) for n in sorted(frame.cameras, key=_camera_order)]
    images += [(n, draw_thermal(frame, n, boxes)) for n in sorted(frame.thermals)]
    rows += rows_of(images)
    size = (WIDTH - 3 * GAP) // 2
    heard = " and ultrasonics" if frame.ultrasonics else ""
    top = [titled(draw_sweep(frame, boxes, extent, size), f"LiDAR{heard} from above")]
    if occupancy is not None:
        grid = draw_occupancy(occupancy, boxes, extent, size)
        _legend(grid, (("free", FREE), ("occupied", OCCUPIED)))
        top.append(titled(grid, "occupancy"))
    rows.append(row_of(top))
    return np.concatenate(rows)


def save_png(path: Path, image: NDArray[np.uint8]) -> None:
    """Write an RGB image. Raises UserError when it cannot be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    written, data = cv2.imencode(".png", image[..., ::-1])
    if not written:
        raise UserError(f"{path}: the picture could not be encoded")
    try:
        path.write_bytes(data.tobytes())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error


def _camera_order(name: str) -> tuple[int, str]:
    """Around the vehicle from the left: front row before back row."""
    places = ("front_left", "front", "front_right", "back_left", "back", "back_right")
    ending = max((p for p in places if name.endswith(p)), key=len, default=None)
    return (places.index(ending) if ending else len(places)), name


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
        entries.append(("label", LABEL))
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


def fit(image: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    """The image at a width, its proportions kept."""
    height = max(round(image.shape[0] * width / image.shape[1]), 1)
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def titled(image: NDArray[np.uint8], title: str) -> NDArray[np.uint8]:
    """The image below a line of text."""
    bar = np.full((TITLE, image.shape[1], 3), BACKGROUND, np.uint8)
    write_text(bar, title, (2, 24), MUTED, 0.5)
    return np.concatenate([bar, image])


def rows_of(images: list[tuple[str, NDArray[np.uint8]]]) -> list[NDArray[np.uint8]]:
    """Named images as strips of WIDTH, at most MOST_COLUMNS side by side."""
    columns = min(MOST_COLUMNS, len(images))
    rows = []
    for start in range(0, len(images), MOST_COLUMNS):
        width = (WIDTH - GAP * (columns + 1)) // columns
        part = images[start : start + MOST_COLUMNS]
        rows.append(row_of([titled(fit(image, width), name) for name, image in part]))
    return rows


def row_of(panels: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Panels side by side on a strip of WIDTH, GAP apart."""
    height = max(p.shape[0] for p in panels) + GAP
    row = np.full((height, WIDTH, 3), BACKGROUND, np.uint8)
    column = GAP
    for panel in panels:
        row[: panel.shape[0], column : column + panel.shape[1]] = panel
        column += panel.shape[1] + GAP
    return row
