"""Boxes and tracks as autoware_perception_msgs (DetectedObjects, TrackedObjects).

The package is optional: it is imported when the first message is created.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.frame import Boxes3D
from multimodal_perception.messages.encoders import make_header, make_pose
from multimodal_perception.messages.message_types import MessageTypes

PACKAGE = "autoware_perception_msgs"
# Constants of ObjectClassification. Cones and barriers are unknown objects there.
UNKNOWN = 0
LABELS = {
    "car": 1,
    "van": 1,
    "truck": 2,
    "bus": 3,
    "trailer": 4,
    "motorcyclist": 5,
    "cyclist": 6,
    "pedestrian": 7,
}
# Constants of the kinematics' orientation_availability.
SIGN_UNKNOWN, AVAILABLE = 1, 2
# Constant of Shape.
BOUNDING_BOX = 0
# Objects with a lower speed, m/s, are stationary; the sign of the heading of others follows from their
# motion.
MIN_MOVING_SPEED = 0.5


@dataclass(frozen=True)
class _Motion:
    """Velocity of one object along its own axes, m/s, and its covariance (2, 2); None if unknown."""

    velocity: NDArray[np.float64] | None
    covariance: NDArray[np.float64] | None

    @classmethod
    def of(cls, boxes: Boxes3D, i: int) -> _Motion:
        if boxes.velocities is None or not np.isfinite(boxes.velocities[i]).all():
            return cls(None, None)
        c, s = math.cos(boxes.boxes[i, 6]), math.sin(boxes.boxes[i, 6])
        object_from_frame = np.array([[c, s], [-s, c]])
        covariance = None
        if boxes.velocity_covariances is not None:
            own = boxes.velocity_covariances[i].astype(np.float64)
            if np.isfinite(own).all():
                covariance = object_from_frame @ own @ object_from_frame.T
        return cls(object_from_frame @ boxes.velocities[i].astype(np.float64), covariance)

    @property
    def speed(self) -> float:
        """Speed, m/s; 0 if unknown."""
        return 0.0 if self.velocity is None else float(np.hypot(*self.velocity))


def detected_objects_message(types: MessageTypes, boxes: Boxes3D) -> Any:
    """DetectedObjects with all boxes, for Autoware's tracker. The twist is along the object's axes."""
    objects = []
    for i in range(len(boxes)):
        motion = _Motion.of(boxes, i)
        kinematics = types.new(
            f"{PACKAGE}/msg/DetectedObjectKinematics",
            **_kinematics(types, boxes, i, motion),
            has_position_covariance=_position_covariance(boxes, i).any().item(),
            has_twist=motion.velocity is not None,
            has_twist_covariance=motion.covariance is not None,
        )
        objects.append(
            types.new(
                f"{PACKAGE}/msg/DetectedObject", **_common(types, boxes, i), kinematics=kinematics
            )
        )
    head = make_header(types, boxes.stamp_ns, boxes.frame_id)
    return types.new(f"{PACKAGE}/msg/DetectedObjects", header=head, objects=objects)


def tracked_objects_message(types: MessageTypes, boxes: Boxes3D, session: bytes) -> Any:
    """TrackedObjects with the boxes that have a track id, velocities over ground along their axes.

    session: 8 bytes that differ between runs of the node. They and the id are the UUID of a track, so
    that equal ids of different runs are different objects.
    """
    ids = np.full(len(boxes), -1) if boxes.track_ids is None else boxes.track_ids
    objects = []
    for i in np.flatnonzero(ids >= 0).tolist():
        motion = _Motion.of(boxes, i)
        kinematics = types.new(
            f"{PACKAGE}/msg/TrackedObjectKinematics",
            **_kinematics(types, boxes, i, motion),
            acceleration_with_covariance=_acceleration(types),
            is_stationary=motion.velocity is not None and motion.speed < MIN_MOVING_SPEED,
        )
        uuid = np.frombuffer(session[:8] + int(ids[i]).to_bytes(8, "big"), np.uint8)
        objects.append(
            types.new(
                f"{PACKAGE}/msg/TrackedObject",
                object_id=types.new("unique_identifier_msgs/msg/UUID", uuid=uuid),
                **_common(types, boxes, i),
                kinematics=kinematics,
            )
        )
    head = make_header(types, boxes.stamp_ns, boxes.frame_id)
    return types.new(f"{PACKAGE}/msg/TrackedObjects", header=head, objects=objects)


def _common(types: MessageTypes, boxes: Boxes3D, i: int) -> dict[str, Any]:
    """Fields that detected and tracked objects share, except for the kinematics."""
    score = float(boxes.scores[i])
    label = LABELS.get(boxes.class_names[boxes.labels[i]], UNKNOWN)
    length, width, height = map(float, boxes.boxes[i, 3:6])
    return {
        "existence_probability": score,
        "classification": [
            types.new(f"{PACKAGE}/msg/ObjectClassification", label=label, probability=score)
        ],
        "shape": types.new(
            f"{PACKAGE}/msg/Shape",
            type=BOUNDING_BOX,
            footprint=types.new("geometry_msgs/msg/Polygon", points=[]),
            dimensions=_vector(types, (length, width, height)),
        ),
    }


def _kinematics(types: MessageTypes, boxes: Boxes3D, i: int, motion: _Motion) -> dict[str, Any]:
    pose = make_pose(types, boxes.boxes[i, :3], float(boxes.boxes[i, 6]))
    twist_covariance = np.zeros((6, 6))
    if motion.covariance is not None:
        twist_covariance[:2, :2] = motion.covariance
    vx, vy = (0.0, 0.0) if motion.velocity is None else map(float, motion.velocity)
    twist = types.new(
        "geometry_msgs/msg/Twist",
        linear=_vector(types, (vx, vy, 0.0)),
        angular=_vector(types, (0.0, 0.0, 0.0)),
    )
    # A box of points has no front: only motion determines it.
    known = motion.speed >= MIN_MOVING_SPEED and vx > 0
    return {
        "pose_with_covariance": types.new(
            "geometry_msgs/msg/PoseWithCovariance",
            pose=pose,
            covariance=types.values(_position_covariance(boxes, i).reshape(-1)),
        ),
        "twist_with_covariance": types.new(
            "geometry_msgs/msg/TwistWithCovariance",
            twist=twist,
            covariance=types.values(twist_covariance.reshape(-1)),
        ),
        "orientation_availability": AVAILABLE if known else SIGN_UNKNOWN,
    }


def _position_covariance(boxes: Boxes3D, i: int) -> NDArray[np.float64]:
    """Covariance (6, 6) of the pose; zeros if unknown."""
    return (
        np.zeros((6, 6)) if boxes.covariances is None else boxes.covariances[i].astype(np.float64)
    )


def _acceleration(types: MessageTypes) -> Any:
    zero = _vector(types, (0.0, 0.0, 0.0))
    return types.new(
        "geometry_msgs/msg/AccelWithCovariance",
        accel=types.new("geometry_msgs/msg/Accel", linear=zero, angular=zero),
        covariance=types.values(np.zeros(36)),
    )


def _vector(types: MessageTypes, xyz: Sequence[float]) -> Any:
    x, y, z = map(float, xyz)
    return types.new("geometry_msgs/msg/Vector3", x=x, y=y, z=z)
