"""The sweep, the boxes and the occupancy grid from above."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.frame import Boxes3D, OccupancyGrid, SensorFrame
from multimodal_perception.geometry.boxes import corners
from multimodal_perception.visualization.canvas import Canvas, write_text
from multimodal_perception.visualization.palette import (
    FREE,
    LABEL,
    OCCUPIED,
    UNKNOWN_CELL,
    Colour,
    class_colour,
)


def draw_sweep(frame: SensorFrame, boxes: Boxes3D, extent: float, size: int) -> NDArray[np.uint8]:
    """RGB image (size, size, 3): points by height, boxes by class, labels in green."""
    canvas = Canvas.blank(extent, size)
    canvas.rings()
    points = frame.points_in_base()
    order = np.argsort(points[:, 2], kind="stable")  # what is high covers what is low
    points = points[order]
    canvas.dots(points[:, :2], _height_colours(points[:, 2]))
    if frame.labels is not None:
        _draw_boxes(canvas, frame.labels, LABEL)
    _draw_boxes(canvas, boxes, None)
    canvas.ego()
    return canvas.image


def draw_occupancy(
    grid: OccupancyGrid, boxes: Boxes3D, extent: float, size: int
) -> NDArray[np.uint8]:
    """RGB image (size, size, 3): free green, occupied yellow, unknown dark, by their masses."""
    canvas = Canvas.blank(extent, size)
    middles = (np.arange(size) + 0.5) * (2 * extent / size) - extent
    x, y = np.meshgrid(-middles, -middles, indexing="ij")
    row = np.floor((y - grid.origin[1]) / grid.resolution).astype(np.int64)
    column = np.floor((x - grid.origin[0]) / grid.resolution).astype(np.int64)
    rows, columns = grid.free.shape
    inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
    row, column = np.where(inside, row, 0), np.where(inside, column, 0)
    free = np.where(inside, grid.free[row, column], 0)[..., None]
    occupied = np.where(inside, grid.occupied[row, column], 0)[..., None]
    colours = (1 - free - occupied) * UNKNOWN_CELL + free * FREE + occupied * OCCUPIED
    canvas.image[:] = np.clip(np.rint(colours), 0, 255).astype(np.uint8)
    canvas.rings()
    _draw_boxes(canvas, boxes, None)
    canvas.ego()
    return canvas.image


def _draw_boxes(canvas: Canvas, boxes: Boxes3D, colour: Colour | None) -> None:
    for i, corner in enumerate(corners(boxes.boxes)):
        name = boxes.class_names[boxes.labels[i]]
        shade = class_colour(name) if colour is None else colour
        outline = corner[:4, :2]
        canvas.polygon(outline, shade, 2 if colour is None else 1)
        middle, front = outline.mean(axis=0), (outline[0] + outline[3]) / 2
        canvas.line(np.stack([middle, front]), shade, 1)
        if colour is None:
            column, row = canvas.pixels(outline.max(axis=0)[None])[0].tolist()
            text = f"{name} {boxes.scores[i]:.2f}"
            write_text(canvas.image, text, (column, row - 4), shade, 0.38)


def _height_colours(z: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Grey on the ground, blue to warm white with height."""
    share = np.clip(z / 3.0, 0.0, 1.0)[:, None]
    low, high = np.array([86.0, 92.0, 104.0]), np.array([255.0, 214.0, 150.0])
    middle = np.array([92.0, 140.0, 200.0])
    below = low + (middle - low) * np.clip(share * 4, 0, 1)
    return (below + (high - below) * np.clip(share * 1.33 - 0.33, 0, 1)).astype(np.uint8)
