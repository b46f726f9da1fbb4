"""Removal of detections on the ego vehicle itself."""

from __future__ import annotations

import numpy as np

from multimodal_perception.frame import Boxes3D, VehicleFootprint
from multimodal_perception.geometry.boxes import iou_bev

# Fraction of the smaller area (box or footprint) from which a box is on the ego vehicle.
EGO_OVERLAP_THRESHOLD = 0.3


def remove_ego_vehicle(boxes: Boxes3D, footprint: VehicleFootprint | None) -> Boxes3D:
    """The boxes in base_frame that do not overlap the ego vehicle's footprint in the ground plane.

    Without a footprint all boxes are returned.
    """
    if footprint is None:
        return boxes
    rear, front, right, left = footprint
    ego = np.array([(rear + front) / 2, (right + left) / 2, 0, front - rear, left - right, 1, 0])
    iou = iou_bev(boxes.boxes, ego[None].astype(np.float32))[:, 0]
    areas = boxes.boxes[:, 3] * boxes.boxes[:, 4], ego[3] * ego[4]
    intersection = iou / (1.0 + iou) * (areas[0] + areas[1])
    return boxes.select(~(intersection > EGO_OVERLAP_THRESHOLD * np.minimum(*areas)))
