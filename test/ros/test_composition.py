"""Outputs and services that Nav2, Autoware and RViz use, over DDS from one node process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from multimodal_perception.datasets.synthetic import SyntheticDataset
from multimodal_perception.frame import CLASS_NAMES, SensorFrame
from multimodal_perception.geometry import poses
from multimodal_perception.messages import decoders, encoders, message_types
from multimodal_perception.messages.pointcloud import sweep_from_message
from multimodal_perception.rig import parse_rig
from multimodal_perception.ros import outputs
from multimodal_perception.ros.node_process import perception_process
from multimodal_perception.ros.occupancy_outputs import MAP_TOPIC, MAP_UPDATES_TOPIC
from multimodal_perception.ros.qos import MAP_QOS, MOTION_QOS, OUTPUT_QOS, SENSOR_QOS
from multimodal_perception.stages import ATTRIBUTES
from test.ros.conftest import LIMIT_S, START_S, wait_for

pytestmark = pytest.mark.live

TYPES = message_types.RclpyTypes()
# Optional packages; the environment of `make` has them, a distribution may not.
AUTOWARE = find_spec("autoware_perception_msgs") is not None
RIG = {
    "name": "robot",
    "sensors": {
        "lidar": {
            "modality": "lidar",
            "topic": "lidar/points",
            "frame_id": "lidar",
            "rate_hz": 10.0,
            "extrinsics": {"xyz": [0.0, 0.0, 1.8]},
        }
    },
}
SETTINGS = {
    "pipeline.detector": "geometric",
    "pipeline.runtime.device": "cpu",
    "calibration_monitor.period_s": "0.0",
    "pipeline.frozen_sensors.lidar_s": "0.0",  # the same sweep is sent repeatedly
    "diagnostics_period_s": "0.2",
    "occupancy.map_rate_hz": "20.0",
    "occupancy.map_size": "120.0",
    "pipeline.evidential.grid.half_life_s": "100.0",
}
TOPICS = {
    outputs.OBJECTS_TOPIC: "vision_msgs/msg/Detection3DArray",
    outputs.TRACKED_OBJECTS_TOPIC: "vision_msgs/msg/Detection3DArray",
    outputs.TRACKS_TOPIC: "sensor_msgs/msg/PointCloud2",
    outputs.OBSTACLE_POINTS_TOPIC: "sensor_msgs/msg/PointCloud2",
    outputs.GROUND_POINTS_TOPIC: "sensor_msgs/msg/PointCloud2",
    outputs.DIAGNOSTICS_TOPIC: "diagnostic_msgs/msg/DiagnosticArray",
}
LATCHED = {
    MAP_TOPIC: "nav_msgs/msg/OccupancyGrid",
    f"{outputs.OBJECTS_TOPIC}/label_info": "vision_msgs/msg/LabelInfo",
    f"{outputs.SEMANTIC_TOPIC}/label_info": "vision_msgs/msg/LabelInfo",
}


@dataclass
class Robot:
    """Sends the sweep of a vehicle at a position, and collects the node's messages by topic."""

    node: Any
    frame: SensorFrame
    publishers: dict[str, Any]
    received: dict[str, list[Any]] = field(default_factory=dict)

    def send(self, x: float = 0.0, speed: float = 0.0) -> int:
        """Publish the sweep from a vehicle at x in odom; returns its stamp."""
        stamp_ns = int(self.node.get_clock().now().nanoseconds)
        pose = poses.from_xyz_rpy((x, 0.0, 0.0))
        transform = encoders.transform_to_message(TYPES, pose, "odom", "base_link", stamp_ns)
        tf = TYPES.new("tf2_msgs/msg/TFMessage", transforms=[transform])
        self.publishers["/tf"].publish(tf)
        time.sleep(0.02)
        cloud = encoders.sweep_to_message(TYPES, self.frame.lidars["lidar"])
        cloud.header.stamp = encoders.make_time(TYPES, stamp_ns)
        self.publishers["lidar/points"].publish(cloud)
        return stamp_ns

    def send_until(self, condition: Callable[[int], Any], x: float = 0.0) -> Any:
        """Send sweeps until the condition holds for a stamp that was sent; returns its value."""
        stamps: list[int] = []
        end = time.monotonic() + LIMIT_S
        while time.monotonic() < end:
            stamps.append(self.send(x))
            time.sleep(0.1)
            for stamp_ns in stamps:
                value = condition(stamp_ns)
                if value:
                    return value
        raise AssertionError(f"the condition did not hold after {len(stamps)} sweeps")

    def message(self, topic: str, stamp_ns: int) -> Any:
        matches = [m for m in self.received[topic] if decoders.stamp_ns_of(m) == stamp_ns]
        return matches[0] if matches else None

    def subscribe(self, topic: str, name: str, qos: Any = OUTPUT_QOS) -> list[Any]:
        received: list[Any] = []
        self.node.create_subscription(
            message_types.message_class(name), topic, received.append, qos
        )
        return received

    def call(self, name: str, service: str, **fields: Any) -> Any:
        service_type = message_types.message_class(name)
        client = self.node.create_client(service_type, f"/perception/{service}")
        assert client.wait_for_service(LIMIT_S), service
        future = client.call_async(service_type.Request(**fields))
        wait_for(future.done, LIMIT_S, service)
        self.node.destroy_client(client)
        return future.result()

    def set_parameter(self, name: str, value: Any) -> Any:
        from rclpy.parameter import Parameter

        parameter = Parameter(name, value=value).to_parameter_msg()
        request = {"parameters": [parameter]}
        return self.call("rcl_interfaces/srv/SetParameters", "set_parameters", **request).results[0]

    def status(self, name: str) -> Any:
        for array in reversed(self.received[outputs.DIAGNOSTICS_TOPIC]):
            for status in array.status:
                if status.name.endswith(f": {name}"):
                    return status
        return None


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("maps")


@pytest.fixture(scope="module")
def robot(maps: Path) -> Iterator[Robot]:
    import rclpy
    from rclpy.executors import SingleThreadedExecutor

    rig = parse_rig(RIG, "test")
    settings = {**SETTINGS, "occupancy.map_folder": str(maps)}
    settings["autoware_outputs"] = str(AUTOWARE).lower()
    frame = SyntheticDataset(frames=1, rings=32, columns=900)[0]
    with perception_process(rig, settings=settings) as process:
        rclpy.init()
        node = rclpy.create_node("vehicle")
        kinds = {
            "/tf": ("tf2_msgs/msg/TFMessage", MOTION_QOS),
            "lidar/points": ("sensor_msgs/msg/PointCloud2", SENSOR_QOS),
        }
        publishers = {
            topic: node.create_publisher(message_types.message_class(name), topic, qos)
            for topic, (name, qos) in kinds.items()
        }
        client = Robot(node, frame, publishers)
        autoware = outputs.AUTOWARE_TOPICS if AUTOWARE else {}
        for topic, name in {**TOPICS, **autoware}.items():
            client.received[topic] = client.subscribe(topic, name)
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        thread = threading.Thread(target=executor.spin, daemon=True)
        thread.start()
        wait_for(
            lambda: all(p.get_subscription_count() for p in publishers.values()), START_S, "node"
        )
        client.send_until(lambda stamp_ns: client.message(outputs.OBJECTS_TOPIC, stamp_ns))
        yield client
        executor.shutdown()
        node.destroy_node()
        rclpy.shutdown()
    assert process.returncode == 0


def test_a_late_subscriber_gets_the_map_with_a_fixed_origin_and_its_changes(robot: Robot) -> None:
    maps = robot.subscribe(MAP_TOPIC, LATCHED[MAP_TOPIC], MAP_QOS)
    wait_for(lambda: maps, LIMIT_S, "latched map")
    first = maps[0]
    assert first.header.frame_id == "odom" and first.info.width == first.info.height == 300
    values = np.unique(np.array(first.data))
    assert values.min() == -1 and values.max() == 100 and 0 in values
    # Nav2 compares the origin with multiples of the resolution, which is a float32.
    for value in (first.info.origin.position.x, first.info.origin.position.y):
        remainder = np.fmod(value, first.info.resolution)
        assert abs(remainder) < 1e-5
    robot.send_until(lambda stamp_ns: robot.message(outputs.OBJECTS_TOPIC, stamp_ns), x=10.0)
    robot.send_until(lambda stamp_ns: decoders.stamp_ns_of(maps[-1]) >= stamp_ns, x=10.0)
    assert maps[-1].info.origin == first.info.origin
    pytest.importorskip("map_msgs", reason="changes of the map need map_msgs")
    assert robot.set_parameter("occupancy.map_rate_hz", 0.2).successful
    updates = robot.subscribe(MAP_UPDATES_TOPIC, "map_msgs/msg/OccupancyGridUpdate")
    robot.send_until(lambda stamp_ns: updates, x=10.0)
    update = updates[0]
    assert update.header.frame_id == "odom" and len(update.data) == update.width * update.height
    assert update.x + update.width <= 300 and update.y + update.height <= 300
    assert robot.set_parameter("occupancy.map_rate_hz", 20.0).successful


def test_obstacle_points_are_above_the_ground_and_ground_points_are_on_it(robot: Robot) -> None:
    topics = outputs.OBSTACLE_POINTS_TOPIC, outputs.GROUND_POINTS_TOPIC
    stamp_ns = robot.send_until(
        lambda stamp_ns: all(robot.message(t, stamp_ns) for t in topics) and stamp_ns
    )
    obstacle, ground = (
        sweep_from_message(robot.message(t, stamp_ns), "points", stamp_ns).points for t in topics
    )
    assert robot.message(topics[0], stamp_ns).header.frame_id == "base_link"
    assert len(obstacle) > 100 and len(ground) > 1000
    assert obstacle[:, 2].min() > 0.1 and obstacle[:, 2].max() < 2.3
    assert np.abs(ground[:, 2]).max() < 0.4 and np.hypot(*ground[:, :2].T).max() <= 40.0


def test_names_and_threshold_of_the_classes_are_latched_and_follow_the_parameter(
    robot: Robot,
) -> None:
    topics = {t: n for t, n in LATCHED.items() if t != MAP_TOPIC}
    infos = [robot.subscribe(topic, name, MAP_QOS) for topic, name in topics.items()]
    wait_for(lambda: all(infos), LIMIT_S, "latched label info")
    objects, semantic = (info[0] for info in infos)
    assert [(c.class_id, c.class_name) for c in objects.class_map] == list(enumerate(CLASS_NAMES))
    assert objects.threshold == pytest.approx(0.3) and semantic.class_map[5].class_name == "vehicle"
    before = len(robot.send_until(lambda s: robot.message(outputs.OBJECTS_TOPIC, s)).detections)
    assert robot.set_parameter("pipeline.geometric.min_score", 0.95).successful
    after = robot.send_until(
        lambda s: (
            (m := robot.message(outputs.OBJECTS_TOPIC, s)) and len(m.detections) < before and m
        )
    )
    assert all(d.results[0].hypothesis.score >= 0.95 for d in after.detections)
    wait_for(lambda: infos[0][-1].threshold > 0.9, LIMIT_S, "new threshold")
    assert robot.set_parameter("pipeline.geometric.min_score", 0.3).successful


def test_parameters_that_are_read_at_the_start_and_invalid_values_are_refused_with_a_reason(
    robot: Robot,
) -> None:
    fixed = robot.set_parameter("pipeline.geometric.half_extent", 30.0)
    assert not fixed.successful and "clean up the node first" in fixed.reason
    assert "half_extent" in fixed.reason
    above = robot.set_parameter("occupancy.values.free_threshold", 0.9)
    assert not above.successful and "free_threshold must be below" in above.reason
    outside = robot.set_parameter("pipeline.geometric.min_score", 3.0)
    assert not outside.successful and outside.reason


def test_tracks_have_the_same_ids_in_all_messages_and_known_covariances(robot: Robot) -> None:
    topics = [outputs.TRACKED_OBJECTS_TOPIC, outputs.TRACKS_TOPIC]
    topics += outputs.AUTOWARE_TOPICS if AUTOWARE else []
    stamp_ns = robot.send_until(
        lambda s: (
            all(robot.message(t, s) for t in topics)
            and robot.message(topics[0], s).detections
            and s
        )
    )
    objects, tracks = (robot.message(t, stamp_ns) for t in topics[:2])
    ids = [int(d.id) for d in objects.detections]
    rows = np.frombuffer(bytes(tracks.data), outputs.TRACK_FIELDS)
    assert ids == rows["id"].tolist() and len(ids) > 3
    covariances = np.array([d.results[0].pose.covariance for d in objects.detections])
    assert (covariances.reshape(-1, 6, 6)[:, range(6), range(6)] > 0).all()
    if not AUTOWARE:
        pytest.skip("autoware_perception_msgs is not installed")
    detected = robot.message(outputs.AUTOWARE_DETECTED_TOPIC, stamp_ns)
    tracked = robot.message(outputs.AUTOWARE_TRACKED_TOPIC, stamp_ns)
    assert [int.from_bytes(bytes(o.object_id.uuid[8:]), "big") for o in tracked.objects] == ids
    assert tracked.header.frame_id == objects.header.frame_id == "base_link"
    sizes = [(o.shape.dimensions.x, o.shape.dimensions.y) for o in tracked.objects]
    assert sizes == [(d.bbox.size.x, d.bbox.size.y) for d in objects.detections]
    assert all(o.kinematics.has_position_covariance for o in detected.objects)


def test_the_map_is_saved_as_map_server_reads_it_and_only_into_its_folder(
    robot: Robot, maps: Path
) -> None:
    response = robot.call("std_srvs/srv/Trigger", "save_map")
    assert response.success, response.message
    info = yaml.safe_load((maps / "map.yaml").read_text())
    assert (maps / info["image"]).stat().st_size > 300 * 300 and info["resolution"] == 0.4
    pytest.importorskip("nav2_msgs", reason="save_map_as needs nav2_msgs")
    request: dict[str, Any] = {"map_url": "floor", "map_mode": "scale", "image_format": "png"}
    save_map = "nav2_msgs/srv/SaveMap"
    assert robot.call(save_map, "save_map_as", **request, map_topic=MAP_TOPIC).result
    assert (maps / "floor.png").exists() and (maps / "floor.yaml").exists()
    for wrong in (
        {"map_url": "../elsewhere"},
        {"map_url": "x", "map_topic": "other"},
        {"map_url": "x", "map_topic": "not a topic"},
        {"map_url": "x", "image_format": "gif"},
        {"map_url": "x", "free_thresh": 0.9},
    ):
        assert not robot.call(save_map, "save_map_as", **wrong).result
    assert sorted(p.name for p in maps.iterdir()) == [
        "floor.png",
        "floor.yaml",
        "map.pgm",
        "map.yaml",
    ]
    assert robot.set_parameter("occupancy.map_name", "../x").successful
    refused = robot.call("std_srvs/srv/Trigger", "save_map")
    assert not refused.success and str(maps) in refused.message
    assert robot.set_parameter("occupancy.map_name", "map").successful


def test_the_map_starts_again_after_a_reset(robot: Robot) -> None:
    received = robot.subscribe(MAP_TOPIC, LATCHED[MAP_TOPIC], MAP_QOS)
    robot.send_until(lambda s: received and decoders.stamp_ns_of(received[-1]) >= s, x=30.0)
    assert robot.call("std_srvs/srv/Trigger", "reset_map").success
    # The new map is centred on the vehicle, which is elsewhere now.
    old = received[-1].info.origin.position.x
    fresh = robot.send_until(
        lambda s: next(
            (
                m
                for m in received
                if decoders.stamp_ns_of(m) >= s and m.info.origin.position.x != old
            ),
            None,
        ),
        x=31.0,
    )
    assert abs(fresh.info.origin.position.x + 60.0 - 31.0) < 1.0


def test_stages_are_switched_off_and_on_by_services_and_reported(robot: Robot) -> None:
    set_bool = "std_srvs/srv/SetBool"
    grids = robot.subscribe("perception/occupancy", "nav_msgs/msg/OccupancyGrid")
    assert robot.call(set_bool, "detector/set_enabled", data=False).success
    robot.send_until(lambda s: grids, x=31.0)
    last_ns = robot.send_until(
        lambda s: any(decoders.stamp_ns_of(g) == s for g in grids) and s, x=31.0
    )
    wait_for(lambda: "detector" in robot.status("pipeline").message, LIMIT_S, "warning")
    assert robot.status("pipeline").level == b"\x01"
    robot.send_until(
        lambda s: s > last_ns and any(decoders.stamp_ns_of(g) == s for g in grids), 31.0
    )
    # No message: an empty one would mean that there are no objects.
    objects = robot.received[outputs.OBJECTS_TOPIC]
    assert not [m for m in objects if decoders.stamp_ns_of(m) >= last_ns]
    assert robot.call(set_bool, "occupancy/set_enabled", data=False).success
    assert robot.call(set_bool, "detector/set_enabled", data=True).success
    stamp_ns = robot.send_until(lambda s: robot.message(outputs.OBJECTS_TOPIC, s) and s, x=31.0)
    time.sleep(0.2)
    assert not any(decoders.stamp_ns_of(g) == stamp_ns for g in grids)
    assert robot.call(set_bool, "occupancy/set_enabled", data=True).success
    wait_for(lambda: "disabled" not in robot.status("pipeline").message, LIMIT_S, "no warning")
    for stage in sorted(ATTRIBUTES.keys() - {"detector", "occupancy", "tracking"}):
        response = robot.call(set_bool, f"{stage}/set_enabled", data=True)
        assert response.success or "does not have this stage" in response.message
    missing = robot.call(set_bool, "segmentation/set_enabled", data=False)
    assert not missing.success and "segmentation" in missing.message
