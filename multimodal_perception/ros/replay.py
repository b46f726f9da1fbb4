"""Recorded frames played over DDS at a steady rate, and what the live node answered."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from multimodal_perception.configuration import UserError
from multimodal_perception.datasets.dataset import Dataset
from multimodal_perception.datasets.open_dataset import open_dataset
from multimodal_perception.evaluation.detections import percentiles
from multimodal_perception.frame import Boxes3D
from multimodal_perception.messages import decoders, encoders, message_types
from multimodal_perception.messages.frame_messages import (
    TF_STATIC,
    frame_messages,
    static_transforms,
)
from multimodal_perception.perception import OccupancyGrid
from multimodal_perception.processes import end_with
from multimodal_perception.resources import share_path
from multimodal_perception.rig import Rig, dump_rig
from multimodal_perception.ros.node import OUTPUTS
from multimodal_perception.ros.qos import LATCHED_QOS, OUTPUT_QOS
from multimodal_perception.ros.spinning import spin

# Frames kept encoded: a long recording is encoded again as it goes.
MOST_CACHED = 32
# The first frame, sent to see that the node hears, is sent again when it was not answered for so long.
ASK_AGAIN_S = 3.0
# What the node's counts are waited for; it tells them once a second by default.
COUNTS_WITHIN_S = 3.0


def prepare_environment() -> None:
    """Give Fast DDS our profile for large messages, unless the user chose a profile or another RMW."""
    if os.environ.get("RMW_IMPLEMENTATION", "rmw_fastrtps_cpp") == "rmw_fastrtps_cpp":
        profile = str(share_path("config", "dds", "fastdds_shm.xml"))
        os.environ.setdefault("FASTDDS_DEFAULT_PROFILES_FILE", profile)


@dataclass
class Answer:
    """What came back for one published frame. Times in seconds of one monotonic clock."""

    index: int
    published_s: float
    arrived_s: float | None = None
    objects: Any = None
    occupancy: Any = None
    stage_ms: dict[str, float] = field(default_factory=dict)

    def boxes(self) -> Boxes3D:
        """The boxes that arrived. Raises ValueError without an answer."""
        if self.objects is None:
            raise ValueError("no answer")
        return decoders.boxes_from_message(self.objects)

    def grid(self) -> OccupancyGrid | None:
        """The occupancy that arrived, if any."""
        return None if self.occupancy is None else decoders.occupancy_from_message(self.occupancy)


@dataclass(frozen=True)
class Played:
    """What came back, and what the node counted meanwhile.

    counts: what grew, of the pipeline (frames_dropped_busy, frames_failed, ...) and as
    `sensor.dropped.reason`; empty where the node told none.
    """

    answers: list[Answer]
    counts: Mapping[str, int] = field(default_factory=dict)


class ReplayNode(Node):
    """Publishes a dataset's frames on their rig's topics and listens to the node's answers.

    Stamps are moved to the time of publication, so that loops and old recordings play as live data.
    """

    def __init__(self, dataset: Dataset, **node_arguments: Any) -> None:
        super().__init__("replay", **node_arguments)
        self._dataset = dataset
        self._types = message_types.RclpyTypes()
        self._outlets: dict[str, Any] = {}
        self._encoded: dict[int, tuple[Any, list[tuple[str, str, Any]], int]] = {}
        self._lock = threading.Lock()
        self._answers: dict[int, Answer] = {}
        self._counts: dict[str, int] = {}
        self._counted = threading.Event()
        self.create_subscription(
            message_types.message_class(OUTPUTS["/diagnostics"]),
            "/diagnostics",
            self._on_diagnostics,
            OUTPUT_QOS,
        )
        for topic, attribute in (
            ("perception/objects", "objects"),
            ("perception/occupancy", "occupancy"),
            ("perception/timing", "timing"),
        ):
            self.create_subscription(
                message_types.message_class(OUTPUTS[topic]),
                topic,
                self._listener(attribute),
                OUTPUT_QOS,
            )
        for index in range(min(len(dataset), MOST_CACHED)):
            self._messages(index)
        # All publishers exist before the first frame, so that discovery happens once.
        transforms, content, _ = self._messages(0)
        self._outlet(TF_STATIC, "tf2_msgs/msg/TFMessage").publish(transforms)
        for topic, name, _ in content:
            self._outlet(topic, name)

    def wait_until_heard(self, timeout_s: float, alive: Callable[[], bool]) -> bool:
        """Wait until a node listens to every sensor topic and has answered the first frame.

        That one is sent again and again and not counted: its answer shows that each side has
        discovered the other, and what is slow at the first time is over. Returns whether one listens.
        """
        end = time.monotonic() + timeout_s
        topics = [s.topic for s in self._dataset.rig.sensors.values() if s.topic in self._outlets]
        answer = self.resolve_topic_name("perception/objects")
        while not (self.count_publishers(answer) and all(map(self.count_subscribers, topics))):
            if time.monotonic() > end or not alive():
                return False
            time.sleep(0.05)
        asked_s = -ASK_AGAIN_S
        while not self._answered() and time.monotonic() < end and alive():
            if time.monotonic() > asked_s + ASK_AGAIN_S:
                asked_s = time.monotonic()
                self.publish(0, self.get_clock().now().nanoseconds)
            time.sleep(0.02)
        self.wait_for_answers(ASK_AGAIN_S)
        self.answers()
        return True

    def wait_for_answers(self, timeout_s: float) -> None:
        """Wait until every frame published has its answer."""
        end = time.monotonic() + timeout_s
        while self.pending() and time.monotonic() < end:
            time.sleep(0.02)

    def counts(self) -> dict[str, int]:
        """What the node has counted by now; empty if it does not tell."""
        self._counted.clear()
        return dict(self._counts) if self._counted.wait(COUNTS_WITHIN_S) else {}

    def publish(self, index: int, stamp_ns: int) -> None:
        """Publish frame `index` as of a stamp."""
        transforms, content, frame_ns = self._messages(index)
        for transform in transforms.transforms:
            transform.header.stamp = encoders.time(self._types, stamp_ns)
        self._outlet(TF_STATIC, "tf2_msgs/msg/TFMessage").publish(transforms)
        for _, _, message in content:
            offset_ns = decoders.stamp_ns_of(message) - frame_ns
            message.header.stamp = encoders.time(self._types, stamp_ns + offset_ns)
        self._encoded[index] = transforms, content, stamp_ns
        with self._lock:
            answer = self._answers[stamp_ns] = Answer(index, time.perf_counter())
        for topic, name, message in content:
            self._outlet(topic, name).publish(message)
        answer.published_s = time.perf_counter()

    def answers(self) -> list[Answer]:
        """One for each frame published, in order; taken out of the node."""
        with self._lock:
            result, self._answers = list(self._answers.values()), {}
        return result

    def pending(self) -> int:
        """How many frames have no answer."""
        with self._lock:
            return sum(a.arrived_s is None or not a.stage_ms for a in self._answers.values())

    def _answered(self) -> bool:
        with self._lock:
            return any(a.arrived_s is not None for a in self._answers.values())

    def _on_diagnostics(self, msg: Any) -> None:
        counts: dict[str, int] = {}
        for status in msg.status:
            source = status.name.rpartition(": ")[2]
            pairs = ((v.key, v.value) for v in status.values if v.value.isdecimal())
            if source == "pipeline":
                counts |= {key: int(n) for key, n in pairs}
            else:
                counts |= {f"{source}.{k}": int(n) for k, n in pairs if k.startswith("dropped.")}
        if "frames_dropped_busy" in counts:  # others speak of themselves on this topic too
            self._counts = counts
            self._counted.set()

    def _messages(self, index: int) -> tuple[Any, list[tuple[str, str, Any]], int]:
        if index not in self._encoded:
            if len(self._encoded) >= MOST_CACHED:
                self._encoded.clear()
            frame = self._dataset[index]
            transforms = static_transforms(frame, self._types)
            content = list(frame_messages(frame, self._dataset.rig, self._types))
            self._encoded[index] = transforms, content, frame.stamp_ns
        return self._encoded[index]

    def _outlet(self, topic: str, name: str) -> Any:
        if topic not in self._outlets:
            qos = LATCHED_QOS if topic == TF_STATIC else OUTPUT_QOS
            self._outlets[topic] = self.create_publisher(
                message_types.message_class(name), topic, qos
            )
        return self._outlets[topic]

    def _listener(self, attribute: str) -> Callable[[Any], None]:
        def listen(msg: Any) -> None:
            now_s, stamp_ns = time.perf_counter(), decoders.stamp_ns_of(msg)
            with self._lock:
                answer = self._answers.get(stamp_ns)
                if answer is None:
                    return
                if attribute == "timing":
                    answer.stage_ms = {v.key: float(v.value) for v in msg.status[0].values}
                    return
                setattr(answer, attribute, msg)
                if attribute == "objects":
                    answer.arrived_s = now_s

        return listen


@contextmanager
def perception_process(
    rig: Rig, parameters: Path | None = None, settings: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """perception_node in a process of its own, ended at the end of the block or with its thread.

    parameters: a ROS parameter file. settings: parameters by name, over those.
    """
    prepare_environment()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rig.yaml"
        path.write_text(dump_rig(rig))
        command = [sys.executable, "-m", "multimodal_perception.ros.node", "--ros-args"]
        if parameters is not None:
            command += ["--params-file", str(parameters)]
        every = {**(settings or {}), "rig": str(path), "autostart": "true"}
        command += [part for name in every for part in ("-p", f"{name}:={every[name]}")]
        # A process group of its own: Ctrl-C reaches this process alone, which then ends the node.
        process = subprocess.Popen(
            command, start_new_session=True, preexec_fn=partial(end_with, os.getpid())
        )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(10.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def play(
    dataset: Dataset,
    rate_hz: float,
    loops: int = 1,
    timeout_s: float = 60.0,
    on_frame: Callable[[int], None] | None = None,
    process: subprocess.Popen[bytes] | None = None,
) -> Played:
    """Publish every frame `loops` times at a rate and gather the answers of a running node.

    process: the node's, if it is ours. Raises UserError when no node listens within the timeout, or
    when the process ends before.
    """
    prepare_environment()
    rclpy.init()
    executor = SingleThreadedExecutor()
    listener = threading.Thread(target=_spin_until_shutdown, args=(executor,), daemon=True)
    node = None
    try:
        node = ReplayNode(dataset)
        executor.add_node(node)
        listener.start()
        if not node.wait_until_heard(timeout_s, lambda: process is None or process.poll() is None):
            if process is not None and process.poll() is not None:
                raise UserError("perception_node ended; it has said why")
            topics = ", ".join(s.topic for s in dataset.rig.sensors.values())
            raise UserError(f"no perception node listens to {topics} within {timeout_s:.0f} s")
        before = node.counts()
        start_s = time.perf_counter()
        for count in range(loops * len(dataset)):
            time.sleep(max(start_s + count / rate_hz - time.perf_counter(), 0.0))
            node.publish(count % len(dataset), node.get_clock().now().nanoseconds)
            if on_frame is not None:
                on_frame(count)
        node.wait_for_answers(2.0)
        after = node.counts() if before else {}
        grown = {name: n - before.get(name, 0) for name, n in after.items()}
        return Played(node.answers(), {name: n for name, n in grown.items() if n})
    finally:
        executor.shutdown()
        if listener.ident is not None:
            listener.join(5.0)
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()


def summarise(played: Played) -> dict[str, Any]:
    """Keys sent, received, latency_ms, overhead_ms and stage_ms {p50, p95}, and what was not answered.

    latency: from publication of a frame's last input to arrival of its boxes. overhead: latency less
    the pipeline's own time, that is DDS both ways, decoding, synchronising and encoding.
    unanswered_frames: how often by index. node_counts: see Played.
    """
    answers = played.answers
    done = [a for a in answers if a.arrived_s is not None]
    latency = [1e3 * ((a.arrived_s or 0.0) - a.published_s) for a in done]
    overhead = [ms - a.stage_ms["total"] for ms, a in zip(latency, done, strict=True) if a.stage_ms]
    stages: dict[str, list[float]] = {}
    for answer in done:
        for stage, value in answer.stage_ms.items():
            stages.setdefault(stage, []).append(value)
    missing = Counter(a.index for a in answers if a.arrived_s is None)
    return {
        "sent": len(answers),
        "received": len(done),
        "latency_ms": percentiles(latency),
        "overhead_ms": percentiles(overhead),
        "stage_ms": {stage: percentiles(values) for stage, values in stages.items()},
        "unanswered_frames": {str(index): n for index, n in sorted(missing.items())},
        "node_counts": dict(played.counts),
    }


def _spin_until_shutdown(executor: SingleThreadedExecutor) -> None:
    try:
        executor.spin()
    except Exception:
        # The executor is shut down under a waiting spin; a true error shows as missing answers.
        if rclpy.ok():
            raise


class _EndlessReplay(ReplayNode):
    """ReplayNode on a timer, for launch files."""

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
        self.answers()


def main(args: Sequence[str] | None = None) -> int:
    """Entry point of replay_node: plays `path` at `rate` until it is stopped."""
    prepare_environment()
    return spin(_EndlessReplay, sys.argv if args is None else args)


if __name__ == "__main__":
    sys.exit(main())
