"""Topics and frames of a rig that have several users."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, overload

import numpy as np

from multimodal_perception.geometry.transform_tree import normalise_name

if TYPE_CHECKING:
    from multimodal_perception.rig import Rig, Sensor

CAMERA_INFO_TYPE = "sensor_msgs/msg/CameraInfo"
ODOMETRY_TYPE = "nav_msgs/msg/Odometry"
TF_TYPE = "tf2_msgs/msg/TFMessage"
# Poses of sensors in the same frame differ by less than this (metres and rotation matrix entries).
SAME_POSE = 1e-6


# Names of topics by ROS 2's rules, without substitutions such as {node} and without ~.
TOPIC_NAME = re.compile(r"/?[A-Za-z_][A-Za-z0-9_]*(?:/[A-Za-z_][A-Za-z0-9_]*)*")


def check_topic_name(topic: str | None, key: str) -> None:
    """Raise ValueError for a name that ROS 2 does not allow. None is allowed."""
    if topic is not None and (not TOPIC_NAME.fullmatch(topic) or "__" in topic or len(topic) > 200):
        raise ValueError(
            f"{key}: {topic[:60]!r} is not the name of a ROS topic, such as lidar/points (in the "
            "namespace of the node) or /lidar/points"
        )


@overload
def resolve_topic(topic: str, namespace: str) -> str: ...


@overload
def resolve_topic(topic: str | None, namespace: str) -> str | None: ...


def resolve_topic(topic: str | None, namespace: str) -> str | None:
    """The absolute name of a topic for a node in a namespace such as / or /robot_1."""
    if topic is None or topic.startswith("/"):
        return topic
    return f"{namespace.rstrip('/')}/{topic}"


def topic_conflict(sensors: dict[str, Sensor], odometry_topic: str | None) -> str | None:
    """Why one topic cannot have two users, or None. Sensors may share a CameraInfo topic.

    The topics of the readings are checked by parse_rig.
    """
    users = {"/tf": ("the transforms", TF_TYPE), "/tf_static": ("the transforms", TF_TYPE)}
    uses = [(f"sensors.{n}.topic", s.topic, s.message) for n, s in sensors.items()]
    uses += [
        (f"sensors.{n}.camera_info_topic", s.camera_info_topic, CAMERA_INFO_TYPE)
        for n, s in sensors.items()
        if s.camera_info_topic is not None
    ]
    if odometry_topic is not None:
        uses.append(("odometry_topic", odometry_topic, ODOMETRY_TYPE))
    for key, topic, message in uses:
        user, expected = users.setdefault("/" + topic.lstrip("/"), (key, message))
        if expected != message:
            return f"{key}: {topic} is already used for {user} ({expected}), not for {message}"
    return None


def shared_frame_notes(rig: Rig) -> Iterator[str]:
    """Sensors that have the same frame_id but different extrinsics."""
    first: dict[str, str] = {}
    for name, sensor in rig.sensors.items():
        pose, frame = sensor.base_from_sensor(), normalise_name(sensor.frame_id)
        if pose is None or not frame:
            continue
        other = first.setdefault(frame, name)
        other_pose = rig.sensors[other].base_from_sensor()
        if other_pose is not None and not np.allclose(pose, other_pose, rtol=0, atol=SAME_POSE):
            yield (
                f"{other} and {name} have the same frame_id {sensor.frame_id!r} but different "
                "extrinsics; those of the rig are used for each, but /tf can only have one pose"
            )
