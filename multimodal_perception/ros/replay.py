"""Plays recorded frames over DDS at a steady rate and collects the results of the running node."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from multimodal_perception.configuration import UserError
from multimodal_perception.datasets.dataset import Dataset
from multimodal_perception.datasets.open_dataset import open_dataset
from multimodal_perception.messages import decoders, encoders, message_types
from multimodal_perception.messages.frame_messages import (
    TF_STATIC,
    frame_messages,
    static_transforms,
)
from multimodal_perception.ros.node_process import prepare_environment
from multimodal_perception.ros.occupancy_outputs import GRID_TOPIC
from multimodal_perception.ros.outputs import (
    DIAGNOSTICS_TOPIC,
    FIXED_TOPICS,
    OBJECTS_TOPIC,
    TIMING_TOPIC,
)
from multimodal_perception.ros.qos import LATCHED_QOS, OUTPUT_QOS
from multimodal_perception.ros.replay_statistics import (
    FrameResult,
    ReplayResult,
    ReplayStatistics,
)
from multimodal_perception.ros.spinning import spin

# Encoded frames kept in memory; the frames of a longer recording are encoded again in each loop.
MAX_CACHED_FRAMES = 32
# The first frame is sent again if its result is not received within this time, or if it is incomplete
# this long after its boxes, seconds; after so many results the replay starts anyway.
FIRST_FRAME_TIMEOUT_S = 3.0
FIRST_FRAME_PAUSE_S = 0.5
MAX_FIRST_FRAMES = 5
# Published frames that wait for results; those of older frames count as missing.
MAX_PENDING = 100
# Maximum time to wait for the node's counts; it publishes them once a second by default.
COUNTS_TIMEOUT_S = 3.0


class ReplayNode(Node):
    """Publishes a dataset's frames on the topics of its rig and subscribes to the node's results.

    Stamps are replaced by the time of publication, so that loops and old recordings appear as live data.
    """

    def __init__(self, dataset: Dataset, **node_arguments: Any) -> None:
        super().__init__("replay", **node_arguments)
        self._dataset = dataset
        self._types = message_types.RclpyTypes()
        self._publishers_by_topic: dict[str, Any] = {}
        self._encoded: dict[int, tuple[Any, list[tuple[str, str, Any]], int]] = {}
        self._lock = threading.Lock()
        self._pending: dict[int, FrameResult] = {}
        self.statistics = ReplayStatistics()
        self._counts: dict[str, int] = {}
        self._engines: dict[str, str] = {}
        self._counts_received = threading.Event()
        self.create_subscription(
            message_types.message_class(FIXED_TOPICS[DIAGNOSTICS_TOPIC]),
            DIAGNOSTICS_TOPIC,
            self._on_diagnostics,
            OUTPUT_QOS,
        )
        for topic, attribute in (
            (OBJECTS_TOPIC, "objects"),
            (GRID_TOPIC, "occupancy"),
            (TIMING_TOPIC, "timing"),
        ):
            self.create_subscription(
                message_types.message_class(FIXED_TOPICS[topic]),
                topic,
                self._callback(attribute),
                OUTPUT_QOS,
            )
        for index in range(min(len(dataset), MAX_CACHED_FRAMES)):
            self._messages(index)
        # Create all publishers before the first frame, so that discovery happens once.
        transforms, content, _ = self._messages(0)
        self._publisher(TF_STATIC, "tf2_msgs/msg/TFMessage").publish(transforms)
        for topic, name, _ in content:
            self._publisher(topic, name)

    def wait_until_connected(self, timeout_s: float, alive: Callable[[], bool]) -> bool:
        """Wait until a node has subscribed to every sensor topic and has published a complete result.

        The first frame is sent repeatedly and not counted: its result shows that both sides have
        discovered each other on all topics, and it includes one-time initialisation. If the node does
        not use a sensor of the frame, the last of MAX_FIRST_FRAMES results counts as complete.
        Returns whether a node subscribed.
        """
        end = time.monotonic() + timeout_s
        topics = [
            s.topic
            for s in self._dataset.rig.sensors.values()
            if s.topic in self._publishers_by_topic
        ]
        objects = self.resolve_topic_name(OBJECTS_TOPIC)
        while not (
            self.count_publishers(objects)
            and all(self._publishers_by_topic[t].get_subscription_count() for t in topics)
        ):
            if time.monotonic() > end or not alive():
                return False
            time.sleep(0.05)
        absent = set(self._dataset.rig.sensors) - set(self._dataset[0].readings)
        answers = 0
        while answers < MAX_FIRST_FRAMES and time.monotonic() < end and alive():
            result = self._send_first_frame(
                min(time.monotonic() + FIRST_FRAME_TIMEOUT_S, end), alive
            )
            answers += result.received_s is not None
            if result.complete() and set(filter(None, result.missing.split(", "))) <= absent:
                break
        self.finish()
        self.statistics = ReplayStatistics()
        return True

    def _send_first_frame(self, end: float, alive: Callable[[], bool]) -> FrameResult:
        """Send the first frame and wait for its result, or for FIRST_FRAME_PAUSE_S after its boxes."""
        stamp_ns = self.get_clock().now().nanoseconds
        self.publish(0, stamp_ns)
        with self._lock:
            result = self._pending.get(stamp_ns) or FrameResult(0, 0.0)
        while not result.complete() and time.monotonic() < end and alive():
            if result.received_s is not None:
                end = min(end, time.monotonic() + FIRST_FRAME_PAUSE_S)
            time.sleep(0.02)
        return result

    def wait_for_results(self, timeout_s: float) -> None:
        """Wait until every published frame has its result."""
        end = time.monotonic() + timeout_s
        while self.pending() and time.monotonic() < end:
            time.sleep(0.02)

    def finish(self) -> None:
        """Count the pending frames as they are."""
        with self._lock:
            for result in self._pending.values():
                self.statistics.add(result)
            self._pending.clear()

    def engines(self) -> dict[str, str]:
        """Engine, precision and device by network, from the diagnostics received so far."""
        return dict(self._engines)

    def counts(self) -> dict[str, int]:
        """The node's present counts; empty if it does not publish diagnostics in time."""
        self._counts_received.clear()
        return dict(self._counts) if self._counts_received.wait(COUNTS_TIMEOUT_S) else {}

    def publish(self, index: int, stamp_ns: int) -> None:
        """Publish frame `index` with a stamp."""
        transforms, content, frame_ns = self._messages(index)
        for transform in transforms.transforms:
            transform.header.stamp = encoders.make_time(self._types, stamp_ns)
        self._publisher(TF_STATIC, "tf2_msgs/msg/TFMessage").publish(transforms)
        for _, _, message in content:
            offset_ns = decoders.stamp_ns_of(message) - frame_ns
            message.header.stamp = encoders.make_time(self._types, stamp_ns + offset_ns)
        self._encoded[index] = transforms, content, stamp_ns
        with self._lock:
            result = self._pending[stamp_ns] = FrameResult(index, time.perf_counter())
            self._count_old()
        for topic, name, message in content:
            self._publisher(topic, name).publish(message)
        result.published_s = time.perf_counter()

    def pending(self) -> int:
        """Number of published frames whose boxes, times or grid have not been received."""
        with self._lock:
            return len(self._pending)

    def _count_old(self) -> None:
        """Count frames whose results are not expected any more. The caller holds the lock."""
        while len(self._pending) > MAX_PENDING:
            self.statistics.add(self._pending.pop(next(iter(self._pending))))

    def _on_diagnostics(self, msg: Any) -> None:
        counts: dict[str, int] = {}
        for status in msg.status:
            source = status.name.rpartition(": ")[2]
            values = {v.key: v.value for v in status.values}
            if "engine" in values:
                network = source.removeprefix("inference of ")
                self._engines[network] = " ".join(
                    values.get(key, "") for key in ("engine", "precision", "device")
                )
            pairs = ((v.key, v.value) for v in status.values if v.value.isdecimal())
            if source == "pipeline":
                counts |= {key: int(n) for key, n in pairs}
            else:
                counts |= {f"{source}.{k}": int(n) for k, n in pairs if k.startswith("dropped.")}
        if "frames_dropped_busy" in counts:  # other nodes publish on this topic, too
            self._counts = counts
            self._counts_received.set()

    def _messages(self, index: int) -> tuple[Any, list[tuple[str, str, Any]], int]:
        if index not in self._encoded:
            if len(self._encoded) >= MAX_CACHED_FRAMES:
                self._encoded.clear()
            frame = self._dataset[index]
            transforms = static_transforms(frame, self._types)
            content = list(frame_messages(frame, self._dataset.rig, self._types))
            self._encoded[index] = transforms, content, frame.stamp_ns
        return self._encoded[index]

    def _publisher(self, topic: str, name: str) -> Any:
        if topic not in self._publishers_by_topic:
            qos = LATCHED_QOS if topic == TF_STATIC else OUTPUT_QOS
            self._publishers_by_topic[topic] = self.create_publisher(
                message_types.message_class(name), topic, qos
            )
        return self._publishers_by_topic[topic]

    def _callback(self, attribute: str) -> Callable[[Any], None]:
        def receive(msg: Any) -> None:
            now_s, stamp_ns = time.perf_counter(), decoders.stamp_ns_of(msg)
            with self._lock:
                result = self._pending.get(stamp_ns)
                if result is None:
                    return
                if attribute == "timing":
                    stages, readings = msg.status
                    result.stage_ms = {v.key: float(v.value) for v in stages.values}
                    _, _, result.missing = readings.message.partition("missing: ")
                else:
                    setattr(result, attribute, msg)
                    if attribute == "objects":
                        result.received_s = now_s
                if result.complete():
                    self.statistics.add(self._pending.pop(stamp_ns))

        return receive


def play(
    dataset: Dataset,
    rate_hz: float,
    loops: int = 1,
    timeout_s: float = 60.0,
    on_frame: Callable[[int], None] | None = None,
    process: subprocess.Popen[bytes] | None = None,
) -> ReplayResult:
    """Publish every frame `loops` times at a rate and collect the results of a running node.

    on_frame: called after each published frame. process: the node's, if this process started it.
    Raises UserError if no node subscribes within the timeout, or if the process ends before.
    """
    prepare_environment()
    rclpy.init()
    executor = SingleThreadedExecutor()
    thread = threading.Thread(target=_spin_until_shutdown, args=(executor,), daemon=True)
    node = None
    try:
        node = ReplayNode(dataset)
        executor.add_node(node)
        thread.start()
        if not node.wait_until_connected(
            timeout_s, lambda: process is None or process.poll() is None
        ):
            if process is not None and process.poll() is not None:
                raise UserError("perception_node ended; the reason is in its log")
            topics = ", ".join(s.topic for s in dataset.rig.sensors.values())
            raise UserError(f"no perception node subscribed to {topics} within {timeout_s:.0f} s")
        before = node.counts()
        start_s = time.perf_counter()
        for count in range(loops * len(dataset)):
            time.sleep(max(start_s + count / rate_hz - time.perf_counter(), 0.0))
            node.publish(count % len(dataset), node.get_clock().now().nanoseconds)
            if on_frame is not None:
                on_frame(count)
        node.wait_for_results(2.0 + 2.0 / rate_hz)
        node.finish()
        after = node.counts() if before else {}
        increase = {name: n - before.get(name, 0) for name, n in after.items()}
        counts = {name: n for name, n in increase.items() if n}
        return ReplayResult(node.statistics, counts, node.engines())
    finally:
        executor.shutdown()
        if thread.ident is not None:
            thread.join(5.0)
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()


def _spin_until_shutdown(executor: SingleThreadedExecutor) -> None:
    try:
        executor.spin()
    except Exception:
        # The executor was shut down while spinning. A real error shows as missing results.
        if rclpy.ok():
            raise


class _LoopingReplay(ReplayNode):
    """ReplayNode that publishes in a loop on a timer, for launch files."""

    def __init__(self) -> None:
        reader = rclpy.create_node("replay_parameters")
        reader.declare_parameter("path", "synthetic")
        reader.declare_parameter("rate", 10.0)
        path, rate = (reader.get_parameter(n).value for n in ("path", "rate"))
        reader.destroy_node()
        if not rate > 0:
            raise UserError(f"parameter rate: must be above 0, got {rate}")
        super().__init__(open_dataset(path))
        self._count = 0
        self.create_timer(1.0 / rate, self._next)

    def _next(self) -> None:
        self.publish(self._count % len(self._dataset), self.get_clock().now().nanoseconds)
        self._count += 1


def main(args: Sequence[str] | None = None) -> int:
    """Entry point of replay_node: plays the dataset `path` at `rate` Hz until it is stopped."""
    prepare_environment()
    return spin(_LoopingReplay, sys.argv if args is None else args)


if __name__ == "__main__":
    sys.exit(main())
