"""Boxes projected into the image of a camera or thermal camera."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.frame import Boxes3D, SensorFrame, ThermalImage
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.boxes import EDGES, corners
from multimodal_perception.images.thermal_normalization import auto_gain
from multimodal_perception.visualization.canvas import write_text
from multimodal_perception.visualization.palette import GROUND_TRUTH, Colour, class_colour

# Each box edge is drawn in segments, because lens distortion bends it and it may lie partly behind
# the camera.
EDGE_SEGMENTS = 24
# Class names of boxes narrower than this (pixels) are omitted, because they would overlap.
MIN_LABELLED_WIDTH = 20


def draw_camera(frame: SensorFrame, camera: str, boxes: Boxes3D) -> NDArray[np.uint8]:
    """RGB image (H, W, 3) uint8 of a camera with the boxes, and with the frame's labels in thin
    green lines.

    Raises KeyError if the frame has no such camera.
    """
    return _draw_boxes_on(frame.cameras[camera].rgb(), frame, camera, boxes)


def draw_thermal(frame: SensorFrame, camera: str, boxes: Boxes3D) -> NDArray[np.uint8]:
    """RGB image (H, W, 3) uint8 of a thermal camera with boxes and labels.

    The colour map runs from black (cold) through purple and orange to white (hot).
    Raises KeyError if the frame has no such thermal camera.
    """
    return _draw_boxes_on(thermal_colours(frame.thermals[camera]), frame, camera, boxes)


def thermal_colours(image: ThermalImage) -> NDArray[np.uint8]:
    """RGB image (H, W, 3) uint8 of a thermal image: black (cold), purple, orange, white (hot)."""
    grey = image.filled_pixels()
    if grey.dtype != np.uint8:
        kelvin = 1.0 if image.counts_to_kelvin is None else image.counts_to_kelvin[0]
        grey = auto_gain(grey, 1.0 / kelvin)
    colours = cv2.applyColorMap(grey, cv2.COLORMAP_INFERNO)[..., ::-1]
    return np.asarray(colours, np.uint8)


def project_edges(
    frame: SensorFrame, camera: str, box: NDArray[np.floating]
) -> list[NDArray[np.float64]]:
    """Visible parts of the edges of a box in an image: polylines (n, 2), n > 1, in pixels.

    The cross on the front face is included. Raises KeyError without extrinsics or intrinsics.
    """
    pixels, visible = _project_edges(frame, camera, box)
    parts = []
    for line, inside in zip(pixels, visible, strict=True):
        ends = np.flatnonzero(np.diff(np.concatenate([[False], inside, [False]]).astype(np.int8)))
        parts += [line[a:b] for a, b in ends.reshape(-1, 2).tolist() if b - a > 1]
    return parts


def visible_labels(frame: SensorFrame) -> Boxes3D | None:
    """The frame's labels without those that have zero LiDAR points, which are occluded."""
    labels = frame.labels
    if labels is None or labels.num_points is None:
        return labels
    return labels.select(labels.num_points > 0)


def _draw_boxes_on(
    pixels: NDArray[np.uint8], frame: SensorFrame, camera: str, boxes: Boxes3D
) -> NDArray[np.uint8]:
    image = np.ascontiguousarray(pixels).copy()
    labels = visible_labels(frame)
    if labels is not None:
        for box in labels.boxes:
            _draw_box(image, frame, camera, box, GROUND_TRUTH, 1)
    for i in np.argsort(-boxes.boxes[:, 0], kind="stable"):  # draw the nearest box last
        name = boxes.class_names[boxes.labels[i]]
        colour = class_colour(name)
        top = _draw_box(image, frame, camera, boxes.boxes[i], colour, 2)
        if top is not None and top[2] >= MIN_LABELLED_WIDTH:
            write_text(image, f"{name} {boxes.scores[i]:.2f}", (top[0], top[1] - 6), colour, 0.45)
    return image


def _draw_box(
    image: NDArray[np.uint8],
    frame: SensorFrame,
    camera: str,
    box: NDArray[np.floating],
    colour: Colour,
    width: int,
) -> tuple[int, int, int] | None:
    """Draw one box. Returns (u, v, width in pixels) with the topmost visible pixel, or None if no
    part of the box is visible."""
    pixels, visible = _project_edges(frame, camera, box)
    if not visible.any():
        return None
    for line, inside in zip(pixels, visible, strict=True):
        both = inside[:-1] & inside[1:]
        for k in np.flatnonzero(both):
            start, end = (tuple(int(v) for v in np.rint(line[j])) for j in (k, k + 1))
            cv2.line(image, start, end, colour, width, cv2.LINE_AA)
    drawn = pixels[visible]
    u, v = drawn[drawn[:, 1].argmin()]
    return int(u), int(max(v, 18)), int(np.ptp(drawn[:, 0]))


def _project_edges(
    frame: SensorFrame, camera: str, box: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Pixels (lines, EDGE_SEGMENTS + 1, 2) of the edges and whether each is in the image."""
    camera_from_base = poses.inverse(frame.reference_from_sensor(camera))
    corner = corners(box)[0]
    ends = np.array(EDGES)
    fraction = np.linspace(0.0, 1.0, EDGE_SEGMENTS + 1)[None, :, None]
    lines = corner[ends[:, :1]] * (1 - fraction) + corner[ends[:, 1:]] * fraction
    # A cross on the front face shows the heading.
    for a, b in ((0, 7), (3, 4)):
        lines = np.concatenate([lines, corner[a] * (1 - fraction) + corner[b] * fraction])
    points = poses.transform_points(camera_from_base, lines.reshape(-1, 3))
    pixels, visible = frame.intrinsics[camera].project(points)
    return pixels.reshape(len(lines), -1, 2), visible.reshape(len(lines), -1)
