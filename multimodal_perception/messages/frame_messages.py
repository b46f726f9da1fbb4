"""All ROS messages of one SensorFrame, as written to a bag or published by a replay."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from multimodal_perception.configuration import UserError
from multimodal_perception.frame import SensorFrame
from multimodal_perception.messages import encoders, message_types
from multimodal_perception.rig import Rig

# Prefix of all ground truth topics.
TRUTH = "/ground_truth"
LABEL_TOPIC = f"{TRUTH}/objects"
# Properties of the labels that a Detection3DArray has no fields for: LiDAR points in each box, velocity
# over ground along the axes of base_frame (x, y of each box, m/s), visible fraction.
NUM_POINTS_TOPIC = f"{TRUTH}/num_points"
VELOCITY_TOPIC = f"{TRUTH}/velocities"
VISIBILITY_TOPIC = f"{TRUTH}/visibility"
TF, TF_STATIC = "/tf", "/tf_static"
# Two sensors with the same frame_id have the same pose if their poses differ by less than this.
SAME_POSE = 1e-6


def frame_messages(
    frame: SensorFrame, rig: Rig, types: message_types.MessageTypes
) -> Iterator[tuple[str, str, Any]]:
    """Yield (topic, type, message) of each reading and of the labels of a frame.

    CameraInfo messages come first, because images cannot be used without them.
    """
    for topic, info in _camera_infos(frame, rig, types).items():
        yield topic, "sensor_msgs/msg/CameraInfo", info
    if frame.labels is not None:
        labels = encoders.boxes_to_message(types, frame.labels)
        yield LABEL_TOPIC, "vision_msgs/msg/Detection3DArray", labels
    for name, reading in frame.ultrasonics.items():
        message = encoders.range_to_message(types, reading)
        yield rig.sensors[name].topic, "sensor_msgs/msg/Range", message
    for images in (frame.cameras, frame.thermals):
        for name, image in images.items():
            message = encoders.image_to_message(types, image)
            yield rig.sensors[name].topic, "sensor_msgs/msg/Image", message
    for name, sweep in frame.lidars.items():
        message = encoders.sweep_to_message(types, sweep)
        yield rig.sensors[name].topic, "sensor_msgs/msg/PointCloud2", message


def _camera_infos(
    frame: SensorFrame, rig: Rig, types: message_types.MessageTypes
) -> dict[str, Any]:
    """CameraInfo by topic; raw and rectified images of one camera may have the same topic."""
    infos: dict[str, tuple[bool, Any]] = {}
    for name, model in frame.intrinsics.items():
        image = frame.cameras.get(name) or frame.thermals.get(name)
        if image is None:  # the camera has no image in this frame
            continue
        sensor = rig.sensors[name]
        topic, rectified = sensor.camera_info_topic, sensor.images_are_rectified is True
        if topic is None:
            continue
        info = encoders.camera_info_to_message(
            types,
            model,
            image.stamp_ns,
            image.frame_id,
            frame.camera_from_optical.get(name),
            rectified,
        )
        if topic in infos and infos[topic][0] != rectified:
            raw, other = (infos[topic][1], info) if rectified else (info, infos[topic][1])
            raw.r, raw.p = other.r, other.p
            info = raw
        infos[topic] = rectified, info
    return {topic: info for topic, (_, info) in infos.items()}


def static_transforms(frame: SensorFrame, types: message_types.MessageTypes) -> Any:
    """Return a TFMessage with the pose of the frame_id of each reading of a frame.

    Raises UserError if two readings have the same frame_id but different poses, because a receiver
    would use one of them for both.
    """
    names: dict[str, str] = {}
    transforms = []
    for name, reading in frame.readings.items():
        pose, frame_id = frame.base_from_optical(name), reading.frame_id
        if frame_id in names:
            first = frame.base_from_optical(names[frame_id])
            if not np.allclose(pose, first, rtol=0.0, atol=SAME_POSE):
                raise UserError(
                    f"{names[frame_id]} and {name} have the same frame_id {frame_id!r} but different "
                    "poses; give them different names of frames"
                )
            continue
        names[frame_id] = name
        if frame_id.lstrip("/") == frame.base_frame and np.allclose(pose, np.eye(4)):
            continue  # the vehicle itself
        transforms.append(
            encoders.transform_to_message(types, pose, frame.base_frame, frame_id, frame.stamp_ns)
        )
    return types.new("tf2_msgs/msg/TFMessage", transforms=transforms)
