"""Odometry and ground truth of simulated frames as ROS messages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from multimodal_perception.datasets.bag_writer import RosbagsTypes
from multimodal_perception.messages import encoders
from multimodal_perception.messages.frame_messages import TRUTH
from multimodal_perception.occupancy.layers import occupancy_percent
from multimodal_perception.rig import Rig
from multimodal_perception.simulation.simulation import Observation, Simulation


def odometry_message(simulation: Simulation, stamp_ns: int, types: RosbagsTypes) -> Any:
    """nav_msgs/Odometry of the ego vehicle at a time, without error."""
    rig = simulation.rig
    pose = simulation.odometry(stamp_ns)
    step_ns = 1_000_000
    after, before = simulation.odometry(stamp_ns + step_ns), simulation.odometry(stamp_ns - step_ns)
    # nav_msgs/Odometry defines the twist in the child frame, base_link.
    velocity = pose[:3, :3].T @ (after[:3, 3] - before[:3, 3]) / (2e-9 * step_ns)
    rotation = np.linalg.inv(before[:3, :3]) @ after[:3, :3]
    yaw_rate = float(np.arctan2(rotation[1, 0], rotation[0, 0])) / (2e-9 * step_ns)
    transform = encoders.transform_to_message(types, pose, rig.odom_frame, rig.base_frame, stamp_ns)
    zero_covariance = types.values(np.zeros(36))
    xyz = transform.transform.translation
    pose_message = types.new(
        "geometry_msgs/msg/Pose",
        position=types.new("geometry_msgs/msg/Point", x=xyz.x, y=xyz.y, z=xyz.z),
        orientation=transform.transform.rotation,
    )
    vector = "geometry_msgs/msg/Vector3"
    twist = types.new(
        "geometry_msgs/msg/Twist",
        linear=types.new(vector, x=float(velocity[0]), y=float(velocity[1]), z=float(velocity[2])),
        angular=types.new(vector, x=0.0, y=0.0, z=yaw_rate),
    )
    return types.new(
        "nav_msgs/msg/Odometry",
        header=transform.header,
        child_frame_id=rig.base_frame,
        pose=types.new(
            "geometry_msgs/msg/PoseWithCovariance", pose=pose_message, covariance=zero_covariance
        ),
        twist=types.new(
            "geometry_msgs/msg/TwistWithCovariance", twist=twist, covariance=zero_covariance
        ),
    )


def truth_messages(
    observation: Observation, rig: Rig, types: RosbagsTypes
) -> Iterator[tuple[str, str, Any]]:
    """Yield (topic, type, message) of a frame's ground truth, except the boxes (see frame_messages)."""
    truth = observation.truth
    grid = encoders.occupancy_to_message(types, truth.occupancy, occupancy_percent(truth.occupancy))
    yield f"{TRUTH}/occupancy", "nav_msgs/msg/OccupancyGrid", grid
    ns = truth.stamp_ns
    yield (
        f"{TRUTH}/semantic_grid",
        "sensor_msgs/msg/Image",
        _image(types, truth.semantic_grid, "mono8", ns, rig.base_frame),
    )
    for name, view in truth.views.items():
        frame_id = rig.sensors[name].frame_id
        for layer, values, encoding in (
            ("semantic", view.semantics, "mono8"),
            ("instance", view.instances, "32SC1"),
            ("depth", view.depth, "32FC1"),
        ):
            image = _image(types, values, encoding, ns, frame_id)
            yield f"{TRUTH}/{name}/{layer}", "sensor_msgs/msg/Image", image
    # Labels of each point of a sweep are published as images of one row, because a point cloud topic
    # would be taken for another LiDAR.
    for name, points in truth.points.items():
        frame_id = rig.sensors[name].frame_id
        for layer, values, encoding in (
            ("semantic", points.semantics, "mono8"),
            ("instance", points.instances, "32SC1"),
        ):
            image = _image(types, values[None], encoding, ns, frame_id)
            yield f"{TRUTH}/{name}/{layer}", "sensor_msgs/msg/Image", image
    # Last message of a frame: count_frames uses it to count the complete frames of a bag.
    layout = types.new("std_msgs/msg/MultiArrayLayout", dim=[], data_offset=0)
    visibility = types.new(
        "std_msgs/msg/Float32MultiArray", layout=layout, data=types.values(truth.visibility)
    )
    yield f"{TRUTH}/visibility", "std_msgs/msg/Float32MultiArray", visibility


def _image(
    types: RosbagsTypes, values: np.ndarray, encoding: str, stamp_ns: int, frame_id: str
) -> Any:
    values = np.ascontiguousarray(values)
    return types.new(
        "sensor_msgs/msg/Image",
        header=encoders.make_header(types, stamp_ns, frame_id),
        height=values.shape[0],
        width=values.shape[1],
        encoding=encoding,
        is_bigendian=0,
        step=values.shape[1] * values.itemsize,
        data=values.reshape(-1).view(np.uint8),
    )
