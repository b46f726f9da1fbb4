"""perception_node in a separate process, connected over DDS to the topics of a vehicle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
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
from test.ros.conftest import START_S
from test.test_plugins import install_example

TYPES = message_types.RclpyTypes()
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


def wait_for(condition: Callable[[], Any], timeout_s: float, what: str) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"no {what} within {timeout_s} s"
        time.sleep(0.02)


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
    command += ["-p", "pipeline.frozen_sensors.lidar_s:=1.8"]  # tests repeat a sweep for 1.5 s
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
        running.wait(30)
    except subprocess.TimeoutExpired:
        running.kill()
        raise


@pytest.fixture
def active(process: subprocess.Popen[str], vehicle: Vehicle) -> Iterator[Vehicle]:
    assert vehicle.transition("configure")
    assert vehicle.transition("activate")
    for topic in vehicle.publishers_by_topic:
        wait_for(lambda t=topic: vehicle.count_subscribers(t), 10.0, topic)
    wait_for(lambda: vehicle.count_publishers("/perception/objects"), 10.0, "publisher")
    time.sleep(0.5)
    for received in vehicle.received.values():
        received.clear()
    yield vehicle


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


def result_of(vehicle: Vehicle, stamp_ns: int, topic: str = "/perception/objects") -> Any:
    def find() -> Any:
        matches = [m for m in vehicle.received[topic] if decoders.stamp_ns_of(m) == stamp_ns]
        return matches[0] if matches else None

    wait_for(find, 30.0, f"{topic} of {stamp_ns}")
    return find()


def now_ns(vehicle: Vehicle) -> int:
    return int(vehicle.get_clock().now().nanoseconds)


def test_results_of_a_frame_are_published_on_every_topic_with_its_stamp(
    active: Vehicle, frame: SensorFrame
) -> None:
    stamp_ns = now_ns(active)
    for topic, message in inputs(frame, stamp_ns).items():
        active.send(topic, message)
    objects = result_of(active, stamp_ns)
    assert objects.header.frame_id == "base_link"
    boxes = decoders.boxes_from_message(objects)
    assert frame.labels is not None
    red_car = frame.labels.boxes[0]
    assert np.hypot(*(boxes.boxes[:, :2] - red_car[:2]).T).min() < 0.5
    grid = result_of(active, stamp_ns, "/perception/occupancy")
    cells = np.array(grid.data, np.int8)
    assert grid.header.frame_id == "base_link"
    assert cells.min() == -1 and cells.max() >= 90
    assert (cells[cells >= 0] < 40).mean() > 0.8  # most known cells are free road
    timing = result_of(active, stamp_ns, "/perception/timing")
    assert {"ground", "detect", "occupancy", "total"} <= {v.key for v in timing.status[0].values}
    ages = {v.key: float(v.value) for v in timing.status[1].values}
    assert {"lidar", "camera"} <= set(ages) and set(ages.values()) == {0.0}
    wait_for(lambda: active.received["/perception/markers"], 5.0, "markers")
    cubes = [m for m in active.received["/perception/markers"][0].markers if m.type == Marker.CUBE]
    assert len(cubes) == len(boxes)


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
        wait_for(lambda t=topic: vehicle.count_subscribers(t), 10.0, topic)
    time.sleep(0.5)
    for reading in vehicle.received.values():
        reading.clear()
    stamp_ns = now_ns(vehicle)
    for k in range(3):
        stamp_ns += 100_000_000
        wait_for(lambda t=stamp_ns: now_ns(vehicle) >= t, 5.0, "time of the frame")
        pose = poses.from_xyz_rpy((10.0 + 0.1 * k, 5.0, 0.0))
        transform = encoders.transform_to_message(TYPES, pose, "odom", "base_link", stamp_ns)
        motion.publish(TFMessage(transforms=[transform]))
        reading = UltrasonicReading(
            "sonar", stamp_ns, "sonar", 2.0 if k < 2 else 9.0, 0.2, 5.0, 1.0
        )
        ranges.publish(encoders.range_to_message(TYPES, reading))
        for topic, message in inputs(frame, stamp_ns).items():
            vehicle.send(topic, message)
        grid = result_of(vehicle, stamp_ns, "/perception/occupancy")
    cells = np.array(grid.data, np.int8)
    assert grid.header.frame_id == "base_link" and set(np.unique(cells)) >= {-1, 0, 100}
    wait_for(lambda: received["occupied"] and received["semantic"], 5.0, "layers")
    assert received["occupied"][0].info.width == grid.info.width
    assert np.array(received["semantic"][0].data).max() >= SEMANTIC_LAYER.index("vehicle")
    # A late subscriber receives the last map, which is aligned with odom.
    late = vehicle.create_subscription(
        OccupancyGrid, "/perception/map", received["map"].append, MAP_QOS
    )
    wait_for(lambda: received["map"], 5.0, "latched map")
    grid_map = received["map"][0]
    assert grid_map.header.frame_id == "odom" and grid_map.info.width == 500
    assert abs(grid_map.info.resolution - 2 * grid.info.resolution) < 1e-6
    assert abs(grid_map.info.origin.position.x + 100.0 - 10.0) < 0.9
    assert 100 in grid_map.data and 0 in grid_map.data and -1 in grid_map.data

    def counted() -> bool:
        key = "occupancy.ultrasonic.outside_limits"
        matches = (v for a in vehicle.received["/diagnostics"] for s in a.status for v in s.values)
        return any(v.key == key and v.value == "1" for v in matches)

    wait_for(counted, 5.0, "count of the impossible range")
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
    wait_for(lambda: active.count_subscribers("/tf"), 10.0, "/tf")
    wait_for(lambda: active.count_publishers("/perception/tracks"), 10.0, "tracks")
    time.sleep(0.5)
    stamp_ns, ids = now_ns(active), []
    for k in range(6):
        stamp_ns += 100_000_000
        # Stamps ahead of the node's clock would be those of a wrong sensor clock.
        wait_for(lambda t=stamp_ns: now_ns(active) >= t, 5.0, "time of the frame")
        # The same sweep from a vehicle at 2 m/s: all objects move with the vehicle.
        pose = poses.from_xyz_rpy((0.2 * k, 0.0, 0.0))
        transform = encoders.transform_to_message(TYPES, pose, "odom", "base_link", stamp_ns)
        motion.publish(TFMessage(transforms=[transform]))
        time.sleep(0.05)
        for topic, message in inputs(frame, stamp_ns).items():
            active.send(topic, message)
        ids.append([d.id for d in result_of(active, stamp_ns).detections])
    assert all(ids[0]) and len(set(ids[0])) == len(ids[0])
    assert ids[1:] == ids[:1] * 5

    def arrows() -> list[Any]:
        array = active.received["/perception/markers"][-1]
        matches = [m for m in array.markers if m.type == Marker.ARROW and m.action == Marker.ADD]
        return [m for m in matches if decoders.stamp_ns_of(m) == stamp_ns]

    wait_for(arrows, 15.0, "arrows")
    for arrow in arrows():
        start, end = arrow.points
        assert abs(end.x - start.x - 2.0) < 1.0 and abs(end.y - start.y) < 0.5
    wait_for(lambda: points and decoders.stamp_ns_of(points[-1]) == stamp_ns, 5.0, "tracks")
    assert points[-1].width == len(ids[-1]) and {"vx", "vx_variance"} <= {
        f.name for f in points[-1].fields
    }
    active.destroy_publisher(motion)
    active.destroy_subscription(tracks)


def test_markers_of_disappeared_boxes_are_deleted(active: Vehicle, frame: SensorFrame) -> None:
    first_ns = now_ns(active)
    for topic, message in inputs(frame, first_ns).items():
        active.send(topic, message)
    count = len(result_of(active, first_ns).detections)
    assert count > 3
    later_ns = first_ns + 100_000_000
    wait_for(lambda: now_ns(active) >= later_ns, 5.0, "time of the frame")
    later = inputs(frame, later_ns)
    flat = np.array([[x, y, -1.8, 0] for x in range(3, 9) for y in range(-3, 4)], np.float32)
    sweep = encoders.sweep_to_message(
        TYPES, type(frame.lidars["lidar"])("lidar", later_ns, "lidar", flat)
    )
    for topic, message in {**later, "/lidar/points": sweep}.items():
        active.send(topic, message)
    assert not result_of(active, later_ns).detections
    wait_for(lambda: len(active.received["/perception/markers"]) >= 2, 5.0, "markers")
    deleted = [
        m.id for m in active.received["/perception/markers"][1].markers if m.action == Marker.DELETE
    ]
    assert set(range(count)) <= set(deleted)


def test_bad_messages_are_counted_by_reason_and_the_node_continues(
    active: Vehicle, frame: SensorFrame
) -> None:
    good = inputs(frame, now_ns(active))
    active.send("/tf_static", good["/tf_static"])
    broken: dict[tuple[str, str], tuple[str, Any]] = {}
    short = inputs(frame, now_ns(active))["/lidar/points"]
    short.data = short.data[:-7]
    broken["lidar", "truncated"] = "/lidar/points", short
    bad_step = inputs(frame, now_ns(active))["/lidar/points"]
    bad_step.point_step = 0
    broken["lidar", "bad_point_step"] = "/lidar/points", bad_step
    no_z = inputs(frame, now_ns(active))["/lidar/points"]
    no_z.fields = [f for f in no_z.fields if f.name != "z"]
    broken["lidar", "missing_xyz"] = "/lidar/points", no_z
    nothing = inputs(frame, now_ns(active))["/lidar/points"]
    nothing.width = nothing.row_step = 0
    nothing.data = nothing.data[:0]
    broken["lidar", "empty"] = "/lidar/points", nothing
    nan = inputs(frame, now_ns(active))["/lidar/points"]
    nan.data = TYPES.values(np.full(len(nan.data), 0xFF, np.uint8))  # as float32: NaN
    broken["lidar", "all_nan"] = "/lidar/points", nan
    odd = inputs(frame, now_ns(active))["/camera/image_raw"]
    odd.encoding = "unknown8"
    broken["camera", "unknown_encoding"] = "/camera/image_raw", odd
    flat = inputs(frame, now_ns(active))["/camera/image_raw"]
    flat.height = 0
    broken["camera", "zero_size"] = "/camera/image_raw", flat
    info = inputs(frame, now_ns(active))["/camera/camera_info"]
    info.k[0] = 0.0
    broken["camera", "bad_camera_info"] = "/camera/camera_info", info
    packed = inputs(frame, now_ns(active))["/packed/image_raw/compressed"]
    packed.data = packed.data[: len(packed.data) // 2]
    broken["packed", "truncated"] = "/packed/image_raw/compressed", packed
    for topic, message in broken.values():
        active.send(topic, message)
        time.sleep(0.02)
    for sensor, reason in broken:
        wait_for(lambda s=sensor, r=reason: active.drops(s).get(r), 10.0, f"drop {sensor} {reason}")
    loop = TFMessage(transforms=static_transforms(frame, TYPES).transforms[:1])
    loop.transforms[0].header.frame_id, loop.transforms[0].child_frame_id = "lidar", "base_link"
    active.send("/tf_static", loop)
    active.send("/tf_static", good["/tf_static"])
    stamp_ns = now_ns(active)
    for topic, message in inputs(frame, stamp_ns).items():
        active.send(topic, message)
    assert result_of(active, stamp_ns).detections


def test_an_image_whose_size_contradicts_camera_info_is_dropped_without_the_frame(
    active: Vehicle, frame: SensorFrame
) -> None:
    stamp_ns = now_ns(active)
    content = inputs(frame, stamp_ns)
    content["/camera/camera_info"].width += 2
    for topic, message in content.items():
        active.send(topic, message)
    assert result_of(active, stamp_ns).detections
    wait_for(lambda: active.drops("camera").get("image_size"), 10.0, "drop of the image")


def test_a_missing_transform_is_counted(
    process: subprocess.Popen[str], vehicle: Vehicle, frame: SensorFrame, tmp_path: Path
) -> None:
    without_transform = RIG.replace("frame_id: lidar,", "frame_id: roof,")
    (tmp_path / "rig.yaml").write_text(without_transform)
    assert vehicle.transition("configure") and vehicle.transition("activate")
    wait_for(lambda: vehicle.count_subscribers("/lidar/points"), 30.0, "subscription")
    time.sleep(0.5)
    content = inputs(frame, now_ns(vehicle))
    content["/lidar/points"].header.frame_id = "roof"
    vehicle.send("/lidar/points", content["/lidar/points"])
    wait_for(
        lambda: any("no_transform" in k for k in vehicle.drops("lidar")), 10.0, "missing transform"
    )


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
    output = process.communicate(timeout=30)[0]
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
    output = process.communicate(timeout=30)[0]
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
    wait_for(lambda: vehicle.count_subscribers("/lidar/points") == 1, 30.0, "subscription")
    time.sleep(0.5)
    stamp_ns = now_ns(vehicle)
    for topic, message in inputs(frame, stamp_ns).items():
        vehicle.send(topic, message)
    (detection,) = result_of(vehicle, stamp_ns).detections
    assert (detection.bbox.size.x, detection.bbox.size.y) == (1.0, 1.0)
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=30)[0]
    assert "installed entry points (multimodal_perception.detectors): broken, nearest" in output


def test_every_transition_releases_its_subscriptions_and_publishers(
    process: subprocess.Popen[str], vehicle: Vehicle, frame: SensorFrame
) -> None:
    for _ in range(3):
        assert vehicle.transition("configure") and vehicle.transition("activate")
        wait_for(lambda: vehicle.count_subscribers("/lidar/points") == 1, 30.0, "subscription")
        assert vehicle.transition("deactivate")
        wait_for(lambda: vehicle.count_subscribers("/lidar/points") == 0, 10.0, "end of it")
        assert vehicle.transition("cleanup")
        wait_for(lambda: vehicle.count_publishers("/perception/objects") == 0, 10.0, "end of it")
    assert vehicle.state() == "unconfigured"
    assert vehicle.transition("configure") and vehicle.transition("activate")
    wait_for(lambda: vehicle.count_subscribers("/lidar/points") == 1, 30.0, "subscription")
    time.sleep(0.5)
    stamp_ns = now_ns(vehicle)
    for topic, message in inputs(frame, stamp_ns).items():
        vehicle.send(topic, message)
    assert result_of(vehicle, stamp_ns).detections
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0


def test_a_silent_camera_does_not_stop_the_pipeline(active: Vehicle, frame: SensorFrame) -> None:
    stamps: list[int] = []

    def processed() -> int:
        return sum(
            decoders.stamp_ns_of(m) in stamps for m in active.received["/perception/objects"]
        )

    active.send("/tf_static", inputs(frame, now_ns(active))["/tf_static"])
    for _ in range(8):
        stamp_ns = now_ns(active)
        stamps.append(stamp_ns)
        active.send("/lidar/points", inputs(frame, stamp_ns)["/lidar/points"])
        # The next sweep is sent after the result, so that a busy machine drops none, and not before
        # the period of the LiDAR.
        wait_for(lambda: processed() == len(stamps), 15.0, "result of each sweep")
        wait_for(lambda t=stamp_ns: now_ns(active) >= t + 100_000_000, 5.0, "next sweep")

    def camera_level() -> int | None:
        for array in reversed(active.received["/diagnostics"]):
            for status in array.status:
                if status.name.endswith(": camera"):
                    return status.level[0]
        return None

    wait_for(lambda: camera_level() == 2, 15.0, "ERROR for the silent camera")


def test_frozen_sensors_are_named_and_the_calibration_is_measured(
    active: Vehicle, frame: SensorFrame
) -> None:
    """The test sends the same image and the same sweep repeatedly, as frozen sensors do."""
    active.send("/tf_static", inputs(frame, now_ns(active))["/tf_static"])
    for _ in range(22):
        for topic, message in inputs(frame, now_ns(active)).items():
            active.send(topic, message)
        time.sleep(0.1)

    def status_of(name: str) -> tuple[int, str, dict[str, str]] | None:
        for array in reversed(active.received["/diagnostics"]):
            for status in array.status:
                if status.name.endswith(f": {name}"):
                    pairs = {v.key: v.value for v in status.values}
                    return status.level[0], status.message, pairs
        return None

    def frozen() -> bool:
        camera = status_of("camera")
        return camera is not None and camera[2].get("image_quality.not_frozen") == "0.000"

    wait_for(frozen, 10.0, "a frozen camera in /diagnostics")
    level, message, values = status_of("camera")  # type: ignore[misc]
    assert level >= 1 and values["image_quality"] == "0.000"

    def lidar_was_frozen() -> bool:
        statuses = [s for array in active.received["/diagnostics"] for s in array.status]
        text = "frozen: the data has not changed for "
        lidar = [s for s in statuses if s.name.endswith(": lidar") and s.message.startswith(text)]
        return bool(lidar) and lidar[-1].level[0] == 2

    wait_for(lidar_was_frozen, 10.0, "a frozen LiDAR in /diagnostics")
    wait_for(
        lambda: status_of("calibration of camera to lidar"),
        20.0,
        "a measurement of the calibration",
    )
    assert int(status_of("calibration of camera to lidar")[2]["measurements"]) >= 1  # type: ignore[index]
