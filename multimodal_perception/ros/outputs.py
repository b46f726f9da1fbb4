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
from multimodal_perception.ros.occupancy_outputs import GRID_TOPIC, LAYER_TOPICS, MAP_TOPIC
from multimodal_perception.stages import Output
from multimodal_perception.visualization.segmentation_view import draw_segmentation

HasSubscribers = Callable[[str], bool]

OBJECTS_TOPIC = "perception/objects"
TRACKS_TOPIC = "perception/tracks"
MARKERS_TOPIC = "perception/markers"
TIMING_TOPIC = "perception/timing"
DIAGNOSTICS_TOPIC = "/diagnostics"
SEGMENTATION_PREFIX = "perception/segmentation"
FUSED_PREFIX = "perception/fused"
IMAGE_BOXES_PREFIX = "perception/boxes2d"

# Message type of each topic that exists with every rig and configuration.
FIXED_TOPICS = {
    OBJECTS_TOPIC: "vision_msgs/msg/Detection3DArray",
    TRACKS_TOPIC: "sensor_msgs/msg/PointCloud2",
    **dict.fromkeys((GRID_TOPIC, MAP_TOPIC, *LAYER_TOPICS), "nav_msgs/msg/OccupancyGrid"),
    MARKERS_TOPIC: "visualization_msgs/msg/MarkerArray",
    TIMING_TOPIC: "diagnostic_msgs/msg/DiagnosticArray",
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
        topics[Output.SEGMENTATIONS] = segmentation_topics(rig)
    if config.image_fusion.model:
        topics[Output.FUSED_IMAGES] = fused_image_topics(rig)
    if select_image_detector(config, rig) != "none":
        topics[Output.IMAGE_BOXES] = image_box_topics(rig)
    return topics


def segmentation_topics(rig: Rig) -> dict[str, str]:
    """Topics of masks and of their colour images, for every camera and thermal camera of the rig."""
    names = _image_sensors(rig)
    topics = [f"{SEGMENTATION_PREFIX}/{name}{end}" for name in names for end in ("", "/colour")]
    return dict.fromkeys(topics, "sensor_msgs/msg/Image")


def fused_image_topics(rig: Rig) -> dict[str, str]:
    """Topics of fused images, for every camera; none for a rig without thermal camera."""
    if not rig.sensors_of(Modality.THERMAL):
        return {}
    topics = [f"{FUSED_PREFIX}/{name}" for name in rig.sensors_of(Modality.CAMERA)]
    return dict.fromkeys(topics, "sensor_msgs/msg/Image")


def image_box_topics(rig: Rig) -> dict[str, str]:
    """Topics of 2D boxes, for every camera and thermal camera of the rig."""
    topics = [f"{IMAGE_BOXES_PREFIX}/{name}" for name in _image_sensors(rig)]
    return dict.fromkeys(topics, "vision_msgs/msg/Detection2DArray")


def tracks_message(types: MessageTypes, boxes: Boxes3D) -> Any:
    """PointCloud2 with one point at the centre of each tracked box.

    vx, vy: velocity over ground in m/s along the axes of the message's frame, NaN if unknown.
    vx_variance, vy_variance: in m^2/s^2, NaN if unknown. id: as in Detection3D, modulo 2^32. class:
    index into frame.CLASS_NAMES.
    """
    ids = np.full(len(boxes), -1) if boxes.track_ids is None else boxes.track_ids
    tracked = boxes.select(np.flatnonzero(ids >= 0))
    rows = np.zeros(len(tracked), TRACK_FIELDS)
    for name, column in (("x", 0), ("y", 1), ("z", 2), ("yaw", 6)):
        rows[name] = tracked.boxes[:, column]
    velocities = tracked.velocities
    rows["vx"], rows["vy"] = (np.nan, np.nan) if velocities is None else velocities.T
    covariances = tracked.velocity_covariances
    for k, name in enumerate(("vx_variance", "vy_variance")):
        rows[name] = np.nan if covariances is None else covariances[:, k, k]
    rows["score"], rows["class"] = tracked.scores, tracked.labels
    rows["id"] = ids[ids >= 0] % (1 << 32)
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
        if has_subscribers(topic):
            image = CameraImage(name, mask.stamp_ns, frame_id, mask.labels, "mono8")
            yield topic, encoders.image_to_message(types, image)
        if has_subscribers(f"{topic}/colour"):
            drawn = draw_segmentation(frame, mask)
            image = CameraImage(name, mask.stamp_ns, frame_id, drawn, "rgb8")
            yield f"{topic}/colour", encoders.image_to_message(types, image)


def fused_image_messages(
    types: MessageTypes, rig: Rig, images: Mapping[str, CameraImage]
) -> Iterator[tuple[str, Any]]:
    """Topic and message of each fused image.

    The frame id is that of the camera, also in frames without an image of the camera itself.
    """
    for name, image in images.items():
        in_camera = replace(image, frame_id=image.frame_id or rig.sensors[name].frame_id)
        yield f"{FUSED_PREFIX}/{name}", encoders.image_to_message(types, in_camera)


def image_box_messages(
    types: MessageTypes, frame: SensorFrame, boxes2d: Mapping[str, Boxes2D]
) -> Iterator[tuple[str, Any]]:
    """Topic and message of each image's 2D boxes, with the image's stamp and frame id."""
    for name, boxes in boxes2d.items():
        frame_id = frame.readings[name].frame_id
        message = encoders.image_boxes_to_message(types, boxes, frame_id)
        yield f"{IMAGE_BOXES_PREFIX}/{name}", message


def _image_sensors(rig: Rig) -> list[str]:
    return [*rig.sensors_of(Modality.CAMERA), *rig.sensors_of(Modality.THERMAL)]
