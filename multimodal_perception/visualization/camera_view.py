"""Boxes projected into the image of a camera, for visible light or heat."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.frame import Boxes3D, SensorFrame
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.boxes import EDGES, corners
from multimodal_perception.images.thermal_normalization import gain_controlled
from multimodal_perception.visualization.canvas import write_text
from multimodal_perception.visualization.palette import LABEL, Colour, class_colour

# Edges are drawn in pieces: a lens bends them, and only part of one may be before the camera.
PIECES = 24
# Names of narrower ones would lie over each other.
NAMED_WIDTH = 20


def draw_camera(frame: SensorFrame, camera: str, boxes: Boxes3D) -> NDArray[np.uint8]:
    """RGB image (H, W, 3) uint8 with the boxes, and the frame's labels thin and green.

    Raises KeyError when the frame has no such camera.
    """
    return _with_boxes(frame.cameras[camera].rgb(), frame, camera, boxes)


def draw_thermal(frame: SensorFrame, camera: str, boxes: Boxes3D) -> NDArray[np.uint8]:
    """The same of a thermal camera, cold black to hot white through purple and orange."""
    image = frame.thermals[camera]
    grey = image.pixels
    if grey.dtype != np.uint8:
        kelvin = 1.0 if image.kelvin is None else image.kelvin[0]
        grey = gain_controlled(grey, 1.0 / kelvin)
    colours = cv2.applyColorMap(grey, cv2.COLORMAP_INFERNO)[..., ::-1]
    return _with_boxes(np.asarray(colours, np.uint8), frame, camera, boxes)


def seen_labels(frame: SensorFrame) -> Boxes3D | None:
    """The frame's labels but for those that are known to have no LiDAR point: they are hidden."""
    labels = frame.labels
    if labels is None or labels.num_points is None:
        return labels
    return labels.select(labels.num_points > 0)


def _with_boxes(
    pixels: NDArray[np.uint8], frame: SensorFrame, camera: str, boxes: Boxes3D
) -> NDArray[np.uint8]:
    image = np.ascontiguousarray(pixels).copy()
    labels = seen_labels(frame)
    if labels is not None:
        for box in labels.boxes:
            _draw_box(image, frame, camera, box, LABEL, 1)
    for i in np.argsort(-boxes.boxes[:, 0], kind="stable"):  # the nearest last
        name = boxes.class_names[boxes.labels[i]]
        colour = class_colour(name)
        top = _draw_box(image, frame, camera, boxes.boxes[i], colour, 2)
        if top is not None and top[2] >= NAMED_WIDTH:
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
    """Draw one box; returns the pixel of its highest corner seen and its width in pixels, None when
    nothing of it is."""
    camera_from_base = poses.inverse(frame.reference_from_sensor(camera))
    corner = corners(box)[0]
    ends = np.array(EDGES)
    share = np.linspace(0.0, 1.0, PIECES + 1)[None, :, None]
    lines = corner[ends[:, :1]] * (1 - share) + corner[ends[:, 1:]] * share
    # A cross on the front face shows where it heads.
    for a, b in ((0, 7), (3, 4)):
        lines = np.concatenate([lines, corner[a] * (1 - share) + corner[b] * share])
    points = poses.transform_points(camera_from_base, lines.reshape(-1, 3))
    pixels, seen = frame.intrinsics[camera].project(points)
    pixels, seen = pixels.reshape(len(lines), -1, 2), seen.reshape(len(lines), -1)
    if not seen.any():
        return None
    for line, inside in zip(pixels, seen, strict=True):
        both = inside[:-1] & inside[1:]
        for k in np.flatnonzero(both):
            start, end = (tuple(int(v) for v in np.rint(line[j])) for j in (k, k + 1))
            cv2.line(image, start, end, colour, width, cv2.LINE_AA)
    visible = pixels[seen]
    u, v = visible[visible[:, 1].argmin()]
    return int(u), int(max(v, 18)), int(np.ptp(visible[:, 0]))
