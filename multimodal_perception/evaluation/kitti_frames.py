"""Frames of KITTI's layout as its metrics want them: types by KITTI's names, rectangles in the image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.datasets.kitti import KittiLabels
from multimodal_perception.evaluation.kitti_metrics import KittiFrame, KittiObjects
from multimodal_perception.frame import Boxes3D, SensorFrame
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.boxes import EDGES, corners
from multimodal_perception.geometry.cameras import CameraModel

TYPES = {
    "car": "Car",
    "van": "Van",
    "truck": "Truck",
    "bus": "Tram",
    "pedestrian": "Pedestrian",
    "cyclist": "Cyclist",
}
# An edge is looked at in so many places: part of one may lie behind the camera.
PLACES = 32
NEAR_M = 0.1


def kitti_frame(frame: SensorFrame, found: Boxes3D, told: KittiLabels) -> KittiFrame:
    """What was found in a frame of Kitti, as far as its image shows it, beside its labels.

    Boxes of classes that KITTI does not have are left out. Raises ValueError without an image.
    """
    if not frame.cameras:
        raise ValueError("the frame has no image")
    camera = next(iter(frame.cameras))
    optical_from_base = poses.inverse(frame.reference_from_sensor(camera))
    rectangles, seen = image_boxes(found.boxes, frame.intrinsics[camera], optical_from_base)
    names = [found.class_names[label] for label in found.labels]
    kept = np.flatnonzero(seen & np.array([n in TYPES for n in names], bool))
    return KittiFrame(
        KittiObjects(
            tuple(TYPES[names[i]] for i in kept),
            found.boxes[kept],
            rectangles[kept],
            found.scores[kept],
        ),
        KittiObjects(
            told.types,
            told.boxes,
            told.image_boxes,
            occlusion=told.occlusion,
            truncation=told.truncation,
        ),
    )


def image_boxes(
    boxes: NDArray[np.floating], camera: CameraModel, optical_from_base: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Rectangles (N, 4) about boxes (N, 7) in base_link, cut at the image, and which it shows (N,)."""
    n = len(boxes)
    ends = np.array(EDGES)
    share = np.linspace(0.0, 1.0, PLACES)[None, None, :, None]
    corner = corners(boxes)
    lines = corner[:, ends[:, 0], None] * (1 - share) + corner[:, ends[:, 1], None] * share
    points = poses.transform_points(optical_from_base, lines.reshape(-1, 3))
    pixels = camera.project(points)[0].reshape(n, len(EDGES) * PLACES, 2)
    ahead = (points[:, 2] > NEAR_M).reshape(n, len(EDGES) * PLACES) & np.isfinite(pixels).all(
        axis=2
    )
    lowest = np.where(ahead[..., None], pixels, np.inf).min(axis=1, initial=np.inf)
    highest = np.where(ahead[..., None], pixels, -np.inf).max(axis=1, initial=-np.inf)
    size = np.array([camera.width - 1, camera.height - 1])
    rectangles = np.hstack([np.clip(lowest, 0, size), np.clip(highest, 0, size)])
    width, height = (rectangles[:, 2:] - rectangles[:, :2]).T
    return rectangles, (width > 0) & (height > 0)
