"""Message intake over DDS: complete frames, CPU time per message type, latency and memory.

Separate processes publish two cameras of 1280x720 at 30 Hz, a LiDAR of 120,000 points at 10 Hz, a
thermal camera of 640x512 16-bit pixels at 30 Hz and twelve ultrasonic sensors at 20 Hz, like the
drivers of a car.
No network runs: only the intake and the synchronization are measured.
"""

from __future__ import annotations

import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace
from collections import Counter
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from multimodal_perception.benchmarks.report import (
    add_json_argument,
    add_seconds_argument,
    check_options,
    print_report,
)
from multimodal_perception.configuration import UserError
from multimodal_perception.frame import Modality
from multimodal_perception.latency import latency_percentiles
from multimodal_perception.rig import Rig, Sensor
from multimodal_perception.sensor_calibration import Extrinsics, Intrinsics, RangeLimits

DEFAULT_SECONDS = 60.0
# Discovery and the first frames are excluded from the measurement, seconds.
SETTLE_S = 3.0
CAMERAS, ULTRASONICS = 2, 12
# Each group of sensors is published by one process.
GROUPS = ("cameras", "lidar", "thermal", "ultrasonics")


def make_rig() -> Rig:
    """The rig with the sensors of this benchmark."""
    extrinsics = Extrinsics((0.0, 0.0, 1.5))
    camera = Intrinsics(1280, 720, 900.0, 900.0, 639.5, 359.5)
    thermal = Intrinsics(640, 512, 600.0, 600.0, 319.5, 255.5)
    limits = RangeLimits(0.05, 5.0, 0.9)
    sensors = [Sensor("lidar", Modality.LIDAR, "/bench/lidar", "lidar", extrinsics, rate_hz=10.0)]
    for i in range(CAMERAS):
        name = f"camera_{i}"
        sensors.append(
            Sensor(
                name,
                Modality.CAMERA,
                f"/bench/{name}",
                name,
                extrinsics,
                rate_hz=30.0,
                intrinsics=camera,
            )
        )
    sensors.append(
        Sensor(
            "thermal",
            Modality.THERMAL,
            "/bench/thermal",
            "thermal",
            extrinsics,
            rate_hz=30.0,
            intrinsics=thermal,
        )
    )
    for i in range(ULTRASONICS):
        name = f"ultrasonic_{i}"
        sensors.append(
            Sensor(
                name,
                Modality.ULTRASONIC,
                f"/bench/{name}",
                name,
                extrinsics,
                rate_hz=20.0,
                limits=limits,
            )
        )
    return Rig("bench", {s.name: s for s in sensors})


# Publisher processes -----------------------------------------------------------------------------


def publish(group: str, seconds: float) -> None:
    """Publish the sensors of one group at their rates, and print the number of sent messages per
    sensor."""
    import rclpy

    from multimodal_perception.messages import encoders, message_types
    from multimodal_perception.ros.qos import SENSOR_QOS

    rig, types = make_rig(), message_types.RclpyTypes()
    sensors = [s for s in rig.sensors.values() if _group(s) == group]
    rclpy.init()
    node = rclpy.create_node(f"bench_{group}")
    publishers: dict[str, Any] = {
        s.name: node.create_publisher(message_types.message_class(s.message), s.topic, SENSOR_QOS)
        for s in sensors
    }
    messages = {s.name: _make_message(s, types) for s in sensors}
    end = time.monotonic() + 30.0
    while time.monotonic() < end and not all(
        p.get_subscription_count() for p in publishers.values()
    ):
        time.sleep(0.05)
    sent: Counter[str] = Counter()
    start = time.monotonic()
    # Stagger the sensors, because real drivers do not publish at the same instant.
    due = {s.name: start + 0.003 * i for i, s in enumerate(sensors)}
    while time.monotonic() < start + seconds:
        name = min(due, key=lambda n: due[n])
        time.sleep(max(due[name] - time.monotonic(), 0.0))
        message = messages[name]
        message.header.stamp = encoders.make_time(types, node.get_clock().now().nanoseconds)
        publishers[name].publish(message)
        sent[name] += 1
        due[name] += 1.0 / rig.sensors[name].rate_hz
    time.sleep(1.0)
    node.destroy_node()
    rclpy.try_shutdown()
    print(dict(sent))


def _group(sensor: Sensor) -> str:
    return dict(zip(("camera", "lidar", "thermal", "ultrasonic"), GROUPS, strict=True))[
        sensor.modality.value
    ]


def _make_message(sensor: Sensor, types: Any) -> Any:
    from multimodal_perception.frame import (
        CameraImage,
        LidarSweep,
        ThermalImage,
        UltrasonicReading,
    )
    from multimodal_perception.messages import encoders

    rng = np.random.default_rng(0)
    name, frame_id = sensor.name, sensor.frame_id
    if sensor.modality is Modality.LIDAR:
        points = rng.normal(0, 20, (120_000, 4)).astype(np.float32)
        return encoders.sweep_to_message(types, LidarSweep(name, 0, frame_id, points))
    if sensor.modality is Modality.CAMERA:
        pixels = rng.integers(0, 255, (720, 1280, 3), np.uint8)
        return encoders.image_to_message(types, CameraImage(name, 0, frame_id, pixels, "bgr8"))
    if sensor.modality is Modality.THERMAL:
        counts = rng.integers(7000, 9000, (512, 640), np.uint16)
        return encoders.image_to_message(types, ThermalImage(name, 0, frame_id, counts))
    reading = UltrasonicReading(name, 0, frame_id, 1.5, 0.05, 5.0, 0.9)
    return encoders.range_to_message(types, reading)


# Measured process --------------------------------------------------------------------------------


def add_arguments(parser: ArgumentParser) -> None:
    add_seconds_argument(parser, DEFAULT_SECONDS)
    add_json_argument(parser)


def run(args: Namespace) -> int:
    check_options(args)
    print_report("intake", measure(args.seconds), args.json)
    return 0


def measure(seconds: float) -> dict[str, Any]:
    """Results of one run; see _Receiver.result. Raises UserError if a sensor was not received."""
    from multimodal_perception.ros.node_process import prepare_environment

    prepare_environment()
    rig = make_rig()
    with ExitStack() as stack:
        publishers = [stack.enter_context(_publisher(g, seconds + 2 * SETTLE_S)) for g in GROUPS]
        receiver = _Receiver(rig)
        try:
            receiver.spin_until_exit(publishers)
        finally:
            receiver.close()
        sent: Counter[str] = Counter()
        if set(receiver.received()) != set(rig.sensors):
            silent = ", ".join(sorted(set(rig.sensors) - set(receiver.received())))
            raise UserError(f"bench intake: no message received from {silent}")
        for publisher in publishers:
            assert publisher.stdout is not None
            lines = [line for line in publisher.stdout.read().splitlines() if line.startswith("{")]
            sent.update({k: int(v) for k, v in _parse(lines[-1]).items()} if lines else {})
    return receiver.result(sent)


def _parse(line: str) -> dict[str, int]:
    pairs = (pair.split(":") for pair in line.strip("{}").split(",") if pair)
    return {name.strip(" '\""): int(count) for name, count in pairs}


@contextmanager
def _publisher(group: str, seconds: float) -> Any:
    command = [sys.executable, "-m", f"{__package__}.intake", group, str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(10.0)


class _Receiver:
    """A node that runs MessageIntake and measures the processing time of each message."""

    def __init__(self, rig: Rig) -> None:
        import rclpy
        from rclpy.executors import SingleThreadedExecutor

        from multimodal_perception.messages import message_types
        from multimodal_perception.ros.qos import SENSOR_QOS
        from multimodal_perception.synchronization.intake import MessageIntake

        rclpy.init()
        self._rig = rig
        self._intake = MessageIntake(rig)
        self._node = rclpy.create_node("bench_intake")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._cpu_us: dict[str, list[float]] = {}
        self._memory_mb: list[tuple[float, float]] = []
        # Per frame: time of arrival (s), age (ms) relative to its stamp, and missing sensors.
        self._frames: list[tuple[float, float, frozenset[str]]] = []
        self._received_s: dict[str, tuple[float, float]] = {}  # time of first and last message
        for sensor in rig.sensors.values():
            self._node.create_subscription(
                message_types.message_class(sensor.message),
                sensor.topic,
                self._make_callback(sensor),
                SENSOR_QOS,
            )
        self._node.create_timer(0.01, self._tick)
        self._node.create_timer(1.0, self._record_memory)

    def spin_until_exit(self, processes: list[Any]) -> None:
        """Spin until every process has exited."""
        end = time.monotonic() + 600.0
        while any(p.poll() is None for p in processes) and time.monotonic() < end:
            self._executor.spin_once(timeout_sec=0.1)

    def received(self) -> list[str]:
        """Names of the sensors of which a message was received."""
        return list(self._received_s)

    def close(self) -> None:
        import rclpy

        self._executor.shutdown()
        self._node.destroy_node()
        rclpy.try_shutdown()

    def result(self, sent: Counter[str]) -> dict[str, Any]:
        """Results for the time in which all publishers ran; message counts include the complete run.

        sent: number of sent messages per sensor.
        """
        # The publishers start and stop at different times; frames outside the common interval are
        # incomplete.
        start_s = max(first for first, _ in self._received_s.values()) + SETTLE_S
        end_s = min(last for _, last in self._received_s.values()) - 0.2
        measured = [f for f in self._frames if start_s <= f[0] <= end_s]
        missing = Counter(name for _, _, absent in measured for name in absent)
        statistics = self._intake.statistics()
        unaccounted = sum(
            s.received - s.used - sum(s.drops.values()) - self._intake.synchronizer.pending()[name]
            for name, s in statistics.items()
        )
        received = {name: s.received for name, s in statistics.items()}
        memory = [mb for at, mb in self._memory_mb if start_s <= at <= end_s] or [0.0]
        return {
            "complete_fraction": sum(not f[2] for f in measured) / max(len(measured), 1),
            "frames": len(measured),
            "seconds": end_s - start_s,
            "missing": dict(missing),
            "messages": {
                "sent": sum(sent.values()),
                "received": sum(received.values()),
                "lost_by_dds": {n: sent[n] - received[n] for n in sent if sent[n] != received[n]},
                "unaccounted": unaccounted,
            },
            "drops": {n: drops for n in statistics if (drops := self._intake.drop_counts(n))},
            "cpu_us_per_message": {
                message_type: latency_percentiles(values)
                for message_type, values in self._cpu_us.items()
            },
            "latency_ms": latency_percentiles([f[1] for f in measured]),
            "memory_mb": {
                "after_settling": memory[0],
                "at_the_end": memory[-1],
                "max": max(memory),
            },
        }

    def _make_callback(self, sensor: Sensor) -> Any:
        message_type = sensor.message.rsplit("/", 1)[1] + " " + sensor.modality.value
        cpu_us = self._cpu_us.setdefault(message_type, [])

        def receive(msg: Any) -> None:
            now_ns, now_s = self._node.get_clock().now().nanoseconds, time.monotonic()
            first_s = self._received_s.get(sensor.name, (now_s, 0.0))[0]
            self._received_s[sensor.name] = first_s, now_s
            start = time.thread_time()
            frames = self._intake.receive(sensor.topic, msg, now_ns)
            cpu_us.append(1e6 * (time.thread_time() - start))
            self._record_frames(frames, now_ns)

        return receive

    def _tick(self) -> None:
        now_ns = self._node.get_clock().now().nanoseconds
        self._record_frames(self._intake.advance(now_ns), now_ns)

    def _record_frames(self, frames: list[Any], now_ns: int) -> None:
        for frame in frames:
            age_ms = (now_ns - frame.stamp_ns) / 1e6
            self._frames.append((time.monotonic(), age_ms, frame.missing))

    def _record_memory(self) -> None:
        # Current resident pages; getrusage reports only the peak.
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self._memory_mb.append((time.monotonic(), pages * 4096 / 2**20))


if __name__ == "__main__":
    publish(sys.argv[1], float(sys.argv[2]))
