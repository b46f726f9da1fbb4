"""Odometry and what is true of a frame, as messages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from multimodal_perception.datasets.bag_writer import RosbagsTypes
from multimodal_perception.messages import encoders
from multimodal_perception.messages.frame_messages import TRUTH
from multimodal_perception.rig import Rig
from multimodal_perception.simulation.simulation import Observation, Simulation


def odometry_message(simulation: Simulation, stamp_ns: int, types: RosbagsTypes) -> Any:
    """nav_msgs/Odometry of the ego at a time, exact."""
    rig = simulation.rig
    pose = simulation.odometry(stamp_ns)
    half_ns = 1_000_000
    after, before = simulation.odometry(stamp_ns + half_ns), simulation.odometry(stamp_ns - half_ns)
    # In the vehicle's own frame, as nav_msgs has it.
    speed = pose[:3, :3].T @ (after[:3, 3] - before[:3, 3]) / (2e-9 * half_ns)
    turn = np.linalg.inv(before[:3, :3]) @ after[:3, :3]
    rate = float(np.arctan2(turn[1, 0], turn[0, 0])) / (2e-9 * half_ns)
    moved = encoders.transform_to_message(types, pose, rig.odom_frame, rig.base_frame, stamp_ns)
    at, none = moved.transform, types.values(np.zeros(36))
    place = types.new(
        "geometry_msgs/msg/Pose",
        position=types.new(
            "geometry_msgs/msg/Point", x=at.translation.x, y=at.translation.y, z=at.translation.z
        ),
        orientation=at.rotation,
    )
    vector = "geometry_msgs/msg/Vector3"
    twist = types.new(
        "geometry_msgs/msg/Twist",
        linear=types.new(vector, x=float(speed[0]), y=float(speed[1]), z=float(speed[2])),
        angular=types.new(vector, x=0.0, y=0.0, z=rate),
    )
    return types.new(
        "nav_msgs/msg/Odometry",
        header=moved.header,
        child_frame_id=rig.base_frame,
        pose=types.new("geometry_msgs/msg/PoseWithCovariance", pose=place, covariance=none),
        twist=types.new("geometry_msgs/msg/TwistWithCovariance", twist=twist, covariance=none),
    )


def truth_messages(
    observation: Observation, rig: Rig, types: RosbagsTypes
) -> Iterator[tuple[str, str, Any]]:
    """(topic, type, message) of a frame's truth; the boxes are among frame_messages."""
    truth = observation.truth
    grid = encoders.occupancy_to_message(types, truth.occupancy)
    yield f"{TRUTH}/occupancy", "nav_msgs/msg/OccupancyGrid", grid
    ns = truth.stamp_ns
    yield (
        f"{TRUTH}/semantic_grid",
        "sensor_msgs/msg/Image",
        _image(types, truth.semantic_grid, "mono8", ns, rig.base_frame),
    )
    for name, view in truth.views.items():
        frame_id = rig.sensors[name].frame_id
        for part, values, encoding in (
            ("semantic", view.semantics, "mono8"),
            ("instance", view.instances, "32SC1"),
            ("depth", view.depth, "32FC1"),
        ):
            image = _image(types, values, encoding, ns, frame_id)
            yield f"{TRUTH}/{name}/{part}", "sensor_msgs/msg/Image", image
    # Of each point of the sweep in turn: images of one row, since a cloud would look like a LiDAR.
    for name, points in truth.points.items():
        frame_id = rig.sensors[name].frame_id
        for part, values, encoding in (
            ("semantic", points.semantics, "mono8"),
            ("instance", points.instances, "32SC1"),
        ):
            image = _image(types, values[None], encoding, ns, frame_id)
            yield f"{TRUTH}/{name}/{part}", "sensor_msgs/msg/Image", image
    # Last: a bag's whole frames are counted by it.
    layout = types.new("std_msgs/msg/MultiArrayLayout", dim=[], data_offset=0)
    share = types.new(
        "std_msgs/msg/Float32MultiArray", layout=layout, data=types.values(truth.visibility)
    )
    yield f"{TRUTH}/visibility", "std_msgs/msg/Float32MultiArray", share


def _image(
    types: RosbagsTypes, values: np.ndarray, encoding: str, stamp_ns: int, frame_id: str
) -> Any:
    values = np.ascontiguousarray(values)
    return types.new(
        "sensor_msgs/msg/Image",
        header=encoders.header(types, stamp_ns, frame_id),
        height=values.shape[0],
        width=values.shape[1],
        encoding=encoding,
        is_bigendian=0,
        step=values.shape[1] * values.itemsize,
        data=values.reshape(-1).view(np.uint8),
    )
