"""A vehicle with a camera and a thermal camera that speaks to a node in a process of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from multimodal_perception.frame import SensorFrame
from multimodal_perception.rig import Rig, load_rig, rig_path
from multimodal_perception.simulation.simulation import Observation, Simulation

SENSORS = ("camera_front", "thermal_front")
SETTINGS = {
    "deadline_s": "0.3",
    "pipeline.occupancy": "none",
    "pipeline.runtime.device": "cpu",
    "pipeline.runtime.order": "[onnxruntime]",
    "pipeline.trust.frozen_s": "0.0",  # one frame is sent again and again
    "registration.period_s": "0.0",  # a long look would go on when the node ends
}


def wait_for(condition: Callable[[], Any], timeout_s: float, what: str) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"no {what} within {timeout_s} s"
        time.sleep(0.02)


@dataclass
class Talk:
    """What the vehicle says, and all that it heard by topic."""

    send: Callable[[SensorFrame], int]  # returns the stamp
    got: dict[str, list[Any]] = field(default_factory=dict)

    def answered(self, frame: SensorFrame, condition: Callable[[], Any]) -> list[int]:
        """Send a frame each second until there is an answer, as best effort may lose one."""
        sent: list[int] = []
        for _ in range(40):
            sent.append(self.send(frame))
            end = time.monotonic() + 1.0
            while time.monotonic() < end:
                if condition():
                    return sent
                time.sleep(0.02)
        raise AssertionError(f"no answer to {len(sent)} frames")


@pytest.fixture(scope="session")
def image_rig() -> Rig:
    rig = load_rig(rig_path("simulation"))
    return replace(rig, sensors={n: rig.sensors[n] for n in SENSORS})


@pytest.fixture(scope="session")
def seen(image_rig: Rig) -> Observation:
    return Simulation("urban_street", image_rig, 10_778, 30).observe(20)


@pytest.fixture
def talk(image_rig: Rig) -> Iterator[Callable[[Mapping[str, str], Mapping[str, str]], Talk]]:
    """Starts a node with settings beside SETTINGS, and listens to topics of these message types."""
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from sensor_msgs.msg import Image

    from multimodal_perception.messages import encoders, message_types
    from multimodal_perception.ros.qos import OUTPUT_QOS, SENSOR_QOS
    from multimodal_perception.ros.replay import perception_process

    types = message_types.RclpyTypes()
    sensors = image_rig.sensors
    stack = ExitStack()
    processes = []

    def start(settings: Mapping[str, str], topics: Mapping[str, str]) -> Talk:
        every = {**SETTINGS, **settings}
        processes.append(stack.enter_context(perception_process(image_rig, settings=every)))
        rclpy.init()
        stack.callback(rclpy.shutdown)
        node = rclpy.create_node("vehicle")
        stack.callback(node.destroy_node)
        senders = {n: node.create_publisher(Image, sensors[n].topic, SENSOR_QOS) for n in sensors}

        def send(frame: SensorFrame) -> int:
            stamp_ns = int(node.get_clock().now().nanoseconds)
            for name, reading in frame.readings.items():
                message = encoders.image_to_message(types, reading)
                message.header.stamp = encoders.time(types, stamp_ns)
                senders[name].publish(message)
            return stamp_ns

        talk = Talk(send)
        for topic, kind in topics.items():
            keep = talk.got.setdefault(topic, []).append
            node.create_subscription(message_types.message_class(kind), topic, keep, OUTPUT_QOS)
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        stack.callback(executor.shutdown)
        threading.Thread(target=executor.spin, daemon=True).start()
        wait_for(lambda: all(s.get_subscription_count() for s in senders.values()), 100.0, "node")
        return talk

    with stack:
        yield start
    assert [p.returncode for p in processes] == [0] * len(processes)
