"""Top views of the point cloud, the boxes and the occupancy grid."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.frame import Boxes3D, SensorFrame, UltrasonicReading
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.boxes import corners
from multimodal_perception.perception import OccupancyGrid
from multimodal_perception.visualization.camera_view import visible_labels
from multimodal_perception.visualization.canvas import Canvas, write_text
from multimodal_perception.visualization.palette import (
    ECHO,
    FREE,
    GROUND_TRUTH,
    OCCUPIED,
    ULTRASONIC_CONE,
    UNKNOWN_CELL,
    Colour,
    class_colour,
)

# No velocity line is drawn for slower objects, m/s.
MIN_ARROW_SPEED = 0.5


def draw_sweep(frame: SensorFrame, boxes: Boxes3D, extent: float, size: int) -> NDArray[np.uint8]:
    """RGB image (size, size, 3) uint8: points coloured by height, ultrasonic cones up to their
    echoes, boxes in class colours, labels in green.

    extent: distance from base_link to each edge in metres.
    """
    canvas = Canvas.blank(extent, size)
    canvas.draw_range_rings()
    points = frame.points_in_base()
    order = np.argsort(points[:, 2], kind="stable")  # higher points are drawn over lower ones
    points = points[order]
    canvas.draw_points(points[:, :2], height_colours(points[:, 2]))
    for name, reading in frame.ultrasonics.items():
        if name in frame.base_from_sensor:
            _draw_cone(canvas, reading, frame.reference_from_sensor(name))
    labels = visible_labels(frame)
    if labels is not None:
        _draw_boxes(canvas, labels, GROUND_TRUTH)
    _draw_boxes(canvas, boxes, None)
    canvas.draw_ego()
    return canvas.image


def draw_occupancy(
    grid: OccupancyGrid, boxes: Boxes3D, extent: float, size: int
) -> NDArray[np.uint8]:
    """RGB image (size, size, 3) uint8: free green, occupied yellow, unknown dark, mixed by their
    masses."""
    canvas = Canvas.blank(extent, size)
    centres = (np.arange(size) + 0.5) * (2 * extent / size) - extent
    x, y = np.meshgrid(-centres, -centres, indexing="ij")
    row = np.floor((y - grid.origin[1]) / grid.resolution).astype(np.int64)
    column = np.floor((x - grid.origin[0]) / grid.resolution).astype(np.int64)
    rows, columns = grid.free.shape
    inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
    row, column = np.where(inside, row, 0), np.where(inside, column, 0)
    free = np.where(inside, grid.free[row, column], 0)[..., None]
    occupied = np.where(inside, grid.occupied[row, column], 0)[..., None]
    canvas.image[:] = occupancy_colours(free, occupied)
    canvas.draw_range_rings()
    _draw_boxes(canvas, boxes, None)
    canvas.draw_ego()
    return canvas.image


def occupancy_colours(
    free: NDArray[np.float32], occupied: NDArray[np.float32]
) -> NDArray[np.uint8]:
    """Colours (..., 3) uint8 of cells with masses (..., 1): free, occupied and unknown mixed."""
    colours = (1 - free - occupied) * UNKNOWN_CELL + free * FREE + occupied * OCCUPIED
    return np.clip(np.rint(colours), 0, 255).astype(np.uint8)


def draw_outlines(canvas: Canvas, boxes: Boxes3D) -> None:
    """Draw boxes in their class colours, without text."""
    for box, label in zip(boxes.boxes, boxes.labels, strict=True):
        outline = corners(box)[0][:4, :2]
        colour = class_colour(boxes.class_names[label])
        canvas.draw_polygon(outline, colour, 1)
        centre, front = outline.mean(axis=0), (outline[0] + outline[3]) / 2
        canvas.draw_line(np.stack([centre, front]), colour, 1)


def _draw_cone(
    canvas: Canvas, reading: UltrasonicReading, base_from_sensor: NDArray[np.float64]
) -> None:
    """Draw a cone up to the echo, or up to the maximum range if there is no echo; the echo is an arc."""
    arc, has_echo = cone_arc(reading)
    corners_3d = np.concatenate([arc, np.zeros((1, 3))])
    flat = poses.transform_points(base_from_sensor, corners_3d)[:, :2]
    canvas.draw_polygon(flat, ULTRASONIC_CONE, 1)
    if has_echo:
        canvas.draw_line(flat[:-1], ECHO, 2)


def cone_arc(reading: UltrasonicReading) -> tuple[NDArray[np.float64], bool]:
    """The arc (13, 3) at the end of a cone, in the sensor's frame, and whether it is an echo.

    It is at the echo, at min_range if an object is closer, and at max_range without an echo.
    """
    has_echo = bool(np.isfinite(reading.range_m))
    distance = reading.range_m if has_echo else reading.max_range
    if reading.range_m == -np.inf:
        has_echo, distance = True, reading.min_range
    angle = np.linspace(-0.5, 0.5, 13) * reading.field_of_view
    arc = np.column_stack([distance * np.cos(angle), distance * np.sin(angle), 0 * angle])
    return arc, has_echo


def _draw_boxes(canvas: Canvas, boxes: Boxes3D, colour: Colour | None) -> None:
    for i, corner in enumerate(corners(boxes.boxes)):
        name = boxes.class_names[boxes.labels[i]]
        shade = class_colour(name) if colour is None else colour
        outline = corner[:4, :2]
        canvas.draw_polygon(outline, shade, 2 if colour is None else 1)
        centre, front = outline.mean(axis=0), (outline[0] + outline[3]) / 2
        canvas.draw_line(np.stack([centre, front]), shade, 1)
        if colour is None:
            if boxes.velocities is not None and np.hypot(*boxes.velocities[i]) >= MIN_ARROW_SPEED:
                # The line ends at the position in one second.
                canvas.draw_line(np.stack([centre, centre + boxes.velocities[i]]), shade, 2)
            column, row = canvas.to_pixels(outline.max(axis=0)[None])[0].tolist()
            text = f"{name} {boxes.scores[i]:.2f}"
            write_text(canvas.image, text, (column, row - 4), shade, 0.38)


def height_colours(z: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Colours (N, 3) uint8 of heights (N,) in metres: grey at the ground, then blue, to warm white
    at 3 m."""
    ratio = np.clip(z / 3.0, 0.0, 1.0)[:, None]
    low, high = np.array([86.0, 92.0, 104.0]), np.array([255.0, 214.0, 150.0])
    medium = np.array([92.0, 140.0, 200.0])
    below = low + (medium - low) * np.clip(ratio * 4, 0, 1)
    return (below + (high - below) * np.clip(ratio * 1.33 - 0.33, 0, 1)).astype(np.uint8)
