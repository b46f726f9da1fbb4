"""Conversion of detections to the input of the KITTI metrics: KITTI's type names and image boxes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.datasets.kitti import KittiLabels
from multimodal_perception.evaluation.kitti_metrics import KittiFrame, KittiObjects
from multimodal_perception.frame import Boxes3D, SensorFrame
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.boxes import EDGES, corners
from multimodal_perception.geometry.cameras import CameraModel

# Class names of this package to KITTI's object types.
KITTI_TYPES = {
    "car": "Car",
    "van": "Van",
    "truck": "Truck",
    "bus": "Tram",
    "pedestrian": "Pedestrian",
    "cyclist": "Cyclist",
}
# Points sampled on each box edge, because part of an edge may lie behind the camera.
SAMPLES_PER_EDGE = 32
MIN_DEPTH_M = 0.1


def kitti_frame(frame: SensorFrame, boxes: Boxes3D, labels: KittiLabels) -> KittiFrame:
    """The detections inside the image of a KITTI frame, and its labels.

    Boxes of classes without a KITTI type are left out. Raises ValueError without an image.
    """
    if not frame.cameras:
        raise ValueError("the frame has no image")
    camera = next(iter(frame.cameras))
    optical_from_base = poses.inverse(frame.reference_from_sensor(camera))
    image_boxes, visible = project_boxes(boxes.boxes, frame.intrinsics[camera], optical_from_base)
    names = [boxes.class_names[label] for label in boxes.labels]
    kept = np.flatnonzero(visible & np.array([n in KITTI_TYPES for n in names], bool))
    return KittiFrame(
        KittiObjects(
            tuple(KITTI_TYPES[names[i]] for i in kept),
            boxes.boxes[kept],
            image_boxes[kept],
            boxes.scores[kept],
        ),
        KittiObjects(
            labels.types,
            labels.boxes,
            labels.image_boxes,
            occlusion=labels.occlusion,
            truncation=labels.truncation,
        ),
    )


def project_boxes(
    boxes: NDArray[np.floating], camera: CameraModel, optical_from_base: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Image boxes (N, 4) around the projections of boxes (N, 7), and whether they are visible (N,).

    The boxes are in base_link. The image boxes are left, top, right, bottom in pixels, clipped to the
    image.
    """
    n = len(boxes)
    ends = np.array(EDGES)
    fraction = np.linspace(0.0, 1.0, SAMPLES_PER_EDGE)[None, None, :, None]
    corner = corners(boxes)
    samples = corner[:, ends[:, 0], None] * (1 - fraction) + corner[:, ends[:, 1], None] * fraction
    points = poses.transform_points(optical_from_base, samples.reshape(-1, 3))
    pixels = camera.project(points)[0].reshape(n, len(EDGES) * SAMPLES_PER_EDGE, 2)
    in_front = (points[:, 2] > MIN_DEPTH_M).reshape(n, len(EDGES) * SAMPLES_PER_EDGE)
    in_front &= np.isfinite(pixels).all(axis=2)
    lowest = np.where(in_front[..., None], pixels, np.inf).min(axis=1, initial=np.inf)
    highest = np.where(in_front[..., None], pixels, -np.inf).max(axis=1, initial=-np.inf)
    size = np.array([camera.width - 1, camera.height - 1])
    image_boxes = np.hstack([np.clip(lowest, 0, size), np.clip(highest, 0, size)])
    width, height = (image_boxes[:, 2:] - image_boxes[:, :2]).T
    return image_boxes, (width > 0) & (height > 0)
