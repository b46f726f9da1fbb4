"""Frames from the messages of a rig: four modalities, transforms, odometry, invalid messages."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

from multimodal_perception.datasets.bag_writer import RosbagsTypes
from multimodal_perception.frame import (
    CameraImage,
    LidarSweep,
    Modality,
    SensorFrame,
    ThermalImage,
    UltrasonicReading,
)
from multimodal_perception.geometry import poses
from multimodal_perception.messages import encoders
from multimodal_perception.rig import Rig, Sensor
from multimodal_perception.sensor_calibration import Extrinsics, Intrinsics
from multimodal_perception.synchronization.intake import STATIC_TOPIC, MessageIntake

MS = 1_000_000
SECOND = 1000 * MS
TYPES = RosbagsTypes()


def rig(**more: Any) -> Rig:
    extrinsics = Extrinsics((1.0, 0.0, 1.5))
    intrinsics = Intrinsics(40, 30, 30.0, 30.0, 19.5, 14.5)
    sensors = [
        Sensor("lidar", Modality.LIDAR, "/lidar", "lidar"),
        Sensor("camera", Modality.CAMERA, "/camera", "camera", extrinsics, intrinsics=intrinsics),
        Sensor(
            "thermal", Modality.THERMAL, "/thermal", "thermal", extrinsics, intrinsics=intrinsics
        ),
        Sensor("front", Modality.ULTRASONIC, "/front", "front", extrinsics),
        Sensor("back", Modality.ULTRASONIC, "/back", "back", extrinsics),
    ]
    return Rig("test", {s.name: s for s in sensors}, odometry_topic="/odom", **more)


def contents(stamp_ns: int, ultrasonic_m: float = 2.0) -> Iterator[tuple[str, Any]]:
    points = np.array([[5, 1, 0, 0.5]], np.float32)
    counts = np.full((30, 40), 8000, np.uint16)
    pixels = np.full((30, 40, 3), 7, np.uint8)
    yield "/lidar", encoders.sweep_to_message(TYPES, LidarSweep("", stamp_ns, "lidar", points))
    yield "/camera", encoders.image_to_message(TYPES, CameraImage("", stamp_ns, "camera", pixels))
    yield (
        "/thermal",
        encoders.image_to_message(TYPES, ThermalImage("", stamp_ns, "thermal", counts)),
    )
    for name in ("front", "back"):
        reading = UltrasonicReading("", stamp_ns, name, ultrasonic_m, 0.1, 4.0, 0.5)
        yield f"/{name}", encoders.range_to_message(TYPES, reading)


def static_transform(stamp_ns: int = 0) -> Any:
    pose = poses.from_xyz_rpy((0.5, 0.0, 1.8))
    transform = encoders.transform_to_message(TYPES, pose, "base_link", "lidar", stamp_ns)
    return TYPES.new("tf2_msgs/msg/TFMessage", transforms=[transform])


def odometry(stamp_ns: int, x: float) -> Any:
    return TYPES.new(
        "nav_msgs/msg/Odometry",
        header=encoders.make_header(TYPES, stamp_ns, "odom"),
        child_frame_id="base_link",
        pose=TYPES.new(
            "geometry_msgs/msg/PoseWithCovariance",
            pose=encoders.make_pose(TYPES, (x, 0.0, 0.0), 0.0),
            covariance=TYPES.values(np.zeros(36)),
        ),
        twist=None,
    )


def play(
    intake: MessageIntake, seconds: float, start_ns: int = 0, **more: Any
) -> list[SensorFrame]:
    frames = []
    for i in range(round(seconds * 10)):
        stamp_ns = start_ns + i * 100 * MS
        for k, (topic, msg) in enumerate(contents(stamp_ns, **more)):
            frames += intake.receive(topic, msg, stamp_ns + (5 + k) * MS)
    return frames


@pytest.mark.parametrize("policy", ["deadline", "approximate", "exact"])
def test_four_modalities_give_complete_frames(policy: Any) -> None:
    intake = MessageIntake(rig(), policy=policy)
    intake.receive(STATIC_TOPIC, static_transform(), 0)
    frames = play(intake, 2)
    assert len(frames) == 20
    for frame in frames:
        assert not frame.missing
        assert frame.thermals["thermal"].pixels.dtype == np.uint16
        assert set(frame.ultrasonics) == {"front", "back"}
        assert_allclose(frame.points_in_base()[:, :3], [[5.5, 1.0, 1.8]], atol=1e-6)


@pytest.mark.parametrize("range_m", [math.inf, -math.inf, math.nan, 0.05, 3.0])
def test_ranges_keep_the_special_values_of_rep_117(range_m: float) -> None:
    intake = MessageIntake(rig())
    intake.receive(STATIC_TOPIC, static_transform(), 0)
    frame = play(intake, 1, ultrasonic_m=range_m)[-1]
    reading = frame.ultrasonics["front"]
    assert reading.range_m == pytest.approx(range_m, nan_ok=True)
    assert (reading.min_range, reading.max_range) == pytest.approx((0.1, 4.0))


def test_missing_odometry_is_reported_once_and_frames_continue() -> None:
    intake = MessageIntake(rig())
    intake.receive(STATIC_TOPIC, static_transform(), 0)
    assert len(play(intake, 1)) == 10
    assert ["no odometry" in notice for notice in intake.pop_notices()] == [True]
    play(intake, 1, start_ns=SECOND)
    assert intake.pop_notices() == []


def test_odometry_gives_ego_motion_to_the_reference_time() -> None:
    intake = MessageIntake(rig())
    intake.receive(STATIC_TOPIC, static_transform(), 0)
    for i in range(60):
        intake.receive("/odom", odometry(i * 20 * MS, 0.2 * i), i * 20 * MS)
    for topic, msg in contents(SECOND):
        if topic == "/camera":
            msg.header.stamp = encoders.make_time(TYPES, SECOND - 40 * MS)
        frames = intake.receive(topic, msg, SECOND + 10 * MS)
    assert frames[0].reference_from_base["camera"][0, 3] == pytest.approx(-0.4)
    assert not intake.pop_notices()


def test_invalid_message_is_counted_and_other_sensors_are_unaffected() -> None:
    intake = MessageIntake(rig())
    intake.receive(STATIC_TOPIC, static_transform(), 0)
    frames = []
    for i in range(10):
        for k, (topic, msg) in enumerate(contents(i * 100 * MS)):
            if topic == "/front":
                msg.field_of_view = -1.0
            if topic == "/thermal":
                msg.data = msg.data[:7]
            frames += intake.receive(topic, msg, i * 100 * MS + (5 + k) * MS)
    frames += intake.flush(2 * SECOND)
    assert len(frames) == 10
    assert all(frame.missing == {"front", "thermal"} for frame in frames)
    assert intake.drop_counts("front") == {"bad_range": 10}
    assert sum(intake.drop_counts("thermal").values()) == 10


def test_restarted_bag_gives_frames_again() -> None:
    intake = MessageIntake(rig())
    intake.receive(STATIC_TOPIC, static_transform(), 0)
    play(intake, 2, start_ns=100 * SECOND)
    frames = play(intake, 2, start_ns=50 * SECOND)
    assert len([f for f in frames if not f.missing]) >= 18
    assert intake.synchronizer.clock_jumps == 1


def test_camera_info_topics_precede_sensor_topics() -> None:
    known = rig().sensors
    sensors = {
        n: replace(s, camera_info_topic=f"/{n}_info") for n, s in known.items() if s.intrinsics
    }
    topics = list(MessageIntake(replace(rig(), sensors={**known, **sensors})).topics)
    assert sensors and len(topics) == len(set(topics))
    last = max(topics.index(str(s.camera_info_topic)) for s in sensors.values())
    assert last < min(topics.index(s.topic) for s in known.values())


def test_unknown_topic_raises_key_error() -> None:
    with pytest.raises(KeyError):
        MessageIntake(rig()).receive("/radar", None, 0)
