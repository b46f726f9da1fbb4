"""Levels on /diagnostics for messages that cannot be used as they are, over DDS."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from nav_msgs.msg import Odometry
from rcl_interfaces.msg import Log
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import PointCloud2, Range
from tf2_msgs.msg import TFMessage
from vision_msgs.msg import Detection3DArray

from multimodal_perception.frame import Modality
from multimodal_perception.geometry import poses
from multimodal_perception.messages import encoders, message_types
from multimodal_perception.perception import Level
from multimodal_perception.rig import Rig, Sensor
from multimodal_perception.ros.node_process import perception_process
from multimodal_perception.ros.qos import MOTION_QOS, OUTPUT_QOS
from multimodal_perception.sensor_calibration import Extrinsics
from test.messages.clouds import MOUNTING, lidar, rig, stamped
from test.messages.test_pointcloud import make_cloud
from test.ros.conftest import LIMIT_S, START_S, wait_for

pytestmark = pytest.mark.live

# Severity of a log message.
ERROR = 40
TYPES = message_types.RclpyTypes()
SETTINGS = {
    "pipeline.detector": "geometric",
    "pipeline.runtime.device": "cpu",
    "diagnostics_period_s": "0.2",
    "calibration_monitor.period_s": "0.0",
    "pipeline.frozen_sensors.lidar_s": "0.0",  # the same sweep and echo are sent repeatedly
    "pipeline.frozen_sensors.ultrasonic_distance": "0.0",
}


class Client:
    """Publishes messages to a node and keeps its latest diagnostics."""

    def __init__(self, node: Any) -> None:
        self.node = node
        self.objects: list[Any] = []
        self.statuses: dict[str, Any] = {}
        self.publishers: dict[str, Any] = {}
        node.create_subscription(
            Detection3DArray, "/perception/objects", self.objects.append, OUTPUT_QOS
        )
        node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, OUTPUT_QOS)

    def _on_diagnostics(self, msg: Any) -> None:
        for status in msg.status:
            self.statuses[status.name.rsplit(": ", 1)[-1]] = status

    def advertise(self, types: Mapping[str, Any], qos: Any = OUTPUT_QOS) -> None:
        """Create the publishers of topics, by message type, and wait for the node."""
        for topic, message_type in types.items():
            self.publishers[topic] = self.node.create_publisher(message_type, topic, qos)
        wait_for(lambda: all(map(self.node.count_subscribers, types)), START_S, ", ".join(types))
        time.sleep(0.5)

    def publish(self, topic: str, msg: Any, qos: Any = OUTPUT_QOS) -> None:
        if topic not in self.publishers:
            self.advertise({topic: type(msg)}, qos)
        self.publishers[topic].publish(msg)

    def now_ns(self) -> int:
        return int(self.node.get_clock().now().nanoseconds)

    def send_until(self, send: Callable[[int], None], condition: Callable[[], Any]) -> None:
        """Call `send` with the time 10 times a second until a condition holds."""
        end = time.monotonic() + LIMIT_S
        while time.monotonic() < end:
            send(self.now_ns())
            time.sleep(0.1)
            if condition():
                return
        raise AssertionError({n: (s.level, s.message) for n, s in self.statuses.items()})

    def is_level(self, name: str, level: Level, text: str = "") -> bool:
        status = self.statuses.get(name)
        return status is not None and status.level[0] == level.value and text in status.message

    def values(self, name: str) -> str:
        return "\n".join(f"{v.key}: {v.value}" for v in self.statuses[name].values)


@contextmanager
def started_client() -> Iterator[Callable[..., Client]]:
    """Yields a function that starts a node with a rig and parameters."""
    with ExitStack() as stack:

        def start(vehicle: Rig, **settings: str) -> Client:
            stack.enter_context(perception_process(vehicle, settings={**SETTINGS, **settings}))
            rclpy.init()
            stack.callback(rclpy.shutdown)
            node = rclpy.create_node("vehicle")
            stack.callback(node.destroy_node)
            client = Client(node)
            executor = SingleThreadedExecutor()
            executor.add_node(node)
            stack.callback(executor.shutdown)
            threading.Thread(target=executor.spin, daemon=True).start()
            return client

        yield start


@pytest.fixture
def connect() -> Iterator[Callable[..., Client]]:
    """Starts a node with a rig and parameters."""
    with started_client() as start:
        yield start


def scene(
    stamp_ns: int, frame_id: str = "lidar_top", has_box: bool = True, **fields: Any
) -> PointCloud2:
    """Flat ground and a box of 4 x 1.8 x 1.5 m at x = 12 m, in the LiDAR's frame."""
    rng = np.random.default_rng(0)
    ground = np.column_stack([rng.uniform(-25, 25, (3000, 2)), np.zeros(3000)])
    side = np.column_stack(
        [np.full(400, 12.0), rng.uniform(-0.9, 0.9, 400), rng.uniform(0, 1.5, 400)]
    )
    top = np.column_stack([rng.uniform(12, 16, 400), np.full(400, 0.9), rng.uniform(0, 1.5, 400)])
    xyz = np.vstack([ground, side, top] if has_box else [ground]) - np.array(MOUNTING)
    columns = {axis: ("f4", xyz[:, i]) for i, axis in enumerate("xyz")}
    columns |= {name: (code, make(len(xyz))) for name, (code, make) in fields.items()}
    return stamped(make_cloud(columns), stamp_ns, frame_id)


def static_message(stamp_ns: int) -> TFMessage:
    pose = poses.from_xyz_rpy(MOUNTING)
    entry = encoders.transform_to_message(TYPES, pose, "base_link", "lidar_top", stamp_ns)
    return TFMessage(transforms=[entry])


def test_volatile_tf_static_is_received_and_no_result_is_published_before(
    connect: Callable[..., Client],
) -> None:
    client = connect(rig(lidar(extrinsics=None)))

    def send(stamp_ns: int) -> None:
        client.publish("/points", scene(stamp_ns))

    client.send_until(send, lambda: client.is_level("lidar", Level.ERROR, "no_transform"))
    client.send_until(
        send, lambda: client.is_level("pipeline", Level.ERROR, "no objects published")
    )
    assert not client.objects
    client.publish("/tf_static", static_message(client.now_ns()), MOTION_QOS)  # not latched
    client.send_until(send, lambda: client.objects and client.objects[-1].detections)
    client.send_until(send, lambda: client.is_level("lidar", Level.OK))
    client.send_until(send, lambda: client.is_level("pipeline", Level.OK))


def test_use_sim_time_without_clock_is_an_error_and_frames_are_processed(
    connect: Callable[..., Client],
) -> None:
    second = Sensor(
        "silent", Modality.LIDAR, "/silent", "silent", Extrinsics((0, 0, 1)), required=False
    )
    client = connect(rig(lidar(), second), use_sim_time="true")
    errors: list[str] = []
    client.node.create_subscription(
        Log, "/rosout", lambda msg: errors.append(msg.msg) if msg.level >= ERROR else None, 100
    )
    # The frames are closed by their deadline, because the second sensor is silent.
    client.send_until(
        lambda stamp_ns: client.publish("/points", scene(stamp_ns)),
        lambda: client.objects and client.is_level("pipeline", Level.ERROR, "no /clock"),
    )
    wait_for(
        lambda: any("no /clock" in text for text in errors), LIMIT_S, "log of the missing clock"
    )


def sonar(name: str, **keys: Any) -> Sensor:
    return Sensor(
        name,
        Modality.ULTRASONIC,
        f"/{name}",
        name,
        Extrinsics((2.0, 0.0, 0.5)),
        required=False,
        **keys,
    )


def echo(stamp_ns: int, name: str, distance: float, low: float, high: float) -> Range:
    msg = Range(field_of_view=0.5, min_range=low, max_range=high, range=distance)
    return stamped(msg, stamp_ns, name)


def test_levels_and_assumptions_of_each_kind(connect: Callable[..., Client]) -> None:
    sensors = (
        lidar(),
        Sensor("in_base", Modality.LIDAR, "/in_base", "in_base", Extrinsics(MOUNTING)),
        Sensor("late", Modality.LIDAR, "/late", "late", Extrinsics(MOUNTING)),
        Sensor("zeros", Modality.LIDAR, "/zeros", "zeros", Extrinsics(MOUNTING)),
        Sensor("micro", Modality.LIDAR, "/micro", "micro", Extrinsics(MOUNTING)),
        Sensor("milli", Modality.LIDAR, "/milli", "milli", Extrinsics(MOUNTING)),
        sonar("fixed"),
        sonar("outside"),
        sonar("invalid"),
    )
    client = connect(rig(*sensors, odometry_topic="/odom"))

    def send(stamp_ns: int) -> None:
        seconds = stamp_ns / 1e9
        spread = np.linspace
        client.publish("/points", scene(stamp_ns))
        base = scene(stamp_ns, "base_link")
        client.publish("/in_base", base)
        absolute = {"timestamp": ("f4", lambda n: seconds + spread(0, 0.1, n))}
        client.publish("/late", scene(stamp_ns, "late", **absolute))
        zeros = make_cloud({n: ("f4", [0.0, 5.0, 0.0, 6.0]) for n in "xyz"})
        client.publish("/zeros", stamped(zeros, stamp_ns, "zeros"))
        micro = {"t": ("u4", lambda n: spread(0, 1e5, n))}
        client.publish("/micro", scene(stamp_ns, "micro", **micro))
        milli = make_cloud({n: ("f4", np.linspace(2000, 40_000, 50)) for n in "xyz"})
        client.publish("/milli", stamped(milli, stamp_ns, "milli"))
        client.publish("/fixed", echo(stamp_ns, "fixed", -math.inf, 0.5, 0.5))
        client.publish("/outside", echo(stamp_ns, "outside", 0.0, 0.2, 4.0))
        client.publish("/invalid", echo(stamp_ns, "invalid", math.nan, 0.2, 4.0))
        odometry = stamped(Odometry(child_frame_id="base_link"), stamp_ns, "odom")
        odometry.pose.pose.orientation.w = 0.0
        client.publish("/odom", odometry)

    expected = {
        "lidar": (Level.OK, ""),
        "in_base": (Level.OK, ""),
        "late": (Level.WARN, "unusable_point_times"),
        "zeros": (Level.OK, ""),
        "micro": (Level.OK, ""),
        "milli": (Level.ERROR, "implausible_coordinates"),
        "fixed": (Level.OK, ""),
        "outside": (Level.WARN, "outside_limits"),
        "invalid": (Level.WARN, "no_range"),
    }
    for name, (level, text) in expected.items():
        client.send_until(send, lambda n=name, v=level, t=text: client.is_level(n, v, t))
    assert "already transformed" in client.values("in_base")
    assert "information.points_near" in client.values("zeros")
    assert "microseconds" in client.values("micro")
    assert "metres_per_unit" in client.values("milli")
    assert "dropped./odom.bad_transform" in client.values("pipeline")


def test_frame_without_a_required_sensor_is_not_a_frame_without_objects(
    connect: Callable[..., Client],
) -> None:
    other = Sensor("other", Modality.LIDAR, "/other", "other", Extrinsics(MOUNTING), required=False)
    client = connect(rig(lidar(), other))

    def send(stamp_ns: int, message: Any) -> None:
        unusable = make_cloud({n: ("f4", np.full(50, math.nan)) for n in "xyz"})
        client.publish("/points", stamped(unusable, stamp_ns, "lidar_top"))
        client.publish("/other", message)

    def send_ground(stamp_ns: int) -> None:
        send(stamp_ns, scene(stamp_ns, "other", has_box=False))

    client.send_until(send_ground, lambda: client.is_level("lidar", Level.ERROR, "all_nan"))
    client.send_until(
        send_ground, lambda: client.is_level("pipeline", Level.ERROR, "no objects published")
    )
    client.send_until(send_ground, lambda: client.is_level("other", Level.OK))
    assert not client.objects
    # Objects that the other LiDAR found are published, with a warning.
    client.send_until(
        lambda stamp_ns: send(stamp_ns, scene(stamp_ns, "other")),
        lambda: client.objects and client.is_level("pipeline", Level.WARN, "required sensors"),
    )
    assert all(message.detections for message in client.objects)
