"""A rig with a camera and a thermal camera, connected over DDS to a node in another process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from multimodal_perception.frame import SensorFrame
from multimodal_perception.rig import Rig, load_rig, resolve_rig_path
from multimodal_perception.simulation.simulation import Observation, Simulation

# Time to start a node and to compile its kernels on a busy computer.
START_S = 200.0
# Time for the effect of a message on a busy computer.
LIMIT_S = 60.0
SENSORS = ("camera_front", "thermal_front")
SETTINGS = {
    "deadline_s": "0.3",
    "pipeline.occupancy": "none",
    "pipeline.runtime.device": "cpu",
    "pipeline.runtime.order": "[onnxruntime]",
    "pipeline.image_quality.frozen_s": "0.0",  # the same frame is sent repeatedly
    "pipeline.frozen_sensors.lidar_s": "0.0",
    "calibration_monitor.period_s": "0.0",  # a measurement may outlast the node
}


def wait_for(condition: Callable[[], Any], timeout_s: float, what: str) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"no {what} within {timeout_s} s"
        time.sleep(0.02)


@dataclass
class NodeClient:
    """Sends frames to the node and collects its messages by topic.

    send: publishes a frame and returns its stamp. subscribe: adds a topic with a message type.
    subscriptions: reliabilities of another node's subscriptions to the sensors and the outputs.
    """

    send: Callable[[SensorFrame], int]
    subscribe: Callable[[str, str], None]
    subscriptions: Callable[[str], set[str]]
    received: dict[str, list[Any]] = field(default_factory=dict)

    def send_until(self, frame: SensorFrame, condition: Callable[[], Any]) -> list[int]:
        """Send a frame each second until a condition holds; returns the stamps.

        Topics of images are best effort, so that a message may be lost.
        """
        sent: list[int] = []
        for _ in range(round(LIMIT_S)):
            sent.append(self.send(frame))
            end = time.monotonic() + 1.0
            while time.monotonic() < end:
                if condition():
                    return sent
                time.sleep(0.02)
        raise AssertionError(f"the condition did not hold after {len(sent)} frames")


@pytest.fixture(scope="session")
def image_rig() -> Rig:
    rig = load_rig(resolve_rig_path("simulation"))
    return replace(rig, sensors={n: rig.sensors[n] for n in SENSORS})


@pytest.fixture(scope="session")
def observation(image_rig: Rig) -> Observation:
    return Simulation("urban_street", image_rig, 10_778, 30).observe(20)


@pytest.fixture
def start_node(
    image_rig: Rig,
) -> Iterator[Callable[[Mapping[str, str], Mapping[str, str]], NodeClient]]:
    """Starts a node with SETTINGS and further parameters, and subscribes to topics by message type."""
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from sensor_msgs.msg import Image

    from multimodal_perception.messages import encoders, message_types
    from multimodal_perception.ros.node_process import perception_process
    from multimodal_perception.ros.qos import LATCHED_QOS, OUTPUT_QOS, SENSOR_QOS

    types = message_types.RclpyTypes()
    sensors = image_rig.sensors
    stack = ExitStack()
    processes = []

    def start(settings: Mapping[str, str], topics: Mapping[str, str]) -> NodeClient:
        settings = {**SETTINGS, **settings}
        processes.append(stack.enter_context(perception_process(image_rig, settings=settings)))
        rclpy.init()
        stack.callback(rclpy.shutdown)
        node = rclpy.create_node("vehicle")
        stack.callback(node.destroy_node)
        publishers = {
            n: node.create_publisher(Image, sensors[n].topic, SENSOR_QOS) for n in sensors
        }

        def send(frame: SensorFrame) -> int:
            stamp_ns = int(node.get_clock().now().nanoseconds)
            for name, reading in frame.readings.items():
                message = encoders.image_to_message(types, reading)
                message.header.stamp = encoders.make_time(types, stamp_ns)
                publishers[name].publish(message)
            return stamp_ns

        received: dict[str, list[Any]] = {}

        def subscribe(topic: str, name: str) -> None:
            callback = received.setdefault(topic, []).append
            qos = LATCHED_QOS if topic.endswith("/label_info") else OUTPUT_QOS
            node.create_subscription(message_types.message_class(name), topic, callback, qos)

        def subscriptions(name: str) -> set[str]:
            sensor_topics = [s.topic for s in sensors.values()]
            outputs = [t for t, _ in node.get_topic_names_and_types() if "perception/" in t]
            found = [node.get_subscriptions_info_by_topic(t) for t in (*sensor_topics, *outputs)]
            infos = [info for topic in found for info in topic if info.node_name == name]
            return {info.qos_profile.reliability.name for info in infos}

        for topic, name in topics.items():
            subscribe(topic, name)
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        stack.callback(executor.shutdown)
        threading.Thread(target=executor.spin, daemon=True).start()
        wait_for(
            lambda: all(s.get_subscription_count() for s in publishers.values()), START_S, "node"
        )
        return NodeClient(send, subscribe, subscriptions, received)

    with stack:
        yield start
    assert [p.returncode for p in processes] == [0] * len(processes)
