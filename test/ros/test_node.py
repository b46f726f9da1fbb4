"""perception_node in a separate process, connected over DDS to the topics of a vehicle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.srv import ChangeState, GetState
from nav_msgs.msg import OccupancyGrid
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2, Range
from tf2_msgs.msg import TFMessage
from vision_msgs.msg import Detection3DArray
from visualization_msgs.msg import Marker, MarkerArray

from multimodal_perception.datasets.synthetic import SyntheticDataset
from multimodal_perception.frame import SensorFrame, UltrasonicReading
from multimodal_perception.geometry import poses
from multimodal_perception.messages import decoders, encoders, message_types
from multimodal_perception.messages.frame_messages import static_transforms
from multimodal_perception.occupancy.layers import SEMANTIC_LAYER
from multimodal_perception.processes import terminate_with_parent
from multimodal_perception.ros.qos import LATCHED_QOS, MAP_QOS, OUTPUT_QOS
from test.ros.conftest import LIMIT_S, START_S, wait_for
from test.test_plugins import install_example

pytestmark = pytest.mark.live

TYPES = message_types.RclpyTypes()
PERIOD_NS = 100_000_000  # of the LiDAR
RIG = """
name: vehicle
sensors:
  lidar: {modality: lidar, topic: /lidar/points, frame_id: lidar, rate_hz: 10.0}
  camera:
    modality: camera
    topic: /camera/image_raw
    camera_info_topic: /camera/camera_info
    frame_id: camera_optical
  packed:
    modality: camera
    topic: /packed/image_raw/compressed
    message: sensor_msgs/msg/CompressedImage
    camera_info_topic: /packed/camera_info
    frame_id: camera_optical
    required: false
"""


class Vehicle(Node):
    """Publishes the topics of a rig and collects the messages of the node."""

    def __init__(self) -> None:
        super().__init__("vehicle")
        self.publishers_by_topic = {
            "/lidar/points": self.create_publisher(PointCloud2, "/lidar/points", OUTPUT_QOS),
            "/camera/image_raw": self.create_publisher(Image, "/camera/image_raw", OUTPUT_QOS),
            "/camera/camera_info": self.create_publisher(
                CameraInfo, "/camera/camera_info", OUTPUT_QOS
            ),
            "/packed/image_raw/compressed": self.create_publisher(
                CompressedImage, "/packed/image_raw/compressed", OUTPUT_QOS
            ),
            "/packed/camera_info": self.create_publisher(
                CameraInfo, "/packed/camera_info", OUTPUT_QOS
            ),
            "/tf_static": self.create_publisher(TFMessage, "/tf_static", LATCHED_QOS),
        }
        self.last_stamp_ns = 0
        self.received: dict[str, list[Any]] = {}
        for topic, message_class in (
            ("/perception/objects", Detection3DArray),
            ("/perception/occupancy", OccupancyGrid),
            ("/perception/markers", MarkerArray),
            ("/perception/timing", DiagnosticArray),
            ("/diagnostics", DiagnosticArray),
        ):
            self.received[topic] = []
            self.create_subscription(message_class, topic, self.received[topic].append, OUTPUT_QOS)

    def send(self, topic: str, message: Any) -> None:
        self.publishers_by_topic[topic].publish(message)

    def send_until(
        self, messages: Callable[[int], Mapping[str, Any]], condition: Callable[[int], Any]
    ) -> tuple[int, Any]:
        """Send the messages of a stamp, once a second, until a condition holds for a stamp.

        Topics of sensors are best effort, so that a message may be lost. The stamps are the time of the
        node's clock and at least one period of the LiDAR apart. Returns the last stamp for which the
        condition holds, and its value.
        """
        stamps: list[int] = []
        for _ in range(round(LIMIT_S)):
            next_ns = self.last_stamp_ns + PERIOD_NS
            wait_for(lambda: now_ns(self) >= next_ns, LIMIT_S, "period of the LiDAR")  # noqa: B023
            self.last_stamp_ns = now_ns(self)
            stamps.append(self.last_stamp_ns)
            for topic, message in messages(self.last_stamp_ns).items():
                self.send(topic, message)
            end = time.monotonic() + 1.0
            while time.monotonic() < end:
                for stamp_ns in reversed(stamps):
                    value = condition(stamp_ns)
                    if value:
                        return stamp_ns, value
                time.sleep(0.02)
        raise AssertionError(f"the condition did not hold after {len(stamps)} frames")

    def result(self, topic: str, stamp_ns: int) -> Any:
        """The message of a topic with a stamp, or None."""
        matches = (m for m in self.received[topic] if decoders.stamp_ns_of(m) == stamp_ns)
        return next(matches, None)

    def objects_of(self, frame: SensorFrame) -> Any:
        """Send the messages of a frame until it has a result on the topic of the objects."""
        _, objects = self.send_until(
            lambda stamp_ns: inputs(frame, stamp_ns),
            lambda stamp_ns: self.result("/perception/objects", stamp_ns),
        )
        return objects

    def call(self, service_type: Any, name: str, request: Any) -> Any:
        client = self.create_client(service_type, name)
        try:
            assert client.wait_for_service(START_S), name
            future = client.call_async(request)
            wait_for(future.done, START_S, name)  # to configure may compile kernels
            return future.result()
        finally:
            self.destroy_client(client)

    def transition(self, label: str) -> bool:
        request = ChangeState.Request()
        request.transition.label = label
        return bool(self.call(ChangeState, "/perception/change_state", request).success)

    def state(self) -> str:
        response = self.call(GetState, "/perception/get_state", GetState.Request())
        return str(response.current_state.label)

    def set(self, name: str, value: Any) -> Any:
        types = {str: ParameterType.PARAMETER_STRING, float: ParameterType.PARAMETER_DOUBLE}
        typed = ParameterValue(type=types[type(value)])
        setattr(typed, "string_value" if isinstance(value, str) else "double_value", value)
        request = SetParameters.Request(parameters=[Parameter(name=name, value=typed)])
        return self.call(SetParameters, "/perception/set_parameters", request).results[0]

    def drops(self, sensor: str) -> dict[str, int]:
        """The latest drop counts of one sensor (or the pipeline) on /diagnostics."""
        for array in reversed(self.received["/diagnostics"]):
            for status in array.status:
                if status.name.endswith(f": {sensor}"):
                    pairs = ((v.key, v.value) for v in status.values)
                    return {k[8:]: int(v) for k, v in pairs if k.startswith("dropped.")}
        return {}


@pytest.fixture(scope="module")
def frame() -> SensorFrame:
    return SyntheticDataset(frames=1, rings=32, columns=900)[0]


@pytest.fixture(scope="module")
def vehicle() -> Iterator[Vehicle]:
    rclpy.init()
    node = Vehicle()
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    stop = threading.Event()

    def spin() -> None:
        while not stop.is_set():
            executor.spin_once(timeout_sec=0.05)

    thread = threading.Thread(target=spin)
    thread.start()
    yield node
    stop.set()
    thread.join()
    executor.shutdown()
    node.destroy_node()
    rclpy.shutdown()


@pytest.fixture
def installed_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the example plug-ins available to the node's process."""
    folders = [*install_example(tmp_path / "site"), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, folders)))


@pytest.fixture
def process(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    (tmp_path / "rig.yaml").write_text(RIG)
    command = [sys.executable, "-m", "multimodal_perception.ros.node", "--ros-args"]
    command += ["-p", f"rig:={tmp_path / 'rig.yaml'}", "-p", "diagnostics_period_s:=0.1"]
    command += ["-p", "pipeline.frozen_sensors.lidar_s:=0.0"]  # tests repeat a sweep
    running = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=partial(terminate_with_parent, os.getpid()),
    )
    yield running
    running.send_signal(signal.SIGINT)
    try:
        running.wait(LIMIT_S)
    except subprocess.TimeoutExpired:
        running.kill()
        raise


def activate(vehicle: Vehicle) -> None:
    assert vehicle.transition("configure")
    assert vehicle.transition("activate")
    for topic in vehicle.publishers_by_topic:
        wait_for(lambda t=topic: vehicle.count_subscribers(t), LIMIT_S, topic)
    wait_for(lambda: vehicle.count_publishers("/perception/objects"), LIMIT_S, "publisher")
    for received in vehicle.received.values():
        received.clear()


@pytest.fixture
def active(process: subprocess.Popen[str], vehicle: Vehicle) -> Vehicle:
    activate(vehicle)
    return vehicle


def inputs(frame: SensorFrame, stamp_ns: int) -> dict[str, Any]:
    """The messages of one frame with a stamp, the LiDAR's last."""
    camera = frame.cameras["camera"]
    info = encoders.camera_info_to_message(
        TYPES, frame.intrinsics["camera"], stamp_ns, camera.frame_id
    )
    image = encoders.image_to_message(TYPES, camera)
    cloud = encoders.sweep_to_message(TYPES, frame.lidars["lidar"])
    jpeg = cv2.imencode(".jpg", camera.pixels)[1].tobytes()
    packed = CompressedImage(header=image.header, format="jpeg", data=list(jpeg[:0]))
    packed.data.frombytes(jpeg)
    for message in (image, cloud, packed):
        message.header.stamp = encoders.make_time(TYPES, stamp_ns)
    return {
        "/tf_static": static_transforms(frame, TYPES),
        "/camera/camera_info": info,
        "/packed/camera_info": info,
        "/camera/image_raw": image,
        "/packed/image_raw/compressed": packed,
        "/lidar/points": cloud,
    }


def now_ns(vehicle: Vehicle) -> int:
    return int(vehicle.get_clock().now().nanoseconds)


def markers_of(vehicle: Vehicle, stamp_ns: int, kind: int) -> list[Any]:
    """The added markers of a kind with a stamp."""
    markers = [m for array in vehicle.received["/perception/markers"] for m in array.markers]
    of_frame = [m for m in markers if decoders.stamp_ns_of(m) == stamp_ns]
    return [m for m in of_frame if m.type == kind and m.action == Marker.ADD]


def test_results_of_a_frame_are_published_on_every_topic_with_its_stamp(
    active: Vehicle, frame: SensorFrame
) -> None:
    topics = [f"/perception/{name}" for name in ("objects", "occupancy", "timing")]

    def complete(stamp_ns: int) -> list[Any]:
        """The messages of a frame with LiDAR and camera."""
        found = [active.result(topic, stamp_ns) for topic in topics]
        if not all(found) or not markers_of(active, stamp_ns, Marker.CUBE):
            return []
        return found if {"lidar", "camera"} <= {v.key for v in found[2].status[1].values} else []

    stamp_ns, results = active.send_until(lambda stamp_ns: inputs(frame, stamp_ns), complete)
    objects, grid, timing = results
    assert objects.header.frame_id == "base_link"
    boxes = decoders.boxes_from_message(objects)
    assert frame.labels is not None
    red_car = frame.labels.boxes[0]
    assert np.hypot(*(boxes.boxes[:, :2] - red_car[:2]).T).min() < 0.5
    cells = np.array(grid.data, np.int8)
    assert grid.header.frame_id == "base_link"
    assert cells.min() == -1 and cells.max() >= 90
    assert (cells[cells >= 0] < 40).mean() > 0.8  # most known cells are free road
    assert {"ground", "detect", "occupancy", "total"} <= {v.key for v in timing.status[0].values}
    ages = {v.key: float(v.value) for v in timing.status[1].values}
    assert set(ages.values()) == {0.0}
    assert len(markers_of(active, stamp_ns, Marker.CUBE)) == len(boxes)


def test_occupancy_is_published_as_grid_as_layers_and_as_a_latched_map(
    process: subprocess.Popen[str], vehicle: Vehicle, frame: SensorFrame, tmp_path: Path
) -> None:
    sonar = "sonar: {modality: ultrasonic, topic: /sonar, frame_id: sonar, required: false,"
    sonar += " extrinsics: {xyz: [2.0, 0.0, 0.5]}}"
    (tmp_path / "rig.yaml").write_text(RIG + f"  {sonar}\n")
    assert vehicle.transition("configure") and vehicle.transition("activate")
    ranges = vehicle.create_publisher(Range, "/sonar", OUTPUT_QOS)
    motion = vehicle.create_publisher(TFMessage, "/tf", OUTPUT_QOS)
    received: dict[str, list[Any]] = {name: [] for name in ("occupied", "semantic", "map")}
    layers = [
        vehicle.create_subscription(
            OccupancyGrid, f"/perception/occupancy/{name}", received[name].append, OUTPUT_QOS
        )
        for name in ("occupied", "semantic")
    ]
    for topic in ("/sonar", "/tf", "/lidar/points"):
        wait_for(lambda t=topic: vehicle.count_subscribers(t), LIMIT_S, topic)
    for reading in vehicle.received.values():
        reading.clear()

    def send_until(condition: Callable[[int], Any], x: float, range_m: float) -> Any:
        def messages(stamp_ns: int) -> dict[str, Any]:
            pose = poses.from_xyz_rpy((x, 5.0, 0.0))
            transform = encoders.transform_to_message(TYPES, pose, "odom", "base_link", stamp_ns)
            motion.publish(TFMessage(transforms=[transform]))
            reading = UltrasonicReading("sonar", stamp_ns, "sonar", range_m, 0.2, 5.0, 1.0)
            ranges.publish(encoders.range_to_message(TYPES, reading))
            return inputs(frame, stamp_ns)

        return vehicle.send_until(messages, condition)[1]

    for k in range(3):
        grid = send_until(
            lambda stamp_ns: vehicle.result("/perception/occupancy", stamp_ns), 10.0 + 0.1 * k, 2.0
        )
    cells = np.array(grid.data, np.int8)
    assert grid.header.frame_id == "base_link" and set(np.unique(cells)) >= {-1, 0, 100}
    send_until(lambda _: received["occupied"] and received["semantic"], 10.2, 2.0)
    assert received["occupied"][0].info.width == grid.info.width
    assert np.array(received["semantic"][0].data).max() >= SEMANTIC_LAYER.index("vehicle")
    # A late subscriber receives the last map, which is aligned with odom.
    late = vehicle.create_subscription(
        OccupancyGrid, "/perception/map", received["map"].append, MAP_QOS
    )
    wait_for(lambda: received["map"], LIMIT_S, "latched map")
    grid_map = received["map"][0]
    assert grid_map.header.frame_id == "odom" and grid_map.info.width == 500
    assert abs(grid_map.info.resolution - 2 * grid.info.resolution) < 1e-6
    assert abs(grid_map.info.origin.position.x + 100.0 - 10.0) < 0.9
    assert 100 in grid_map.data and 0 in grid_map.data and -1 in grid_map.data

    def counted(_: int) -> bool:
        key = "occupancy.ultrasonic.outside_limits"
        matches = (v for a in vehicle.received["/diagnostics"] for s in a.status for v in s.values)
        return any(v.key == key and int(v.value) >= 1 for v in matches)

    assert not counted(0)
    send_until(counted, 10.2, 9.0)  # above the maximum of the sensor
    for subscription in (*layers, late):
        vehicle.destroy_subscription(subscription)
    for publisher in (ranges, motion):
        vehicle.destroy_publisher(publisher)


def test_objects_keep_their_ids_and_moving_ones_have_velocity_arrows(
    active: Vehicle, frame: SensorFrame
) -> None:
    motion = active.create_publisher(TFMessage, "/tf", OUTPUT_QOS)
    points: list[PointCloud2] = []
    tracks = active.create_subscription(
        PointCloud2, "/perception/tracks", points.append, OUTPUT_QOS
    )
    wait_for(lambda: active.count_subscribers("/tf"), LIMIT_S, "/tf")
    wait_for(lambda: active.count_publishers("/perception/tracks"), LIMIT_S, "tracks")
    start_ns, ids = now_ns(active), []

    def messages(stamp_ns: int) -> dict[str, Any]:
        """The same sweep from a vehicle at 2 m/s: all objects move with the vehicle."""
        pose = poses.from_xyz_rpy((2.0 * (stamp_ns - start_ns) / 1e9, 0.0, 0.0))
        transform = encoders.transform_to_message(TYPES, pose, "odom", "base_link", stamp_ns)
        motion.publish(TFMessage(transforms=[transform]))
        time.sleep(0.05)
        return inputs(frame, stamp_ns)

    def cloud_of(stamp_ns: int) -> PointCloud2 | None:
        return next((p for p in points if decoders.stamp_ns_of(p) == stamp_ns), None)

    def objects_of(stamp_ns: int) -> Any:
        return active.result("/perception/objects", stamp_ns)

    for _ in range(6):
        ids.append([d.id for d in active.send_until(messages, objects_of)[1].detections])
    # The subscription of the tracks is new: the node publishes them as soon as it has found it.
    stamp_ns, objects = active.send_until(messages, lambda s: cloud_of(s) and objects_of(s))
    ids.append([d.id for d in objects.detections])
    assert all(ids[0]) and len(set(ids[0])) == len(ids[0])
    assert ids[1:] == ids[:1] * 6

    wait_for(lambda: markers_of(active, stamp_ns, Marker.ARROW), LIMIT_S, "arrows")
    for arrow in markers_of(active, stamp_ns, Marker.ARROW):
        start, end = arrow.points
        assert abs(end.x - start.x - 2.0) < 1.0 and abs(end.y - start.y) < 0.5
    cloud = cloud_of(stamp_ns)
    assert cloud is not None and cloud.width == len(ids[-1])
    assert {"vx", "vx_variance"} <= {f.name for f in cloud.fields}
    active.destroy_publisher(motion)
    active.destroy_subscription(tracks)


def test_markers_of_disappeared_boxes_are_deleted(active: Vehicle, frame: SensorFrame) -> None:
    first_ns, _ = active.send_until(
        lambda stamp_ns: inputs(frame, stamp_ns),
        lambda stamp_ns: markers_of(active, stamp_ns, Marker.CUBE),
    )
    count = len(markers_of(active, first_ns, Marker.CUBE))
    assert count > 3
    flat = np.array([[x, y, -1.8, 0] for x in range(3, 9) for y in range(-3, 4)], np.float32)

    def messages(stamp_ns: int) -> dict[str, Any]:
        sweep = type(frame.lidars["lidar"])("lidar", stamp_ns, "lidar", flat)
        message = encoders.sweep_to_message(TYPES, sweep)
        return {**inputs(frame, stamp_ns), "/lidar/points": message}

    _, objects = active.send_until(
        messages, lambda stamp_ns: active.result("/perception/objects", stamp_ns)
    )
    assert not objects.detections

    def deleted() -> set[int]:
        markers = [m for array in active.received["/perception/markers"] for m in array.markers]
        return {m.id for m in markers if m.action == Marker.DELETE}

    wait_for(lambda: set(range(count)) <= deleted(), LIMIT_S, "deletion of the markers")


def broken_messages(frame: SensorFrame, stamp_ns: int) -> dict[tuple[str, str], tuple[str, Any]]:
    """Topic and message by sensor and the reason for which it is dropped."""
    broken: dict[tuple[str, str], tuple[str, Any]] = {}
    short = inputs(frame, stamp_ns)["/lidar/points"]
    short.data = short.data[:-7]
    broken["lidar", "truncated"] = "/lidar/points", short
    bad_step = inputs(frame, stamp_ns)["/lidar/points"]
    bad_step.point_step = 0
    broken["lidar", "bad_point_step"] = "/lidar/points", bad_step
    no_z = inputs(frame, stamp_ns)["/lidar/points"]
    no_z.fields = [f for f in no_z.fields if f.name != "z"]
    broken["lidar", "missing_xyz"] = "/lidar/points", no_z
    nothing = inputs(frame, stamp_ns)["/lidar/points"]
    nothing.width = nothing.row_step = 0
    nothing.data = nothing.data[:0]
    broken["lidar", "empty"] = "/lidar/points", nothing
    nan = inputs(frame, stamp_ns)["/lidar/points"]
    nan.data = TYPES.values(np.full(len(nan.data), 0xFF, np.uint8))  # as float32: NaN
    broken["lidar", "all_nan"] = "/lidar/points", nan
    odd = inputs(frame, stamp_ns)["/camera/image_raw"]
    odd.encoding = "unknown8"
    broken["camera", "unknown_encoding"] = "/camera/image_raw", odd
    flat = inputs(frame, stamp_ns)["/camera/image_raw"]
    flat.height = 0
    broken["camera", "zero_size"] = "/camera/image_raw", flat
    info = inputs(frame, stamp_ns)["/camera/camera_info"]
    info.k[0] = 0.0
    broken["camera", "bad_camera_info"] = "/camera/camera_info", info
    packed = inputs(frame, stamp_ns)["/packed/image_raw/compressed"]
    packed.data = packed.data[: len(packed.data) // 2]
    broken["packed", "truncated"] = "/packed/image_raw/compressed", packed
    return broken


def test_bad_messages_are_counted_by_reason_and_the_node_continues(
    active: Vehicle, frame: SensorFrame
) -> None:
    good = inputs(frame, now_ns(active))
    active.send("/tf_static", good["/tf_static"])

    expected = set(broken_messages(frame, 0))
    for _ in range(round(LIMIT_S)):
        counted = {(s, r) for s, r in expected if active.drops(s).get(r)}
        if counted == expected:
            break
        broken = broken_messages(frame, now_ns(active))
        for key in expected - counted:
            active.send(*broken[key])
            time.sleep(0.02)
        time.sleep(0.3)
    assert counted == expected
    loop = TFMessage(transforms=static_transforms(frame, TYPES).transforms[:1])
    loop.transforms[0].header.frame_id, loop.transforms[0].child_frame_id = "lidar", "base_link"
    active.send("/tf_static", loop)
    active.send("/tf_static", good["/tf_static"])
    assert active.objects_of(frame).detections


def test_an_image_whose_size_contradicts_camera_info_is_dropped_without_the_frame(
    active: Vehicle, frame: SensorFrame
) -> None:
    def messages(stamp_ns: int) -> dict[str, Any]:
        content = inputs(frame, stamp_ns)
        content["/camera/camera_info"].width += 2
        return content

    _, objects = active.send_until(
        messages,
        lambda stamp_ns: (
            active.drops("camera").get("image_size")
            and active.result("/perception/objects", stamp_ns)
        ),
    )
    assert objects.detections


def test_a_missing_transform_is_counted(
    process: subprocess.Popen[str], vehicle: Vehicle, frame: SensorFrame, tmp_path: Path
) -> None:
    without_transform = RIG.replace("frame_id: lidar,", "frame_id: roof,")
    (tmp_path / "rig.yaml").write_text(without_transform)
    assert vehicle.transition("configure") and vehicle.transition("activate")
    wait_for(lambda: vehicle.count_subscribers("/lidar/points"), LIMIT_S, "subscription")

    def messages(stamp_ns: int) -> dict[str, Any]:
        cloud = inputs(frame, stamp_ns)["/lidar/points"]
        cloud.header.frame_id = "roof"
        return {"/lidar/points": cloud}

    vehicle.received["/diagnostics"].clear()  # those of the node of another test
    vehicle.send_until(messages, lambda _: any("no_transform" in k for k in vehicle.drops("lidar")))


def test_a_failed_configure_logs_the_reason_and_the_node_stays_unconfigured(
    process: subprocess.Popen[str], vehicle: Vehicle, tmp_path: Path
) -> None:
    good = tmp_path / "rig.yaml"
    bad = tmp_path / "typo.yaml"
    bad.write_text(RIG.replace("modality: lidar", "modality: lidr"))
    assert vehicle.set("rig", str(bad)).successful
    assert not vehicle.transition("configure")
    assert vehicle.state() == "unconfigured"
    assert vehicle.set("rig", str(good)).successful
    assert vehicle.transition("configure")
    assert vehicle.state() == "inactive"
    refused = vehicle.set("pipeline.geometric.half_extent", 30.0)
    assert not refused.successful and "clean up" in refused.reason
    assert vehicle.transition("cleanup")
    assert vehicle.set("pipeline.geometric.min_score", 0.5).successful
    out_of_range = vehicle.set("pipeline.geometric.min_score", 1.5)
    assert not out_of_range.successful
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=LIMIT_S)[0]
    assert "sensors.lidar.modality" in output and "typo.yaml" in output
    assert process.returncode == 0


def test_settings_that_contradict_a_model_card_are_refused_with_the_allowed_values(
    process: subprocess.Popen[str], vehicle: Vehicle
) -> None:
    assert vehicle.set("pipeline.segmenter", "rgb_thermal").successful
    assert vehicle.set("pipeline.rgb_thermal_segmenter.second_input", "lidar").successful
    assert not vehicle.transition("configure")
    assert vehicle.state() == "unconfigured"
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=LIMIT_S)[0]
    assert "pipeline.rgb_thermal_segmenter.second_input: 'lidar' contradicts" in output
    assert "card.yaml" in output and "allowed: thermal, none" in output
    assert "Traceback" not in output


def test_a_user_defined_detector_is_selected_by_its_entry_point(
    installed_example: None, process: subprocess.Popen[str], vehicle: Vehicle, frame: SensorFrame
) -> None:
    assert vehicle.set("pipeline.detector", "magic").successful
    assert not vehicle.transition("configure")
    assert vehicle.set("pipeline.detector", "nearest").successful
    assert vehicle.transition("configure") and vehicle.transition("activate")
    wait_for(lambda: vehicle.count_subscribers("/lidar/points") == 1, LIMIT_S, "subscription")
    (detection,) = vehicle.objects_of(frame).detections
    assert (detection.bbox.size.x, detection.bbox.size.y) == (1.0, 1.0)
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=LIMIT_S)[0]
    assert "installed entry points (multimodal_perception.detectors): broken, nearest" in output


def test_every_transition_releases_its_subscriptions_and_publishers(
    process: subprocess.Popen[str], vehicle: Vehicle, frame: SensorFrame
) -> None:
    for _ in range(3):
        assert vehicle.transition("configure") and vehicle.transition("activate")
        wait_for(lambda: vehicle.count_subscribers("/lidar/points") == 1, LIMIT_S, "subscription")
        assert vehicle.transition("deactivate")
        wait_for(lambda: vehicle.count_subscribers("/lidar/points") == 0, LIMIT_S, "end of it")
        assert vehicle.transition("cleanup")
        wait_for(lambda: vehicle.count_publishers("/perception/objects") == 0, LIMIT_S, "end of it")
    assert vehicle.state() == "unconfigured"
    assert vehicle.transition("configure") and vehicle.transition("activate")
    wait_for(lambda: vehicle.count_subscribers("/lidar/points") == 1, LIMIT_S, "subscription")
    assert vehicle.objects_of(frame).detections
    process.send_signal(signal.SIGTERM)
    assert process.wait(LIMIT_S) == 0


def test_a_silent_camera_does_not_stop_the_pipeline(active: Vehicle, frame: SensorFrame) -> None:
    active.send("/tf_static", inputs(frame, now_ns(active))["/tf_static"])
    for _ in range(8):
        active.send_until(
            lambda stamp_ns: {"/lidar/points": inputs(frame, stamp_ns)["/lidar/points"]},
            lambda stamp_ns: active.result("/perception/objects", stamp_ns),
        )

    def camera_level() -> int | None:
        for array in reversed(active.received["/diagnostics"]):
            for status in array.status:
                if status.name.endswith(": camera"):
                    return status.level[0]
        return None

    wait_for(lambda: camera_level() == 2, LIMIT_S, "ERROR for the silent camera")


def test_frozen_sensors_are_named_and_the_calibration_is_measured(
    process: subprocess.Popen[str], vehicle: Vehicle, frame: SensorFrame
) -> None:
    """The test sends the same image and the same sweep repeatedly, as frozen sensors do."""
    assert vehicle.set("pipeline.frozen_sensors.lidar_s", 1.8).successful
    activate(vehicle)

    def statuses(name: str) -> list[tuple[int, str, dict[str, str]]]:
        """Level, message and values of all messages, newest first."""
        return [
            (status.level[0], status.message, {v.key: v.value for v in status.values})
            for array in reversed(vehicle.received["/diagnostics"])
            for status in array.status
            if status.name.endswith(f": {name}")
        ]

    def frozen_camera() -> list[tuple[int, str, dict[str, str]]]:
        key = "image_quality.not_frozen"
        return [s for s in statuses("camera") if s[2].get(key) == "0.000"]

    def frozen_lidar() -> list[tuple[int, str, dict[str, str]]]:
        text = "frozen: the data has not changed for "
        return [s for s in statuses("lidar") if s[1].startswith(text)]

    def measurements() -> list[tuple[int, str, dict[str, str]]]:
        return [s for s in statuses("calibration of camera to lidar") if "measurements" in s[2]]

    end = time.monotonic() + LIMIT_S
    while not (frozen_camera() and frozen_lidar() and measurements()):
        assert time.monotonic() < end, (statuses("camera")[:1], statuses("lidar")[:1])
        for topic, message in inputs(frame, now_ns(vehicle)).items():
            vehicle.send(topic, message)
        time.sleep(0.1)
    level, _, values = frozen_camera()[0]
    assert level >= 1 and values["image_quality"] == "0.000"
    assert frozen_lidar()[0][0] == 2
    assert int(measurements()[0][2]["measurements"]) >= 1
