"""All ROS messages of one SensorFrame, as written to a bag or published by a replay."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from multimodal_perception.frame import SensorFrame
from multimodal_perception.messages import encoders, message_types
from multimodal_perception.rig import Rig

# Prefix of all ground truth topics.
TRUTH = "/ground_truth"
LABEL_TOPIC = f"{TRUTH}/objects"
TF_STATIC = "/tf_static"


def frame_messages(
    frame: SensorFrame, rig: Rig, types: message_types.MessageTypes
) -> Iterator[tuple[str, str, Any]]:
    """Yield (topic, type, message) of each reading and of the labels of a frame.

    CameraInfo messages come first, because images cannot be used without them.
    """
    for name, model in frame.intrinsics.items():
        image = frame.cameras.get(name) or frame.thermals[name]
        topic = rig.sensors[name].camera_info_topic
        if topic is not None:
            info = encoders.camera_info_to_message(types, model, image.stamp_ns, image.frame_id)
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


def static_transforms(frame: SensorFrame, types: message_types.MessageTypes) -> Any:
    """Return a TFMessage with base_from_sensor of each reading of a frame."""
    transforms = [
        encoders.transform_to_message(
            types,
            frame.base_from_sensor[name],
            frame.base_frame,
            reading.frame_id,
            frame.stamp_ns,
        )
        for name, reading in frame.readings.items()
    ]
    return types.new("tf2_msgs/msg/TFMessage", transforms=transforms)
