"""Endurance of perception_node: publishers are killed and clocks are wrong while it runs.

Each sensor of four modalities and the odometry are published at 10 Hz over DDS by a process of their
own. Every 20 s one process is killed (SIGKILL) and started again, and between that the clock of another
one is wrong for some seconds. Measured are the rate of the results, the memory of the node and its
counts.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from multimodal_perception.benchmarks.report import add_json_argument, print_report
from multimodal_perception.configuration import UserError
from multimodal_perception.processes import terminate_with_parent
from multimodal_perception.rig import Rig, dump_rig, load_rig

DRIVE = "simulated:urban_street,seed=3,frames=5"
SENSORS = ("lidar", "camera_front", "thermal_front", "front_left", "rear_right")
ODOMETRY = "odometry"
RATE_HZ = 10.0
KILL_PERIOD_S = 20.0
# A clock is wrong from FAULT_START_S after a kill on, for FAULT_S.
FAULT_START_S, FAULT_S = 10.0, 5.0
FAULTS_S = (0.07, 0.3, 1.5, 5.0, 86_400.0, -0.3, -2.0, -86_400.0)
# Memory and rate are measured after this part of the time, at most MAX_WARM_UP_S.
WARM_UP_FRACTION, MAX_WARM_UP_S = 0.25, 300.0
# Reasons of the synchronizer: each received reading is used, dropped for one of them, or pending.
SYNCHRONIZER_REASONS = (
    "late",
    "duplicate",
    "superseded",
    "overflow",
    "stamp_ahead",
    "stamp_behind",
    "clock_jump",
)


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--minutes", type=float, default=3.0, help="duration in minutes (default: 3)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the kills and faults")
    parser.add_argument(
        "--detector", default="geometric", help="parameter pipeline.detector of the node"
    )
    add_json_argument(parser)


def run(args: Namespace) -> int:
    if not 0.5 <= args.minutes <= 10_000:
        raise UserError(f"--minutes: allowed: 0.5 to 10000; got {args.minutes:g}")
    print_report("soak", measure(60.0 * args.minutes, args.seed, args.detector), args.json)
    return 0


def measure(seconds: float, seed: int = 0, detector: str = "geometric") -> dict[str, Any]:
    """Result of one run; see _result. Raises UserError if the node ends or does not answer."""
    from multimodal_perception.datasets.bag_writer import write_bag
    from multimodal_perception.datasets.open_dataset import open_dataset
    from multimodal_perception.ros import node_process

    node_process.prepare_environment()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        drive = open_dataset(DRIVE)
        rig = replace(_select(drive.rig), odometry_topic=None)
        others = drive.rig.sensors.keys() - rig.sensors.keys()
        frames = (drive[i].without_sensors(others) for i in range(len(drive)))
        write_bag(frames, rig, folder / "bag")
        (folder / "rig.yaml").write_text(dump_rig(rig))
        settings = {"pipeline.detector": detector, "diagnostics_period_s": "1.0"}
        process = stack.enter_context(node_process.perception_process(rig, settings=settings))
        publishers = {n: _Publisher(n, folder) for n in (*SENSORS, ODOMETRY)}
        for publisher in publishers.values():
            stack.callback(publisher.stop)
        observer = _Observer(process.pid)
        stack.callback(observer.close)
        observer.wait_for_result(120.0, lambda: process.poll() is None)
        kills, faults = _disturb(
            publishers, seconds, random.Random(seed), observer, lambda: process.poll() is None
        )
        time.sleep(2.0)
        return _result(observer, publishers, seconds, kills, faults)


def _select(rig: Rig) -> Rig:
    return replace(rig, sensors={name: rig.sensors[name] for name in SENSORS})


def _disturb(
    publishers: dict[str, _Publisher],
    seconds: float,
    rng: random.Random,
    observer: _Observer,
    alive: Callable[[], bool],
) -> tuple[int, int]:
    """Kill publishers and set wrong clocks for a time; return the number of both."""
    start_s = time.monotonic()
    observer.start(min(WARM_UP_FRACTION * seconds, MAX_WARM_UP_S))
    names = list(publishers)
    kills = faults = 0
    while (elapsed_s := time.monotonic() - start_s) < seconds:
        if not alive():
            raise UserError("bench soak: perception_node ended; the reason is in its log")
        if elapsed_s >= (kills + 1) * KILL_PERIOD_S:
            kills += 1
            publishers[rng.choice(names)].restart()
        if elapsed_s >= faults * KILL_PERIOD_S + FAULT_START_S:
            faults += 1
            publishers[rng.choice(names)].set_offset(rng.choice(FAULTS_S), FAULT_S)
        observer.record_memory()
        time.sleep(0.5)
    observer.end()
    return kills, faults


def _result(
    observer: _Observer,
    publishers: dict[str, _Publisher],
    seconds: float,
    kills: int,
    faults: int,
) -> dict[str, Any]:
    """Figures of a run.

    answered_hz: results per second after the warm-up. longest_gap_s: between two results.
    memory_growth: median of the last third of the measurement divided by that of the first third, minus
    1. lost_before_intake: messages that the publishers sent and the node did not count (discovery, DDS,
    counts that a killed process could not report). unaccounted: received readings that were neither
    used, dropped for a reason, nor pending; 0 if every loss is counted.
    """
    counts, sensors = observer.counts, observer.sensors
    memory = np.array(observer.memory_mib)
    third = max(len(memory) // 3, 1)
    first, last = (float(np.median(m)) for m in (memory[:third], memory[-third:]))
    times = np.array(observer.result_times_s)
    sent = {name: publisher.sent() for name, publisher in publishers.items() if name != ODOMETRY}
    unaccounted, lost = {}, {}
    for name, values in sensors.items():
        dropped = sum(values.get(f"dropped.{r}", 0) for r in SYNCHRONIZER_REASONS)
        used, pending = values.get("used", 0), values.get("pending", 0)
        received = values.get("received", 0)
        unaccounted[name] = received - used - dropped - pending
        others = sum(n for k, n in values.items() if k.startswith("dropped.")) - dropped
        lost[name] = sent[name] - received - others
    return {
        "seconds": seconds,
        "kills": kills,
        "clock_faults": faults,
        "answered_hz": len(times) / observer.measured_s,
        "longest_gap_s": float(np.diff(times).max()) if len(times) > 1 else float("nan"),
        "memory_mib": {"first": first, "last": last, "max": float(memory.max())},
        "memory_growth": last / first - 1.0,
        "sent": sent,
        "unaccounted": unaccounted,
        "lost_before_intake": lost,
        "counts": {key: value for key, value in sorted(counts.items()) if value},
    }


class _Observer:
    """Collects the times of the node's results, its memory and its counts."""

    def __init__(self, pid: int) -> None:
        import rclpy
        from diagnostic_msgs.msg import DiagnosticArray
        from rclpy.executors import SingleThreadedExecutor
        from vision_msgs.msg import Detection3DArray

        from multimodal_perception.ros.outputs import DIAGNOSTICS_TOPIC, OBJECTS_TOPIC
        from multimodal_perception.ros.qos import OUTPUT_QOS

        self._statm = Path(f"/proc/{pid}/statm")
        self._measures_from_s = self._measures_until_s = float("inf")
        self._last_result_s = 0.0
        self.measured_s = 0.0
        self.result_times_s: list[float] = []
        self.memory_mib: list[float] = []
        self.counts: dict[str, int] = {}
        self.sensors: dict[str, dict[str, int]] = {}
        rclpy.init()
        self._node = rclpy.create_node("soak")
        self._node.create_subscription(
            Detection3DArray, OBJECTS_TOPIC, self._on_objects, OUTPUT_QOS
        )
        self._node.create_subscription(
            DiagnosticArray, DIAGNOSTICS_TOPIC, self._on_diagnostics, OUTPUT_QOS
        )
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def wait_for_result(self, timeout_s: float, alive: Callable[[], bool]) -> None:
        """Wait for the first result. Raises UserError without one."""
        end_s = time.monotonic() + timeout_s
        while not self._last_result_s:
            if time.monotonic() > end_s or not alive():
                raise UserError(f"bench soak: no result within {timeout_s:.0f} s")
            time.sleep(0.1)

    def start(self, warm_up_s: float) -> None:
        """Measure from now on, after a warm-up."""
        self._measures_from_s = time.monotonic() + warm_up_s

    def end(self) -> None:
        """End the measurement of the rate."""
        self._measures_until_s = time.monotonic()
        self.measured_s = self._measures_until_s - self._measures_from_s

    def record_memory(self) -> None:
        """Record the resident memory of the node."""
        if time.monotonic() >= self._measures_from_s:
            pages = int(self._statm.read_text().split()[1])
            self.memory_mib.append(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)

    def close(self) -> None:
        import rclpy

        self._stop.set()
        self._thread.join(5.0)
        self._executor.shutdown()
        self._node.destroy_node()
        rclpy.try_shutdown()

    def _spin(self) -> None:
        while not self._stop.is_set():
            self._executor.spin_once(timeout_sec=0.1)

    def _on_objects(self, msg: Any) -> None:
        self._last_result_s = now_s = time.monotonic()
        if self._measures_from_s <= now_s < self._measures_until_s:
            self.result_times_s.append(now_s)

    def _on_diagnostics(self, msg: Any) -> None:
        for status in msg.status:
            source = status.name.rpartition(": ")[2]
            values = {v.key: int(v.value) for v in status.values if v.value.isdecimal()}
            if source == "pipeline":
                self.counts = values
            elif source in SENSORS:
                self.sensors[source] = values


class _Publisher:
    """A process that publishes one sensor, or the odometry; can be killed and started again."""

    def __init__(self, name: str, folder: Path) -> None:
        self._command = [sys.executable, "-m", f"{__package__}.soak", name, str(folder)]
        self._sent: Counter[int] = Counter()
        self._process = self._start()

    def restart(self) -> None:
        """Kill the process and start it again."""
        self._process.kill()
        self._process.wait()
        self._process = self._start()

    def set_offset(self, offset_s: float, duration_s: float) -> None:
        """Add an offset to the stamps for a time."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{offset_s} {duration_s}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return

    def sent(self) -> int:
        """Number of published messages, as far as the processes have reported them."""
        return sum(self._sent.values())

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()

    def _start(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=partial(terminate_with_parent, os.getpid()),
        )
        threading.Thread(target=self._read, args=(process,), daemon=True).start()
        return process

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip().isdecimal():
                self._sent[process.pid] = int(line)


# Publisher processes -----------------------------------------------------------------------------


def publish(name: str, folder: Path) -> None:
    """Publish one sensor, or the odometry, at RATE_HZ for ever.

    folder: contains the recording `bag` and `rig.yaml`.
    A line "OFFSET DURATION" on standard input changes the clock for a time, in seconds. The number of
    sent messages is printed after each message. Messages before the node subscribes are not counted.
    """
    import rclpy

    from multimodal_perception.messages import encoders, message_types
    from multimodal_perception.ros.qos import MOTION_QOS, SENSOR_QOS

    types = message_types.RclpyTypes()
    rclpy.init()
    node = rclpy.create_node(f"soak_{name}")
    fault = [0.0, 0.0]  # offset (s), and the monotonic time at which it ends
    threading.Thread(target=_read_faults, args=(fault,), daemon=True).start()
    publishers: dict[str, Any] = {}
    start_s, sent = time.monotonic(), 0
    for count, messages in enumerate(_messages(name, folder, types), 1):
        time.sleep(max(start_s + count / RATE_HZ - time.monotonic(), 0.0))
        offset_s = fault[0] if time.monotonic() < fault[1] else 0.0
        stamp_ns = node.get_clock().now().nanoseconds + round(offset_s * 1e9)
        is_received = True
        for topic, type_name, message in messages:
            if topic not in publishers:
                qos = MOTION_QOS if name == ODOMETRY else SENSOR_QOS
                message_class = message_types.message_class(type_name)
                publishers[topic] = node.create_publisher(message_class, topic, qos)
            parts = message.transforms if name == ODOMETRY else [message]
            for part in parts:
                part.header.stamp = encoders.make_time(types, stamp_ns)
            is_received = is_received and publishers[topic].get_subscription_count() > 0
            publishers[topic].publish(message)
        sent += is_received
        print(sent, flush=True)


def _messages(name: str, folder: Path, types: Any) -> Iterator[list[tuple[str, str, Any]]]:
    """The messages of each instant, repeated for ever: (topic, type, message)."""
    from multimodal_perception.datasets.open_dataset import open_dataset
    from multimodal_perception.geometry import poses
    from multimodal_perception.messages import encoders
    from multimodal_perception.messages.frame_messages import frame_messages

    if name == ODOMETRY:
        while True:
            for step in range(1000):
                pose = poses.from_xyz_rpy((0.5 * step, 0.0, 0.0), (0.0, 0.0, 0.0))
                entry = encoders.transform_to_message(types, pose, "odom", "base_link", 0)
                message = types.new("tf2_msgs/msg/TFMessage", transforms=[entry])
                yield [("/tf", "tf2_msgs/msg/TFMessage", message)]
    dataset = open_dataset(folder / "bag", "bag", load_rig(folder / "rig.yaml"))
    sensor = dataset.rig.sensors[name]
    topics = (sensor.topic, sensor.camera_info_topic)
    frames = [
        [m for m in frame_messages(dataset[i], dataset.rig, types) if m[0] in topics]
        for i in range(len(dataset))
    ]
    # A sensor may have no reading at an instant of the drive.
    frames = [messages for messages in frames if any(m[0] == sensor.topic for m in messages)]
    while True:
        yield from frames


def _read_faults(fault: list[float]) -> None:
    for line in sys.stdin:
        offset_s, duration_s = map(float, line.split())
        fault[:] = offset_s, time.monotonic() + duration_s


if __name__ == "__main__":
    publish(sys.argv[1], Path(sys.argv[2]))
