"""Boxes and tracks as autoware_perception_msgs: twists along the object's axes, ids, classes."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("autoware_perception_msgs", reason="optional messages of Autoware")
from autoware_perception_msgs.msg import (
    ObjectClassification,
    Shape,
    TrackedObjectKinematics,
)

from multimodal_perception.frame import CLASS_NAMES, Boxes3D
from multimodal_perception.messages import autoware
from multimodal_perception.messages.message_types import RclpyTypes

TYPES = RclpyTypes()
SESSION = bytes(range(8))


def boxes(yaw: float, velocity: tuple[float, float], track_id: int = 7) -> Boxes3D:
    """A car and a box without a track or velocity."""
    covariances = np.zeros((2, 6, 6), np.float32)
    covariances[0, range(6), range(6)] = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    velocity_covariances = np.full((2, 2, 2), np.nan, np.float32)
    velocity_covariances[0] = [[0.4, 0.1], [0.1, 0.9]]
    rows = np.array([[5, 1, 0.8, 4.2, 1.8, 1.5, yaw], [9, 2, 0.5, 1, 1, 1, 0]], np.float32)
    return Boxes3D(
        1_500_000_000,
        "base_link",
        rows,
        np.array([0.9, 0.4], np.float32),
        np.array([CLASS_NAMES.index("car"), CLASS_NAMES.index("cone")]),
        velocities=np.array([velocity, (np.nan, np.nan)], np.float32),
        track_ids=np.array([track_id, -1]),
        covariances=covariances,
        velocity_covariances=velocity_covariances,
    )


@pytest.mark.parametrize("yaw", [0.0, math.pi / 2, -2.5])
def test_a_tracked_object_has_its_velocity_along_its_own_axes(yaw: float) -> None:
    c, s = math.cos(yaw), math.sin(yaw)
    ahead, left = 6.0, -1.0
    velocity = (c * ahead - s * left, s * ahead + c * left)
    message = autoware.tracked_objects_message(TYPES, boxes(yaw, velocity), SESSION)
    assert message.header.frame_id == "base_link" and message.header.stamp.nanosec == 500_000_000
    (tracked,) = message.objects
    twist = tracked.kinematics.twist_with_covariance
    assert (twist.twist.linear.x, twist.twist.linear.y) == pytest.approx((ahead, left), abs=1e-5)
    frame_from_object = np.array([[c, -s], [s, c]])
    own = np.array(twist.covariance).reshape(6, 6)[:2, :2]
    expected = [[0.4, 0.1], [0.1, 0.9]]
    assert frame_from_object @ own @ frame_from_object.T == pytest.approx(
        np.array(expected), abs=1e-5
    )
    pose = tracked.kinematics.pose_with_covariance
    assert pose.pose.orientation.z == pytest.approx(math.sin(yaw / 2), abs=1e-6)
    assert np.diag(np.array(pose.covariance).reshape(6, 6)) == pytest.approx(
        [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    )
    assert bytes(tracked.object_id.uuid) == SESSION + (7).to_bytes(8, "big")
    assert tracked.kinematics.orientation_availability == TrackedObjectKinematics.AVAILABLE
    assert not tracked.kinematics.is_stationary
    assert tracked.shape.type == Shape.BOUNDING_BOX
    assert (tracked.shape.dimensions.x, tracked.shape.dimensions.z) == pytest.approx((4.2, 1.5))


def test_detected_objects_contain_all_boxes_and_state_what_is_known() -> None:
    car, cone = autoware.detected_objects_message(TYPES, boxes(0.0, (0.1, 0.0))).objects
    assert car.kinematics.has_twist and car.kinematics.has_twist_covariance
    assert car.kinematics.has_position_covariance and not cone.kinematics.has_position_covariance
    assert not cone.kinematics.has_twist and not cone.kinematics.has_twist_covariance
    assert cone.kinematics.twist_with_covariance.twist.linear.x == 0.0
    assert cone.existence_probability == pytest.approx(0.4)
    # Without motion the front is unknown.
    assert car.kinematics.orientation_availability == TrackedObjectKinematics.SIGN_UNKNOWN
    slow = autoware.tracked_objects_message(TYPES, boxes(0.0, (0.1, 0.0)), SESSION).objects[0]
    assert slow.kinematics.is_stationary
    backwards = autoware.tracked_objects_message(TYPES, boxes(0.0, (-4.0, 0.0)), SESSION).objects[0]
    assert backwards.kinematics.orientation_availability == TrackedObjectKinematics.SIGN_UNKNOWN


def test_classes_are_those_of_the_messages_constants() -> None:
    n = len(CLASS_NAMES)
    every = Boxes3D(
        0, "base_link", np.ones((n, 7), np.float32), np.ones(n, np.float32), np.arange(n)
    )
    objects = autoware.detected_objects_message(TYPES, every).objects
    labels = {name: o.classification[0].label for name, o in zip(CLASS_NAMES, objects, strict=True)}
    c = ObjectClassification
    expected = {
        "car": c.CAR,
        "van": c.CAR,
        "truck": c.TRUCK,
        "bus": c.BUS,
        "trailer": c.TRAILER,
        "motorcyclist": c.MOTORCYCLE,
        "cyclist": c.BICYCLE,
        "pedestrian": c.PEDESTRIAN,
    }
    assert labels == {name: expected.get(name, c.UNKNOWN) for name in CLASS_NAMES}
    empty = autoware.tracked_objects_message(TYPES, every, SESSION)
    assert len(empty.objects) == 0
