"""Objects of a frame: boxes of the detector and, without LiDAR, of images; none on the ego vehicle."""

from __future__ import annotations

from collections import Counter

from multimodal_perception.detection.ego_vehicle import remove_ego_vehicle
from multimodal_perception.detection.images.ground_projection import merge_with_nms
from multimodal_perception.frame import Boxes3D, SensorFrame
from multimodal_perception.pointcloud.ground_segmentation import Cloud
from multimodal_perception.stages import Detector, ImageResults


def detect_objects(
    detector: Detector,
    frame: SensorFrame,
    cloud: Cloud,
    projected: Boxes3D,
    images: ImageResults,
    counts: Counter[str],
) -> Boxes3D:
    """The boxes of a detector in base_frame, without those on the ego vehicle.

    cloud: points of the frame's LiDARs in base_frame. projected: 3D boxes of the 2D boxes in images;
    without LiDAR they are part of the result. images: results of the image networks. counts: the
    number of boxes on the ego vehicle is added to `detector.ego_vehicle`.
    """
    boxes = detector.detect(frame, cloud, projected, images)
    if not frame.lidars:
        boxes = merge_with_nms(boxes, projected)
    kept = remove_ego_vehicle(boxes, frame.vehicle_footprint)
    if len(kept) < len(boxes):
        counts["detector.ego_vehicle"] += len(boxes) - len(kept)
    return kept
