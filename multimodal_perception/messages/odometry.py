"""Decode nav_msgs/Odometry, and refuse poses that mean "unknown"."""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.geometry import poses
from multimodal_perception.messages.accepted import Accepted
from multimodal_perception.messages.decoders import stamp_ns_of
from multimodal_perception.messages.errors import MessageError

# Indices of x, y and yaw on the diagonal of the 6 x 6 covariance. Drivers of ground vehicles mark z,
# roll and pitch as unknown, which is normal.
PLANAR = (0, 7, 35)
# Variances from which on drivers mean "unknown": 99999, 1e6, 1e9, ...
UNKNOWN_VARIANCE = 99_999.0

ACCEPTED = (
    Accepted(
        "nav_msgs/Odometry pose",
        ("finite position", "quaternion of norm 1", "z axis up"),
        "Pose of child_frame_id in header.frame_id, which is taken as odom_frame of the rig (notice if "
        "the name differs). A child_frame_id other than base_frame is converted with /tf (notice).",
        "bad_transform (NaN, zero quaternion), upside_down; not used if /tf does not connect the frames",
    ),
    Accepted(
        "nav_msgs/Odometry pose.covariance",
        ("0 (not stated)", f"below {UNKNOWN_VARIANCE:g} for x, y and yaw"),
        "Not used otherwise.",
        "unknown_pose: negative or larger values for x, y or yaw mean that the pose is unknown",
    ),
    Accepted(
        "nav_msgs/Odometry twist",
        ("any",),
        "Only compared with the pose.",
        "frozen_pose: the pose is exactly constant although the vehicle drives",
    ),
    Accepted(
        "Source of odom_frame to base_frame",
        ("odometry_topic of the rig", "/tf, if the rig has no odometry_topic"),
        "Exactly one source is used (notice if both publish).",
        "No ego motion (notice).",
    ),
)


class PoseSink(Protocol):
    """Collects poses of odometry (see synchronization.odometry.Odometry)."""

    def add(
        self,
        stamp_ns: int,
        parent: str,
        child: str,
        pose: NDArray[np.float64],
        speed: float,
    ) -> None: ...


def pose_from_geometry(translation: Any, rotation: Any) -> Any:
    """Return the pose (4, 4) of a translation and a quaternion. Raises MessageError("bad_transform")."""
    try:
        xyz = translation.x, translation.y, translation.z
        return poses.from_quaternion(xyz, (rotation.x, rotation.y, rotation.z, rotation.w))
    except ValueError as error:
        raise MessageError("bad_transform", str(error)) from error


def add_odometry(odometry: PoseSink, msg: Any) -> None:
    """Add the pose of an Odometry message. Raises MessageError, TransformError."""
    stamp_ns = stamp_ns_of(msg)
    pose = pose_from_geometry(msg.pose.pose.position, msg.pose.pose.orientation)
    covariance = msg.pose.covariance
    for index in PLANAR if len(covariance) == 36 else ():
        variance = float(covariance[index])
        if variance < 0 or variance >= UNKNOWN_VARIANCE:
            raise MessageError("unknown_pose", f"variance {variance:g}")
    speed = 0.0
    if msg.twist is not None:
        linear = msg.twist.twist.linear
        speed = math.hypot(linear.x, linear.y)
    odometry.add(stamp_ns, msg.header.frame_id, msg.child_frame_id, pose, speed)
