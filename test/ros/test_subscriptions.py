"""Messages that waited in DDS are processed in the order and with the times of their arrival."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import Range

from multimodal_perception.ros.clock import NodeClock
from multimodal_perception.ros.qos import SENSOR_QOS
from multimodal_perception.ros.subscriptions import TopicSubscriptions
from test.ros.conftest import LIMIT_S, wait_for

pytestmark = pytest.mark.live

TOPICS = ("/waiting/info", "/waiting/a", "/waiting/b")
RANGE = "sensor_msgs/msg/Range"


class Receiver:
    """A node whose executor runs only when a test calls it."""

    def __init__(self) -> None:
        self.node = rclpy.create_node("receiver")
        self.received: list[tuple[str, float, int]] = []  # topic, range, arrival
        self.deadline_ns: int | None = None
        self.lost: list[tuple[str, int]] = []
        clock = NodeClock(self.node)
        self.topics = TopicSubscriptions(
            self.node, clock, self._receive, TOPICS[1:], lambda: self.deadline_ns, self._on_lost
        )
        for topic in TOPICS:
            self.topics.add(topic, RANGE, SENSOR_QOS)
        self.publishers = {t: self.node.create_publisher(Range, t, SENSOR_QOS) for t in TOPICS}
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)

    def _receive(self, topic: str, msg: Any, arrival_ns: int) -> None:
        self.received.append((topic, msg.range, arrival_ns))

    def _on_lost(self, topic: str, count: int) -> None:
        self.lost.append((topic, count))

    def publish(self, topic: str, value: float) -> int:
        """Publish a message, wait until DDS has received it, and return the time of publication."""
        now_ns = self.now_ns()
        self.publishers[topic].publish(Range(range=value))
        time.sleep(0.1)
        return now_ns

    def now_ns(self) -> int:
        return int(self.node.get_clock().now().nanoseconds)


class Subscriber:
    """The part of message_filters.Subscriber that is used, as in ROS 2."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.callbacks: list[Any] = []
        self.sub = args[0].create_subscription(*args[1:], self.callback, **kwargs)

    def registerCallback(self, callback: Any) -> None:
        self.callbacks.append(callback)

    def callback(self, msg: Any) -> None:
        for callback in self.callbacks:
            callback(msg)


@pytest.fixture(params=["rclpy", "message_filters"])
def receiver(request: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    """With message_filters, the installed package is used; Subscriber replaces it if there is none."""
    if request.param == "rclpy":
        monkeypatch.setitem(sys.modules, "message_filters", None)
    elif importlib.util.find_spec("message_filters") is None:
        module = SimpleNamespace(Subscriber=Subscriber)
        monkeypatch.setitem(sys.modules, "message_filters", module)
    rclpy.init()
    result = Receiver()
    wait_for(
        lambda: all(p.get_subscription_count() for p in result.publishers.values()),
        LIMIT_S,
        "match",
    )
    yield result
    result.topics.close()
    result.executor.shutdown()
    result.node.destroy_node()
    rclpy.shutdown()


def test_waiting_messages_are_sorted_by_arrival_after_transforms(receiver: Receiver) -> None:
    """One callback takes all of them; the executor by itself would alternate between the topics."""
    info, a, b = TOPICS
    order = [(b, 1.0), (b, 2.0), (a, 3.0), (b, 4.0), (info, 5.0), (a, 6.0)]
    published = {value: receiver.publish(topic, value) for topic, value in order}
    called_ns = receiver.now_ns()
    receiver.executor.spin_once(timeout_sec=1.0)
    assert [(t, v) for t, v, _ in receiver.received] == [order[4], *order[:4], order[5]]
    for _, value, arrival_ns in receiver.received:  # the time of reception, not of the callback
        assert published[value] <= arrival_ns < called_ns
    for _ in range(5):
        receiver.executor.spin_once(timeout_sec=0.05)
    assert len(receiver.received) == len(order)


def test_message_after_the_deadline_is_processed_after_those_that_wait(receiver: Receiver) -> None:
    _, a, b = TOPICS
    receiver.deadline_ns = 0
    receiver.publishers[b].publish(Range(range=1.0))
    receiver.publishers[a].publish(Range(range=2.0))
    time.sleep(0.1)
    receiver.executor.spin_once(timeout_sec=1.0)
    assert [v for _, v, _ in receiver.received] == [1.0, 2.0]


def test_take_waiting_empties_all_topics(receiver: Receiver) -> None:
    for value in (1.0, 2.0, 3.0):
        receiver.publish(TOPICS[1], value)
    receiver.topics.take_waiting()
    assert [v for _, v, _ in receiver.received] == [1.0, 2.0, 3.0]
    receiver.topics.take_waiting()
    assert len(receiver.received) == 3


def test_messages_that_dds_replaces_are_counted(receiver: Receiver) -> None:
    """DDS keeps the newest SENSOR_QOS.depth messages of a topic for an executor that is busy."""
    depth = SENSOR_QOS.depth
    for value in range(3):
        receiver.publish(TOPICS[1], float(value))
    receiver.topics.take_waiting()
    for value in range(depth + 4):
        receiver.publish(TOPICS[1], float(value))
    receiver.topics.take_waiting()
    assert len(receiver.received) == 3 + depth
    assert receiver.lost == [(TOPICS[1], 4)]
