"""Topics of the pipeline's results, and their messages. Imports no rclpy.

Boxes are in `markers`, occupancy grids in `occupancy_outputs`; all other results are here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from multimodal_perception.frame import Boxes3D, CameraImage, Modality, SensorFrame
from multimodal_perception.messages import encoders
from multimodal_perception.messages.message_types import MessageTypes
from multimodal_perception.perception import Boxes2D, SegmentationMask
from multimodal_perception.pipeline_builder import PipelineConfig, select_image_detector
from multimodal_perception.rig import Rig
from multimodal_perception.ros.compressed_images import (
    COMPRESSED,
    IMAGE_TYPE,
    image_messages,
    with_compressed,
)
from multimodal_perception.ros.label_info import LABEL_INFO, LABEL_INFO_TYPE
from multimodal_perception.ros.occupancy_outputs import GRID_TOPIC, LAYER_TOPICS, MAP_TOPIC
from multimodal_perception.stages import Output
from multimodal_perception.visualization.image_boxes_view import draw_image_boxes
from multimodal_perception.visualization.segmentation_view import draw_segmentation, sensor_image

HasSubscribers = Callable[[str], bool]

OBJECTS_TOPIC = "perception/objects"
TRACKS_TOPIC = "perception/tracks"
TRACKED_OBJECTS_TOPIC = "perception/tracked_objects"
OBSTACLE_POINTS_TOPIC = "perception/obstacle_points"
GROUND_POINTS_TOPIC = "perception/ground_points"
MARKERS_TOPIC = "perception/markers"
TIMING_TOPIC = "perception/timing"
EVIDENCE_TOPIC = "perception/evidence"
DIAGNOSTICS_TOPIC = "/diagnostics"
SEGMENTATION_PREFIX = "perception/segmentation"
FUSED_PREFIX = "perception/fused"
IMAGE_BOXES_PREFIX = "perception/boxes2d"
SEMANTIC_TOPIC = f"{GRID_TOPIC}/semantic"
AUTOWARE_DETECTED_TOPIC = "perception/autoware/detected_objects"
AUTOWARE_TRACKED_TOPIC = "perception/autoware/tracked_objects"
AUTOWARE_TOPICS = {
    AUTOWARE_DETECTED_TOPIC: "autoware_perception_msgs/msg/DetectedObjects",
    AUTOWARE_TRACKED_TOPIC: "autoware_perception_msgs/msg/TrackedObjects",
}

# Message type of each topic that exists with every rig and configuration.
FIXED_TOPICS = {
    OBJECTS_TOPIC: "vision_msgs/msg/Detection3DArray",
    TRACKED_OBJECTS_TOPIC: "vision_msgs/msg/Detection3DArray",
    **dict.fromkeys(
        (TRACKS_TOPIC, OBSTACLE_POINTS_TOPIC, GROUND_POINTS_TOPIC), "sensor_msgs/msg/PointCloud2"
    ),
    **dict.fromkeys((GRID_TOPIC, MAP_TOPIC, *LAYER_TOPICS), "nav_msgs/msg/OccupancyGrid"),
    MARKERS_TOPIC: "visualization_msgs/msg/MarkerArray",
    TIMING_TOPIC: "diagnostic_msgs/msg/DiagnosticArray",
    EVIDENCE_TOPIC: "diagnostic_msgs/msg/DiagnosticArray",
    DIAGNOSTICS_TOPIC: "diagnostic_msgs/msg/DiagnosticArray",
}

# Fields of a point on TRACKS_TOPIC. vision_msgs has no field for a velocity, so tracks are published as
# a PointCloud2, as radar drivers do; RViz can colour it by any field.
TRACK_FIELDS = np.dtype(
    [
        *((name, "<f4") for name in ("x", "y", "z", "vx", "vy", "yaw", "score")),
        ("vx_variance", "<f4"),
        ("vy_variance", "<f4"),
        ("id", "<u4"),
        ("class", "u1"),
    ]
)


def optional_topics(rig: Rig, config: PipelineConfig) -> dict[Output, dict[str, str]]:
    """Topics and message types of the optional outputs that the configured stages can compute."""
    topics: dict[Output, dict[str, str]] = {}
    if config.segmenter != "none":
        topics[Output.SEGMENTATIONS] = with_compressed(segmentation_topics(rig))
    if config.image_fusion.model:
        topics[Output.FUSED_IMAGES] = with_compressed(fused_image_topics(rig))
    if select_image_detector(config, rig) != "none":
        boxes = image_box_topics(rig)
        pictures = dict.fromkeys((f"{topic}/image" for topic in boxes), IMAGE_TYPE)
        topics[Output.IMAGE_BOXES] = boxes | with_compressed(pictures)
    return topics


def label_info_topics(rig: Rig, config: PipelineConfig) -> dict[str, str]:
    """Topics of the latched names of classes, beside the topics of the results that they describe."""
    optional = optional_topics(rig, config)
    described = [OBJECTS_TOPIC, SEMANTIC_TOPIC]
    if Output.SEGMENTATIONS in optional:
        described += mask_topics(rig)
    if Output.IMAGE_BOXES in optional:
        described += image_box_topics(rig)
    return {f"{topic}{LABEL_INFO}": LABEL_INFO_TYPE for topic in described}


def mask_topics(rig: Rig) -> list[str]:
    """Topics of the masks with class indices, for every camera and thermal camera of the rig."""
    return [f"{SEGMENTATION_PREFIX}/{name}" for name in _image_sensors(rig)]


def segmentation_topics(rig: Rig) -> dict[str, str]:
    """Topics of masks and of their colour images, for every camera and thermal camera of the rig."""
    topics = [f"{topic}{end}" for topic in mask_topics(rig) for end in ("", "/colour")]
    return dict.fromkeys(topics, IMAGE_TYPE)


def fused_image_topics(rig: Rig) -> dict[str, str]:
    """Topics of fused images, for every camera; none for a rig without thermal camera."""
    if not rig.sensors_of(Modality.THERMAL):
        return {}
    topics = [f"{FUSED_PREFIX}/{name}" for name in rig.sensors_of(Modality.CAMERA)]
    return dict.fromkeys(topics, IMAGE_TYPE)


def image_box_topics(rig: Rig) -> dict[str, str]:
    """Topics of 2D boxes, for every camera and thermal camera of the rig."""
    topics = [f"{IMAGE_BOXES_PREFIX}/{name}" for name in _image_sensors(rig)]
    return dict.fromkeys(topics, "vision_msgs/msg/Detection2DArray")


def tracked_boxes(boxes: Boxes3D) -> Boxes3D:
    """The boxes that have a track id."""
    ids = np.full(len(boxes), -1) if boxes.track_ids is None else boxes.track_ids
    return boxes.select(np.flatnonzero(ids >= 0))


def tracks_message(types: MessageTypes, boxes: Boxes3D) -> Any:
    """PointCloud2 with one point at the centre of each tracked box.

    vx, vy: velocity over ground in m/s along the axes of the message's frame, NaN if unknown.
    vx_variance, vy_variance: in m^2/s^2, NaN if unknown. id: as in Detection3D, modulo 2^32. class:
    index into frame.CLASS_NAMES.
    """
    tracked = tracked_boxes(boxes)
    rows = np.zeros(len(tracked), TRACK_FIELDS)
    for name, column in (("x", 0), ("y", 1), ("z", 2), ("yaw", 6)):
        rows[name] = tracked.boxes[:, column]
    velocities = tracked.velocities
    rows["vx"], rows["vy"] = (np.nan, np.nan) if velocities is None else velocities.T
    covariances = tracked.velocity_covariances
    for k, name in enumerate(("vx_variance", "vy_variance")):
        rows[name] = np.nan if covariances is None else covariances[:, k, k]
    rows["score"], rows["class"] = tracked.scores, tracked.labels
    if tracked.track_ids is not None:
        rows["id"] = tracked.track_ids % (1 << 32)
    finite = bool(np.isfinite(rows["vx"]).all() and np.isfinite(rows["vx_variance"]).all())
    return encoders.points_to_message(types, rows, boxes.stamp_ns, boxes.frame_id, finite)


def segmentation_messages(
    types: MessageTypes,
    frame: SensorFrame,
    masks: Mapping[str, SegmentationMask],
    has_subscribers: HasSubscribers,
) -> Iterator[tuple[str, Any]]:
    """Topic and message of each mask (mono8, class indices) and of its colour image (rgb8).

    Messages have the stamp and frame id of the segmented image. Only topics with subscribers.
    """
    for name, mask in masks.items():
        frame_id = frame.readings[name].frame_id
        topic = f"{SEGMENTATION_PREFIX}/{name}"
        image = CameraImage(name, mask.stamp_ns, frame_id, mask.labels, "mono8")
        yield from image_messages(types, topic, image, has_subscribers)
        colour = f"{topic}/colour"
        if has_subscribers(colour) or has_subscribers(f"{colour}{COMPRESSED}"):
            drawn = draw_segmentation(frame, mask)
            image = CameraImage(name, mask.stamp_ns, frame_id, drawn, "rgb8")
            yield from image_messages(types, colour, image, has_subscribers)


def fused_image_messages(
    types: MessageTypes,
    rig: Rig,
    images: Mapping[str, CameraImage],
    has_subscribers: HasSubscribers,
) -> Iterator[tuple[str, Any]]:
    """Topic and message of each fused image. Only topics with subscribers.

    The frame id is that of the camera, also in frames without an image of the camera itself.
    """
    for name, image in images.items():
        in_camera = replace(image, frame_id=image.frame_id or rig.sensors[name].frame_id)
        yield from image_messages(types, f"{FUSED_PREFIX}/{name}", in_camera, has_subscribers)


def image_box_messages(
    types: MessageTypes,
    frame: SensorFrame,
    boxes2d: Mapping[str, Boxes2D],
    has_subscribers: HasSubscribers,
) -> Iterator[tuple[str, Any]]:
    """Topic and message of each image's 2D boxes, with the image's stamp and frame id.

    The boxes drawn over the image are on TOPIC/image, only with subscribers.
    """
    for name, boxes in boxes2d.items():
        frame_id = frame.readings[name].frame_id
        message = encoders.image_boxes_to_message(types, boxes, frame_id)
        topic = f"{IMAGE_BOXES_PREFIX}/{name}"
        yield topic, message
        picture = f"{topic}/image"
        if has_subscribers(picture) or has_subscribers(f"{picture}{COMPRESSED}"):
            rgb = sensor_image(frame, name)
            if rgb is not None:
                drawn = draw_image_boxes(rgb, boxes)
                image = CameraImage(name, boxes.stamp_ns, frame_id, drawn, "rgb8")
                yield from image_messages(types, picture, image, has_subscribers)


def _image_sensors(rig: Rig) -> list[str]:
    return [*rig.sensors_of(Modality.CAMERA), *rig.sensors_of(Modality.THERMAL)]
