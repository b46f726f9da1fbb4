"""2D labels from 3D labels: projected boxes in an image, and whether the objects are visible there.

Data sets such as nuScenes and PandaSet have 3D boxes only. The 2D label of an object is the
axis-aligned box around its projected 3D box, clipped to the image. The object counts as visible if
enough of its LiDAR points are visible from the camera. A point is hidden from the camera if the ray to
it passes through another labelled box, or if other LiDAR points in the same direction are clearly
closer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.frame import Boxes3D, SensorFrame
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.boxes import corners, points_in_box
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.geometry.image_boxes import areas

# Corner numbers of the twelve edges of a box, in the order of geometry.boxes.corners.
EDGES = np.array(
    [(i, (i + 1) % 4) for i in range(4)]
    + [(4 + i, 4 + (i + 1) % 4) for i in range(4)]
    + [(i, 4 + i) for i in range(4)]
)
# Points on each edge that are projected.
EDGE_SAMPLES = 33
# Labelled boxes are a little larger than the objects: an occluding box is shrunk by this fraction.
OCCLUDER_SHRINKING = 0.1
# A point is hidden if a point in the same direction is closer by this distance, metres, and fraction.
MIN_DEPTH_STEP_M, MIN_DEPTH_STEP_RATIO = 1.0, 0.05
# Angular size of a direction, radians: about the distance between two points of a LiDAR's scan line.
DIRECTION_SIZE = 0.005


@dataclass(frozen=True)
class ProjectedLabels:
    """Labels of a frame in one image; K of the N labels that are at least partly in the image.

    index: (K,) number of the label in the frame. boxes: (K, 4) float32 left, top, right, bottom,
    pixels. visible_points: (K,) LiDAR points of the object that are visible in the image. points: (K,)
    all of its LiDAR points. truncation: (K,) fraction of the projected box outside the image.
    distance: (K,) metres between camera and box centre.
    """

    index: NDArray[np.int64]
    boxes: NDArray[np.float32]
    visible_points: NDArray[np.int64]
    points: NDArray[np.int64]
    truncation: NDArray[np.float64]
    distance: NDArray[np.float64]


def project_labels(frame: SensorFrame, camera: str) -> ProjectedLabels:
    """Project the labels of a frame into the image of a camera. Raises ValueError without labels."""
    if frame.labels is None:
        raise ValueError("the frame has no labels")
    labels, model = frame.labels, frame.intrinsics[camera]
    camera_from_base = poses.inverse(frame.reference_from_sensor(camera))
    boxes, truncation = _image_boxes(labels, model, camera_from_base)
    index = np.flatnonzero(areas(boxes) > 0.0)
    points = frame.points_in_base()[:, :3].astype(np.float64)
    in_box = [points_in_box(points, labels.boxes[k]) for k in index]
    hidden = _hidden_behind_points(points, camera_from_base, model)
    centre = frame.reference_from_sensor(camera)[:3, 3]
    visible = []
    for k, inside in zip(index, in_box, strict=True):
        candidates = np.flatnonzero(inside & ~hidden)
        others = np.delete(labels.boxes, k, axis=0)
        through = _rays_through_boxes(centre, points[candidates], others)
        visible.append(int((~through).sum()))
    return ProjectedLabels(
        index.astype(np.int64),
        boxes[index],
        np.array(visible, np.int64),
        np.array([m.sum() for m in in_box], np.int64),
        truncation[index],
        np.linalg.norm(labels.boxes[index, :3] - centre, axis=1),
    )


def _image_boxes(
    labels: Boxes3D, model: CameraModel, camera_from_base: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Clipped boxes (N, 4), zeros outside the image, and the truncated fraction (N,).

    The edges are sampled, because they are curves in images with distortion and may be partly behind
    the camera.
    """
    n = len(labels)
    boxes, truncation = np.zeros((n, 4), np.float32), np.zeros(n)
    if not n:
        return boxes, truncation
    vertices = corners(labels.boxes)  # (N, 8, 3)
    t = np.linspace(0.0, 1.0, EDGE_SAMPLES)[:, None]
    first, second = vertices[:, EDGES[:, 0], None], vertices[:, EDGES[:, 1], None]
    edges = (first + t * (second - first)).reshape(n, -1, 3)
    in_camera = poses.transform_points(camera_from_base, edges.reshape(-1, 3))
    pixels, _ = model.project(in_camera)
    pixels = pixels.reshape(n, -1, 2) + 0.5  # image box coordinates
    projected = np.isfinite(pixels[..., 0] + pixels[..., 1])  # (N, edge points)
    for k in range(n):
        usable = pixels[k][projected[k]]
        if not len(usable):
            continue
        full = np.concatenate([usable.min(axis=0), usable.max(axis=0)])
        clipped = np.clip(full, 0.0, [model.width, model.height] * 2)
        area = float(areas(full[None])[0])
        boxes[k] = clipped
        truncation[k] = 1.0 - float(areas(clipped[None])[0]) / area if area > 0 else 1.0
    return boxes, truncation


def _hidden_behind_points(
    points: NDArray[np.float64], camera_from_base: NDArray[np.float64], model: CameraModel
) -> NDArray[np.bool_]:
    """Mask (N,) of the points outside the image, or behind closer points in the same direction."""
    in_camera = poses.transform_points(camera_from_base, points)
    _, visible = model.project(in_camera)
    hidden = ~np.asarray(visible, np.bool_)
    index = np.flatnonzero(visible)
    if not len(index):
        return hidden
    x, y, z = in_camera[index].T
    distance = np.sqrt(x**2 + y**2 + z**2)
    azimuth, elevation = np.arctan2(x, z), np.arcsin(np.clip(y / distance, -1.0, 1.0))
    cells = np.floor(np.stack([azimuth, elevation], axis=1) / DIRECTION_SIZE).astype(np.int64)
    _, cell = np.unique(cells, axis=0, return_inverse=True)
    cell = cell.reshape(-1)
    closest = np.full(cell.max() + 1, np.inf)
    np.minimum.at(closest, cell, distance)
    step = np.maximum(MIN_DEPTH_STEP_M, MIN_DEPTH_STEP_RATIO * distance)
    hidden[index] = distance - closest[cell] > step
    return hidden


def _rays_through_boxes(
    start: NDArray[np.float64], ends: NDArray[np.float64], boxes: NDArray[np.floating]
) -> NDArray[np.bool_]:
    """Mask (P,) of the segments from one start to the ends (P, 3) that pass through any box (M, 7).

    Slab method in the frame of each box. A segment that ends inside a box does not pass through it.
    """
    through = np.zeros(len(ends), np.bool_)
    if not len(ends):
        return through
    for box in np.asarray(boxes, np.float64):
        c, s = np.cos(box[6]), np.sin(box[6])
        box_from_base = np.array([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]])
        half = box[3:6] / 2 * (1.0 - OCCLUDER_SHRINKING)
        origin = box_from_base @ (start - box[:3])
        direction = (ends - start) @ box_from_base.T
        with np.errstate(divide="ignore", invalid="ignore"):
            low, high = (-half - origin) / direction, (half - origin) / direction
        enter = np.nanmax(np.minimum(low, high), axis=1)
        leave = np.nanmin(np.maximum(low, high), axis=1)
        through |= (enter <= leave) & (leave > 0.0) & (leave < 1.0)
    return through
