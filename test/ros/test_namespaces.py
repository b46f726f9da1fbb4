"""Two robots with the same rig file, each in its own namespace: no reading and no transform crosses."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import PointCloud2
from tf2_msgs.msg import TFMessage
from vision_msgs.msg import Detection3DArray

from multimodal_perception.datasets.synthetic import SyntheticDataset
from multimodal_perception.frame import LidarSweep
from multimodal_perception.geometry import poses
from multimodal_perception.messages import encoders, message_types
from multimodal_perception.ros.node_process import prepare_environment
from multimodal_perception.ros.qos import LATCHED_QOS, OUTPUT_QOS
from test.ros.conftest import LIMIT_S, START_S, wait_for

pytestmark = pytest.mark.live

TYPES = message_types.RclpyTypes()
RIG = """
name: robot
sensors:
  lidar: {modality: lidar, topic: lidar/points, frame_id: lidar, rate_hz: 10.0}
"""
STREET = SyntheticDataset(1)[0]
# Height of the LiDAR by robot: the points of a robot are on the ground only with its own transform.
HEIGHTS = {"robot_1": float(STREET.base_from_sensor["lidar"][2, 3]), "robot_2": 0.6}


def points(robot: str) -> np.ndarray:
    """A street for robot_1, only the ground for robot_2, in the frame of the LiDAR."""
    if robot == "robot_1":
        return STREET.lidars["lidar"].points
    rng = np.random.default_rng(0)
    angle, distance = rng.uniform(-np.pi, np.pi, 8000), rng.uniform(3, 40, 8000)
    height = np.full(8000, -HEIGHTS[robot])
    ground = [distance * np.cos(angle), distance * np.sin(angle), height, np.full(8000, 0.3)]
    return np.column_stack(ground).astype(np.float32)


class Robot:
    """The drivers of one robot and a recorder of its node's outputs."""

    def __init__(self, node: Node, name: str) -> None:
        self.name, self.node = name, node
        self.boxes: list[Any] = []
        self.lidar = node.create_publisher(PointCloud2, f"/{name}/lidar/points", OUTPUT_QOS)
        self.tf = node.create_publisher(TFMessage, f"/{name}/tf_static", LATCHED_QOS)
        node.create_subscription(
            Detection3DArray, f"/{name}/perception/objects", self.boxes.append, OUTPUT_QOS
        )

    def send(self) -> None:
        stamp_ns = int(self.node.get_clock().now().nanoseconds)
        sweep = LidarSweep("lidar", stamp_ns, "lidar", points(self.name))
        self.lidar.publish(encoders.sweep_to_message(TYPES, sweep))

    def send_transform(self) -> None:
        pose = poses.from_quaternion((0.0, 0.0, HEIGHTS[self.name]), (0.0, 0.0, 0.0, 1.0))
        transform = encoders.transform_to_message(TYPES, pose, "base_link", "lidar", 0)
        self.tf.publish(TFMessage(transforms=[transform]))


@pytest.fixture
def robots(tmp_path: Path) -> Iterator[tuple[list[Robot], list[Any]]]:
    (tmp_path / "rig.yaml").write_text(RIG)
    prepare_environment()
    processes = []
    for name in HEIGHTS:
        arguments = ["-r", f"__ns:=/{name}", "-r", "/tf:=tf", "-r", "/tf_static:=tf_static"]
        for parameter in (
            f"rig:={tmp_path / 'rig.yaml'}",
            "autostart:=true",
            "pipeline.detector:=geometric",
            "pipeline.occupancy:=none",
            "pipeline.frozen_sensors.lidar_s:=0.0",  # the same sweep is sent repeatedly
        ):
            arguments += ["-p", parameter]
        command = [sys.executable, "-m", "multimodal_perception.ros.node", "--ros-args"]
        processes.append(subprocess.Popen([*command, *arguments]))
    rclpy.init()
    node = rclpy.create_node("drivers")
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    diagnostics: list[Any] = []
    node.create_subscription(DiagnosticArray, "/diagnostics", diagnostics.append, OUTPUT_QOS)
    robots = [Robot(node, name) for name in HEIGHTS]
    thread = threading.Thread(target=executor.spin, daemon=True)
    thread.start()
    try:
        yield robots, diagnostics
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            assert process.wait(LIMIT_S) == 0
        executor.shutdown()
        node.destroy_node()
        rclpy.shutdown()
        thread.join(10.0)


def test_robots_in_two_namespaces_share_no_topic(
    robots: tuple[list[Robot], list[Any]],
) -> None:
    both, diagnostics = robots
    wait_for(lambda: all(r.lidar.get_subscription_count() for r in both), START_S, "nodes")
    assert {r.lidar.get_subscription_count() for r in both} == {1}
    assert both[0].node.count_subscribers("/tf") == 0
    assert both[0].node.count_subscribers("/tf_static") == 0
    for robot in both:
        robot.send_transform()

    def answered() -> bool:
        if not all(len(r.boxes) >= 5 for r in both):
            for robot in both:
                robot.send()
            return False
        return True

    wait_for(answered, LIMIT_S, "results of both robots")
    first, second = (r.boxes[-1] for r in both)
    centres = np.array(
        [(d.bbox.center.position.x, d.bbox.center.position.y) for d in first.detections]
    )
    labels = STREET.labels
    assert labels is not None and labels.num_points is not None
    expected = labels.boxes[labels.num_points > 50, :2]
    distances = np.linalg.norm(centres[:, None] - expected, axis=2).min(axis=0)
    assert (distances < 1.5).mean() >= 0.6
    assert not second.detections

    def named() -> bool:
        names = {s.name for message in diagnostics for s in message.status}
        return all(any(robot.name in n for n in names) for robot in both)

    wait_for(named, LIMIT_S, "diagnostics with the names of both robots")


def test_only_the_robot_with_transforms_gets_results(
    robots: tuple[list[Robot], list[Any]],
) -> None:
    """The transforms of one robot must not serve the other."""
    (first, second), _ = robots
    wait_for(
        lambda: all(r.lidar.get_subscription_count() for r in (first, second)), START_S, "nodes"
    )
    first.send_transform()

    def answered() -> bool:
        first.send()
        second.send()
        return bool(first.boxes)

    wait_for(answered, LIMIT_S, "result of the first robot")
    assert not any(message.detections for message in second.boxes)
