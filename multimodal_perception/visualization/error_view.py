"""Picture of a frame with false, missed and correct boxes marked."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.frame import Boxes3D, SensorFrame
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.boxes import corners
from multimodal_perception.visualization.canvas import Canvas, write_text
from multimodal_perception.visualization.palette import Colour

# Colours of the marks: missed labels, false boxes, correct boxes and boxes of the wrong class.
MISSED: Colour = (230, 60, 60)
FALSE: Colour = (255, 165, 0)
CORRECT: Colour = (90, 200, 110)
WRONG_CLASS: Colour = (190, 120, 255)
LEGEND = "red: missed, orange: false, violet: wrong class, green: correct"
SIZE, EXTENT_M = 560, 45.0
JPEG_QUALITY = 82
_EDGES = [(i, (i + 1) % 4) for i in range(4)] + [(4 + i, 4 + (i + 1) % 4) for i in range(4)]
_EDGES += [(i, 4 + i) for i in range(4)]


def draw_errors(
    frame: SensorFrame, marked: list[tuple[Boxes3D, Colour]], extent: float = EXTENT_M
) -> NDArray[np.uint8]:
    """RGB image: the top view, and the camera that shows most of the marked boxes, if there is one.

    marked: boxes in base_link with the colour of their outlines.
    """
    canvas = Canvas.blank(extent, SIZE)
    canvas.draw_range_rings()
    points = frame.points_in_base()
    canvas.draw_points(points[:, :2], np.full((len(points), 3), 110, np.uint8))
    for boxes, colour in marked:
        for i, corner in enumerate(corners(boxes.boxes)):
            outline = corner[:4, :2]
            canvas.draw_polygon(outline, colour, 2)
            front = (outline[0] + outline[3]) / 2
            canvas.draw_line(np.stack([outline.mean(axis=0), front]), colour, 1)
            column, row = canvas.to_pixels(outline.max(axis=0)[None])[0].tolist()
            name = boxes.class_names[boxes.labels[i]]
            write_text(canvas.image, name, (column, row - 4), colour, 0.38)
    canvas.draw_ego()
    camera = _best_camera(frame, marked)
    if camera is None:
        return canvas.image
    image = _draw_camera(frame, camera, marked)
    height = round(image.shape[0] * 2 * SIZE / (2 * image.shape[1]) * 1.4)
    image = cv2.resize(image, (round(SIZE * 1.4), height), interpolation=cv2.INTER_AREA)
    padded = np.zeros((SIZE, image.shape[1], 3), np.uint8)
    padded[: min(height, SIZE)] = image[:SIZE]
    return np.concatenate([canvas.image, padded], axis=1)


def encode_jpeg(image: NDArray[np.uint8]) -> bytes:
    """JPEG of an RGB image."""
    _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return bytes(data.tobytes())


def _best_camera(frame: SensorFrame, marked: list[tuple[Boxes3D, Colour]]) -> str | None:
    """The camera with the most erroneous boxes in view; the first one at a tie."""
    best, best_count = None, -1
    for name in frame.cameras:
        if name not in frame.intrinsics or name not in frame.base_from_sensor:
            continue
        count = 0
        for boxes, colour in marked:
            if colour != CORRECT and len(boxes):
                in_camera = poses.inverse(frame.reference_from_sensor(name))
                centres = poses.transform_points(in_camera, boxes.boxes[:, :3])
                count += int(frame.intrinsics[name].project(centres)[1].sum())
        if count > best_count:
            best, best_count = name, count
    return best


def _draw_camera(
    frame: SensorFrame, camera: str, marked: list[tuple[Boxes3D, Colour]]
) -> NDArray[np.uint8]:
    image = np.ascontiguousarray(frame.cameras[camera].rgb()).copy()
    camera_from_base = poses.inverse(frame.reference_from_sensor(camera))
    model = frame.intrinsics[camera]
    thickness = max(1, image.shape[1] // 640)
    for boxes, colour in marked:
        for corner in corners(boxes.boxes):
            pixels, _ = model.project(poses.transform_points(camera_from_base, corner))
            for i, j in _EDGES:
                ends = pixels[[i, j]]
                if np.isfinite(ends).all() and np.abs(ends).max() < 1e5:
                    a, b = (tuple(int(v) for v in np.rint(p)) for p in ends)
                    cv2.line(image, a, b, colour, thickness, cv2.LINE_AA)
    return image
