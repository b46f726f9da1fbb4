"""The coordinate frame of a sensor's messages, and the pose of the sensor that follows from it."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from multimodal_perception.frame import LidarSweep, Modality
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.transform_tree import (
    Pose,
    TransformError,
    TransformTree,
    normalise_name,
)
from multimodal_perception.messages.accepted import Accepted
from multimodal_perception.notices import Notices
from multimodal_perception.pointcloud.returns import find_returns
from multimodal_perception.rig import Rig, Sensor
from multimodal_perception.sensor_calibration import BODY_FROM_OPTICAL
from multimodal_perception.synchronization.odometry import Odometry, base_from_odom

IMAGE_MODALITIES = (Modality.CAMERA, Modality.THERMAL)
# Frames in which points do not move with the vehicle, and other frames of the vehicle (REP 105, REP
# 120). A sensor's extrinsics never describe their poses.
FIXED_FRAMES = ("odom", "map", "world", "earth", "local_map", "odom_combined")
VEHICLE_FRAMES = ("base_link", "base_footprint", "base_stabilized", "base")
# The optical axis of a camera that seems to point up by more than this (z component) has a body frame.
UPWARD_AXIS = 0.8
# Sensors farther from the base frame are reported, metres.
MAX_DISTANCE_M = 50.0

ACCEPTED = (
    Accepted(
        "header.frame_id of a sensor, rig with extrinsics",
        ("frame_id of the rig", "empty"),
        "The extrinsics of the rig.",
        "See the other rows.",
    ),
    Accepted(
        "header.frame_id of a point cloud is base_frame",
        ("base_frame", "base_frame after a namespace"),
        "The points are already in base_frame and are not transformed again (notice). The origin of the "
        "rays is the sensor's pose.",
        "-",
    ),
    Accepted(
        "header.frame_id of an image or a range is base_frame",
        ("base_frame", "base_frame after a namespace"),
        "Images and ranges cannot be in base_frame: the pose of the rig or its frame_id is used "
        "(notice).",
        "-",
    ),
    Accepted(
        "header.frame_id, another frame that /tf connects to base_frame",
        ("any",),
        "The transform of /tf (notice). Point clouds in odom_frame or "
        + ", ".join(FIXED_FRAMES)
        + " are transformed at their stamp and not deskewed again.",
        "-",
    ),
    Accepted(
        "header.frame_id, an unknown frame",
        ("any, if the rig has extrinsics",),
        "The extrinsics of the rig (notice).",
        "no_transform_... without extrinsics, for odom_frame, and for "
        + ", ".join((*VEHICLE_FRAMES, *FIXED_FRAMES)),
    ),
    Accepted(
        "Orientation of a camera's frame in /tf",
        ("optical frame (z forward)", "body frame (x forward)"),
        "A frame whose z axis points up is taken as a body frame, unless its name contains optical "
        "(notice).",
        "-",
    ),
)


class SensorPose(NamedTuple):
    """Pose of a sensor for one message.

    base_from_sensor: (4, 4). sensor_from_message: pose (4, 4) of the message's frame in the sensor's
    frame, or None if they are the same. is_fixed: whether the points do not move with the vehicle.
    """

    base_from_sensor: Pose
    sensor_from_message: Pose | None = None
    is_fixed: bool = False


class SensorFrames:
    """Finds the pose of each sensor from the frame_id of its messages, the rig and /tf."""

    def __init__(
        self, rig: Rig, transforms: TransformTree, odometry: Odometry, notices: Notices
    ) -> None:
        self._rig = rig
        self._transforms = transforms
        self._odometry = odometry
        self._notices = notices

    def resolve(self, sensor: Sensor, frame_id: str, stamp_ns: int) -> SensorPose:
        """Return the pose of a sensor for a message. Raises TransformError if it is unknown."""
        result = self._resolve(sensor, normalise_name(frame_id), stamp_ns)
        distance = float(np.linalg.norm(result.base_from_sensor[:3, 3]))
        if distance > MAX_DISTANCE_M and not result.is_fixed:
            self._notices.add(
                sensor.name,
                f"the sensor is over {MAX_DISTANCE_M:g} m from {self._rig.base_frame}; transforms must "
                "be in metres",
            )
        return result

    def _resolve(self, sensor: Sensor, frame: str, stamp_ns: int) -> SensorPose:
        rig_pose = sensor.base_from_sensor()
        own = normalise_name(sensor.frame_id)
        if not frame and own:
            self._notices.add(sensor.name, f"messages without frame_id are taken as {own!r}")
        frame = frame or own
        if self._is_base(frame):
            return self._in_base(sensor, frame, own, rig_pose, stamp_ns)
        if rig_pose is not None and frame in ("", own):
            return SensorPose(rig_pose)
        try:
            base_from_frame = self._lookup(frame, stamp_ns)
        except TransformError as error:
            leaf = frame.rsplit("/", 1)[-1]
            reserved = leaf in (*FIXED_FRAMES, *VEHICLE_FRAMES) or self._is_odom(frame)
            if rig_pose is None or reserved or error.reason == "extrapolation":
                raise
            self._notices.add(
                sensor.name,
                f"frame_id {frame!r} is unknown; the rig's extrinsics of {own!r} are used",
            )
            return SensorPose(rig_pose)
        if own and frame != own:
            self._notices.add(
                sensor.name,
                f"frame_id {frame!r} is not the rig's {own!r}; its transform to "
                f"{self._rig.base_frame} is taken from /tf",
            )
        if sensor.modality is not Modality.LIDAR:
            return SensorPose(self._optical(sensor, frame, base_from_frame))
        is_fixed = self._is_odom(frame) or frame.rsplit("/", 1)[-1] in FIXED_FRAMES
        pose = self._own_pose(own, frame, rig_pose, stamp_ns)
        if pose is None:
            return SensorPose(base_from_frame, None, is_fixed)
        return SensorPose(pose, poses.inverse(pose) @ base_from_frame, is_fixed)

    def _in_base(
        self, sensor: Sensor, frame: str, own: str, rig_pose: Pose | None, stamp_ns: int
    ) -> SensorPose:
        """Return the pose of a sensor whose messages have the frame_id of the vehicle."""
        pose = self._own_pose(own, frame, rig_pose, stamp_ns)
        if sensor.modality is Modality.LIDAR:
            if pose is None:
                return SensorPose(np.eye(4))
            self._notices.add(
                sensor.name,
                f"frame_id is {frame!r}: the points are taken as already transformed to the vehicle",
            )
            return SensorPose(pose, poses.inverse(pose))
        source = (
            "the rig's extrinsics are used" if rig_pose is not None else "the pose of /tf is used"
        )
        if pose is None:
            pose, source = np.eye(4), "the sensor is taken to be at its origin"
            pose = BODY_FROM_OPTICAL if sensor.modality in IMAGE_MODALITIES else pose
        kind = "an image" if sensor.modality in IMAGE_MODALITIES else "a range"
        self._notices.add(
            sensor.name, f"frame_id is {frame!r}, in which {kind} cannot be measured; {source}"
        )
        return SensorPose(pose)

    def _own_pose(self, own: str, frame: str, rig_pose: Pose | None, stamp_ns: int) -> Pose | None:
        """Return the pose of the sensor itself, if it is known independently of the message's frame."""
        if rig_pose is not None or not own or own == frame:
            return rig_pose
        try:
            return self._lookup(own, stamp_ns)
        except TransformError:
            return None

    def _lookup(self, frame: str, stamp_ns: int) -> Pose:
        if self._is_odom(frame) and self._odometry.uses_topic:
            return base_from_odom(self._odometry.pose(stamp_ns))
        return self._transforms.lookup(self._rig.base_frame, frame, stamp_ns)

    def _optical(self, sensor: Sensor, frame: str, pose: Pose) -> Pose:
        """Return the pose of the optical frame, if `frame` is the body frame of a camera."""
        is_body = pose[2, 2] > UPWARD_AXIS and "optical" not in frame.lower()
        if sensor.modality not in IMAGE_MODALITIES or not is_body:
            return pose
        self._notices.add(
            sensor.name,
            f"the z axis of {frame!r} points up: taken as the body frame of the camera, not the optical "
            "frame",
        )
        return pose @ BODY_FROM_OPTICAL

    def _is_base(self, frame: str) -> bool:
        base = normalise_name(self._rig.base_frame)
        return frame == base or frame.rsplit("/", 1)[-1] == base

    def _is_odom(self, frame: str) -> bool:
        return frame == normalise_name(self._rig.odom_frame)


def to_sensor_frame(sweep: LidarSweep, source: SensorPose, min_range: float) -> LidarSweep | None:
    """Return a sweep with its points in the sensor's frame; None if no measured point is left.

    Points of missing returns, which are at the sensor, are removed: in another frame the decoder cannot
    recognise them. Points in a fixed frame are already deskewed and lose their times.
    """
    times = None if source.is_fixed else sweep.time_offsets
    if source.sensor_from_message is None:
        return sweep if times is sweep.time_offsets else replace(sweep, time_offsets=times)
    points = np.empty_like(sweep.points)
    points[:, :3] = poses.transform_points(
        source.sensor_from_message, sweep.points[:, :3].astype(np.float64)
    )
    points[:, 3] = sweep.points[:, 3]
    returns = find_returns(points, min_range, np.inf)
    if returns.removed == len(points):
        return None
    rings = sweep.rings
    if returns.removed:
        points = points[returns.keep]
        times = None if times is None else times[returns.keep]
        rings = None if rings is None else rings[returns.keep]
    return replace(sweep, points=points, time_offsets=times, rings=rings)
