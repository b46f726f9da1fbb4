"""Level, reason and notice of each example of misread messages on /diagnostics, over DDS.

One node receives all examples at once, each from a sensor of its own. See also test_no_silent_loss.py
and test_image_conventions.py.
"""

from __future__ import annotations

import array
import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from nav_msgs.msg import OccupancyGrid, Odometry
from sensor_msgs.msg import Image, PointCloud2, Range
from tf2_msgs.msg import TFMessage

from multimodal_perception.frame import Modality
from multimodal_perception.geometry import poses
from multimodal_perception.messages import encoders
from multimodal_perception.messages.point_times import EPOCHS_S
from multimodal_perception.perception import Level
from multimodal_perception.rig import Rig, Sensor
from multimodal_perception.ros.qos import OUTPUT_QOS
from multimodal_perception.sensor_calibration import Extrinsics, Intrinsics
from test.messages.clouds import MOUNTING, MS, cloud, lidar, rig, stamped
from test.ros.test_no_silent_loss import TYPES, Client, echo, started_client

pytestmark = pytest.mark.live

IMAGE_SHAPE = (48, 64)
SPEED = 20.0
# Sweeps are stamped at their start and end when they are published, so that the odometry covers them.
SWEEP_NS = 100 * MS
REAR = Extrinsics((-6.0, 0.0, 0.5), (0.0, 0.0, math.pi))
# Of the sensor that detects an object, away from the cones of the others.
MARKING = Extrinsics((-6.0, 6.0, 0.5), (0.0, 0.0, math.pi))
NO_ECHO = 655.35
SETTINGS = {
    "pipeline.image_quality.warn_quality": "0.0",  # the pictures are artificial
    "health.max_clock_drift": "1.0",  # stamps of a loaded computer
    "warn_latency_s": "10.0",
}


@dataclass(frozen=True)
class Case:
    """Expected status of a sensor. text: in the message. value: in the values. absent: not in them."""

    name: str
    level: Level
    text: str = ""
    value: str = ""
    absent: tuple[str, ...] = ()

    def holds(self, client: Client) -> bool:
        if not client.is_level(self.name, self.level, self.text):
            return False
        values = client.values(self.name)
        return self.value in values and not any(t in values for t in self.absent)


TIMES_USED = ("dropped.unusable_point_times",)
FIXED_USED = ("dropped.fixed_distance_range", "dropped.bad_limits")
CASES = (
    # Values that mean "no measurement".
    Case("lidar", Level.OK, value="information.points_near", absent=("dropped.no_returns",)),
    Case("part_of_times", Level.OK, value="information.points_without_time", absent=TIMES_USED),
    Case("no_returns", Level.WARN, "no_returns", "dropped.no_returns"),
    Case("nan_cloud", Level.WARN, "all_nan", "dropped.all_nan"),
    Case("no_echo", Level.OK, absent=("dropped.outside_limits",)),
    Case("negative_range", Level.WARN, "outside_limits", "no_echo_ranges"),
    Case(
        "sentinel_pixels",
        Level.OK,
        value="information.no_measurement",
        absent=("dropped.no_measurement",),
    ),
    Case("pipeline", Level.WARN, "/odom.bad_transform"),
    Case("pipeline", Level.WARN, "/odom.unknown_pose"),
    Case("pipeline", Level.WARN, "/odom.upside_down"),
    # Times of points.
    Case(
        "float_microseconds", Level.OK, value="(float32) taken as microseconds", absent=TIMES_USED
    ),
    Case(
        "absolute_microseconds",
        Level.OK,
        value="microseconds, absolute since 1970",
        absent=TIMES_USED,
    ),
    Case("gps_epoch", Level.OK, value="absolute since the GPS epoch", absent=TIMES_USED),
    Case("unknown_epoch", Level.WARN, "unusable_point_times", "set point_time_origin"),
    # Ranges of a fixed distance.
    Case("fixed_object", Level.OK, absent=FIXED_USED),
    Case("fixed_none", Level.OK, absent=FIXED_USED),
    Case("fixed_number", Level.WARN, "fixed_distance_range", "-inf"),
    Case("no_limits", Level.WARN, "bad_limits", "dropped.bad_limits"),
    # Frames, units and sources.
    Case("in_base", Level.OK, value="already transformed", absent=("dropped.no_transform",)),
    Case("in_map", Level.WARN, "no_transform_unknown_frame"),
    Case(
        "unknown_frame", Level.OK, value="'velodyne' is unknown", absent=("dropped.no_transform",)
    ),
    Case(
        "celsius",
        Level.OK,
        value="32FC1 pixels are taken as celsius",
        absent=("dropped.ambiguous_temperature_unit",),
    ),
    Case("depth", Level.WARN, "not_a_picture", "dropped.not_a_picture"),
    Case("pipeline", Level.WARN, value="/tf also has odom to base_link"),
)
LIDARS = (
    *("part_of_times", "no_returns", "nan_cloud", "float_microseconds", "absolute_microseconds"),
    *("gps_epoch", "unknown_epoch", "in_base", "in_map", "unknown_frame"),
)
# Range, min_range, max_range.
ECHOES = {
    "no_echo": (NO_ECHO, 0.2, 4.0),
    "negative_range": (-1.0, 0.2, 4.0),
    "fixed_object": (-math.inf, 0.5, 0.5),
    "fixed_none": (math.inf, 0.5, 0.5),
    "fixed_number": (0.3, 0.5, 0.5),
    "no_limits": (math.inf, 0.0, 0.0),
}
IMAGERS = {
    "sentinel_pixels": Modality.THERMAL,
    "celsius": Modality.THERMAL,
    "depth": Modality.CAMERA,
}


def vehicle() -> Rig:
    def sensor(name: str, modality: Modality, extrinsics: Extrinsics, **keys: Any) -> Sensor:
        return Sensor(name, modality, f"/{name}", name, extrinsics, required=False, **keys)

    mounting = Extrinsics(MOUNTING)
    intrinsics = Intrinsics(IMAGE_SHAPE[1], IMAGE_SHAPE[0], 60.0, 60.0, 31.5, 23.5)
    sensors = [lidar()]
    sensors += [sensor(name, Modality.LIDAR, mounting) for name in LIDARS]
    for name in ECHOES:
        keys = {"no_echo_ranges": (NO_ECHO,)} if name == "no_echo" else {}
        place = MARKING if name == "fixed_object" else REAR
        sensors.append(sensor(name, Modality.ULTRASONIC, place, **keys))
    for name, modality in IMAGERS.items():
        counts = {"counts_to_kelvin": (0.01, 0.0)} if name == "sentinel_pixels" else {}
        sensors.append(sensor(name, modality, mounting, intrinsics=intrinsics, **counts))
    return rig(*sensors, odometry_topic="/odom")


def ground(count: int = 400) -> np.ndarray:
    """Points (N, 3) on the ground in the LiDAR's frame, without any obstacle."""
    xy = np.random.default_rng(1).uniform(-20, 20, (count, 2))
    return np.column_stack([xy, np.full(count, -MOUNTING[2])])


def sweeps(stamp_ns: int) -> dict[str, Any]:
    """PointCloud2 by sensor; the sweeps start at the stamp."""
    xyz, base = ground(), ground() + np.array(MOUNTING)
    offsets = np.linspace(0, 0.1, len(xyz))
    seconds = stamp_ns / 1e9 + offsets
    part = np.where(np.arange(len(xyz)) % 3, seconds, 0.0)
    times = {
        "part_of_times": ("f8", part),
        "float_microseconds": ("f4", 1e6 * offsets),
        "absolute_microseconds": ("f8", 1e6 * seconds),
        "gps_epoch": ("f8", seconds + EPOCHS_S["gps"]),
        "unknown_epoch": ("f8", seconds - 12_345_678.9),
    }
    messages = {n: cloud(xyz, stamp_ns, n, timestamp=values) for n, values in times.items()}
    # Half of the returns are missing; with deskewing they would move before the vehicle.
    zeros = np.vstack([np.zeros_like(xyz), xyz])
    ramp = ("u4", np.tile(np.linspace(0, SWEEP_NS, len(xyz)), 2))
    return messages | {
        "lidar": cloud(zeros, stamp_ns, t=ramp),
        "no_returns": cloud(np.zeros((50, 3)), stamp_ns, "no_returns"),
        "nan_cloud": cloud(np.full((50, 3), math.nan), stamp_ns, "nan_cloud"),
        "in_base": cloud(base, stamp_ns, "base_link"),
        "in_map": cloud(base, stamp_ns, "map"),
        "unknown_frame": cloud(xyz, stamp_ns, "velodyne"),
    }


def images(stamp_ns: int) -> dict[str, Any]:
    celsius = np.add.outer(np.linspace(-8, 12, IMAGE_SHAPE[0]), np.linspace(0, 20, IMAGE_SHAPE[1]))
    counts = ((celsius + 273.15) / 0.01).astype(np.uint16)
    counts[:4] = 0
    pixels = {
        "sentinel_pixels": (counts, "mono16"),
        "celsius": (celsius.astype(np.float32), "32FC1"),
        "depth": (np.full(IMAGE_SHAPE, 1500, np.uint16), "16UC1"),
    }
    result = {}
    for name, (values, encoding) in pixels.items():
        msg = Image(height=IMAGE_SHAPE[0], width=IMAGE_SHAPE[1], encoding=encoding)
        msg.step = values.nbytes // IMAGE_SHAPE[0]
        msg.data = array.array("B", values.tobytes())
        result[name] = stamped(msg, stamp_ns, name)
    return result


def odometry(stamp_ns: int, x: float) -> Odometry:
    msg = stamped(Odometry(child_frame_id="base_link"), stamp_ns, "odom")
    msg.pose.pose.position.x = x
    msg.pose.pose.orientation.w = 1.0
    msg.twist.twist.linear.x = SPEED
    return msg


def unknown_odometry(stamp_ns: int) -> Iterator[Odometry]:
    """Poses that mean "unknown", between those that are measured."""
    message = odometry(stamp_ns, 0.0)
    message.pose.pose.position.x = math.nan
    yield message
    message = odometry(stamp_ns, 0.0)
    message.pose.covariance[0] = 1e6
    yield message
    message = odometry(stamp_ns, 0.0)
    message.pose.pose.orientation.x, message.pose.pose.orientation.w = 1.0, 0.0
    yield message


@dataclass
class Examples:
    """What the node published while it received all examples."""

    client: Client
    grids: list[Any] = field(default_factory=list)
    held: set[int] = field(default_factory=set)

    def occupied(self) -> np.ndarray:
        """Centres (N, 2) of the cells that are occupied in any grid, in base_link."""
        centres = []
        for grid in self.grids:
            cells = np.array(grid.data).reshape(grid.info.height, grid.info.width)
            rows, columns = np.nonzero(cells >= 50)
            origin = grid.info.origin.position
            centre = np.column_stack([columns, rows]) + 0.5
            centres.append(centre * grid.info.resolution + (origin.x, origin.y))
        return np.vstack(centres)


@pytest.fixture(scope="module")
def examples() -> Iterator[Examples]:
    """Sends all examples until each expected status occurred, or for LIMIT_S."""
    with started_client() as start:
        client = start(vehicle(), **SETTINGS)
        result = Examples(client)
        client.node.create_subscription(
            OccupancyGrid, "/perception/occupancy", result.grids.append, OUTPUT_QOS
        )
        types = {f"/{n}": PointCloud2 for n in LIDARS} | {f"/{n}": Range for n in ECHOES}
        types |= {f"/{n}": Image for n in IMAGERS}
        types |= {"/points": PointCloud2, "/odom": Odometry, "/tf": TFMessage}
        client.advertise(types)
        started_ns = client.now_ns()

        def send(now_ns: int) -> None:
            x = SPEED * (now_ns - started_ns) / 1e9
            client.publish("/odom", odometry(now_ns, x))
            for message in unknown_odometry(now_ns):
                client.publish("/odom", message)
            pose = poses.from_xyz_rpy((x + 5.0, 0.0, 0.0))  # another estimate
            entry = encoders.transform_to_message(TYPES, pose, "odom", "base_link", now_ns)
            client.publish("/tf", TFMessage(transforms=[entry]))
            for name, message in sweeps(now_ns - SWEEP_NS).items():
                client.publish("/points" if name == "lidar" else f"/{name}", message)
            for name, values in ECHOES.items():
                client.publish(f"/{name}", echo(now_ns - SWEEP_NS, name, *values))
            for name, message in images(now_ns - SWEEP_NS).items():
                client.publish(f"/{name}", message)

        def is_complete() -> bool:
            result.held |= {i for i, case in enumerate(CASES) if case.holds(client)}
            return len(result.held) == len(CASES) and len(result.grids) >= 10

        with suppress(AssertionError):  # the tests report which status did not occur
            client.send_until(send, is_complete)
        yield result


@pytest.mark.parametrize("index", range(len(CASES)), ids=lambda i: f"{CASES[i].name}-{i}")
def test_status_of_each_example(examples: Examples, index: int) -> None:
    case, client = CASES[index], examples.client
    status = client.statuses[case.name]
    latest = status.level[0], status.message, client.values(case.name)
    assert index in examples.held, (case, latest)


def test_missing_returns_are_no_obstacle_and_a_fixed_distance_marks(examples: Examples) -> None:
    cells = examples.occupied()
    # (0, 0, 0) is at the LiDAR, and up to SPEED * 0.1 s ahead of it after deskewing.
    near = (np.abs(cells[:, 1]) < 2.0) & (cells[:, 0] > 0.0) & (cells[:, 0] < 6.0)
    assert not near.any(), cells[near]
    behind = (np.abs(cells[:, 1] - 6.0) < 1.0) & (cells[:, 0] < -6.0) & (cells[:, 0] > -7.5)
    assert behind.any()
