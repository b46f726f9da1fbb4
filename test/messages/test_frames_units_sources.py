"""Frames of messages, units of distances, and the source of the odometry."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

from multimodal_perception.configuration import ConfigurationError
from multimodal_perception.frame import CameraImage, Modality
from multimodal_perception.geometry import poses
from multimodal_perception.messages import encoders
from multimodal_perception.rig import Sensor, parse_rig
from multimodal_perception.sensor_calibration import BODY_FROM_OPTICAL, Extrinsics, Intrinsics
from multimodal_perception.synchronization.intake import MessageIntake
from test.messages import clouds
from test.messages.clouds import MOUNTING, MS, SECOND, START_NS

POINT = (5.0, 1.0, 0.5)


def receive_cloud(intake: MessageIntake, frame_id: str, **fields: Any) -> Any:
    msg = clouds.cloud([POINT], frame_id=frame_id, **fields)
    return clouds.one_frame(intake, "/points", msg)


def in_base(frame: Any) -> Any:
    return frame.points_in_base()[0, :3]


@pytest.mark.parametrize("frame_id", ["lidar_top", "/lidar_top", " lidar_top "])
def test_frame_of_the_rig_has_the_extrinsics_of_the_rig(frame_id: str) -> None:
    intake = MessageIntake(clouds.rig())
    assert_allclose(in_base(receive_cloud(intake, frame_id)), np.add(POINT, MOUNTING), atol=1e-5)
    assert not clouds.notices(intake)


def test_empty_frame_id_is_that_of_the_rig_with_a_notice() -> None:
    intake = MessageIntake(clouds.rig())
    assert_allclose(in_base(receive_cloud(intake, "")), np.add(POINT, MOUNTING), atol=1e-5)
    assert "without frame_id" in clouds.notices(intake)


@pytest.mark.parametrize("frame_id", ["base_link", "/base_link", "robot1/base_link"])
@pytest.mark.parametrize("extrinsics", [Extrinsics(MOUNTING, (0.1, 0.2, 1.5)), None])
@pytest.mark.parametrize("has_tf", [False, True])
def test_cloud_in_base_link_is_not_transformed_again(frame_id, extrinsics, has_tf) -> None:
    intake = MessageIntake(clouds.rig(clouds.lidar(extrinsics=extrinsics)))
    if has_tf:
        clouds.static(intake, "base_link", "lidar_top", MOUNTING)
    frame = receive_cloud(intake, frame_id)
    assert_allclose(in_base(frame), POINT, atol=1e-5)
    if extrinsics is not None or has_tf:
        # Rays start at the sensor, not at the origin of base_link.
        assert_allclose(frame.base_from_sensor["lidar"][:3, 3], MOUNTING)
        assert "already transformed" in clouds.notices(intake)


@pytest.mark.parametrize("extrinsics", [Extrinsics(MOUNTING), None])
def test_other_frame_is_transformed_with_tf(extrinsics) -> None:
    intake = MessageIntake(clouds.rig(clouds.lidar(extrinsics=extrinsics)))
    clouds.static(intake, "base_link", "roof", (0.0, 0.0, 2.5), (0, 0, math.pi / 2))
    frame = receive_cloud(intake, "roof")
    assert_allclose(in_base(frame), (-1.0, 5.0, 3.0), atol=1e-5)
    assert "is taken from /tf" in clouds.notices(intake)


def test_unknown_frame_has_the_extrinsics_of_the_rig_with_a_notice() -> None:
    intake = MessageIntake(clouds.rig())
    assert_allclose(in_base(receive_cloud(intake, "velodyne")), np.add(POINT, MOUNTING), atol=1e-5)
    assert "'velodyne' is unknown" in clouds.notices(intake)
    msg = clouds.cloud([POINT], START_NS + 100 * MS, "velodyne")
    clouds.one_frame(intake, "/points", msg)
    assert not clouds.notices(intake)


@pytest.mark.parametrize("frame_id", ["odom", "map", "world", "robot/odom", "base_footprint"])
def test_fixed_and_vehicle_frames_never_have_the_extrinsics_of_the_sensor(frame_id: str) -> None:
    intake = MessageIntake(clouds.rig())
    assert receive_cloud(intake, frame_id).dropped == {"lidar"}
    assert intake.drop_counts("lidar") == {"no_transform_unknown_frame": 1}


def test_frame_without_extrinsics_and_tf_is_dropped() -> None:
    intake = MessageIntake(clouds.rig(clouds.lidar(extrinsics=None)))
    assert receive_cloud(intake, "velodyne").dropped == {"lidar"}


@pytest.mark.parametrize("topic", ["", "/odom"])
def test_cloud_in_the_odometry_frame_is_transformed_and_not_deskewed_again(topic: str) -> None:
    intake = MessageIntake(clouds.rig(odometry_topic=topic or None))
    clouds.drive(intake, topic, speed=10.0)
    stamp_ns = START_NS + 500 * MS  # 5 m after the origin of odom
    times = ("u4", np.arange(3) * 50 * MS)
    msg = clouds.cloud([(25, 1, 0.5)] * 3, stamp_ns, "odom", t=times)
    frame = clouds.one_frame(intake, "/points", msg)
    assert_allclose(frame.points_in_base()[:, :3], [(20, 1, 0.5)] * 3, atol=1e-3)


# Images and ranges ------------------------------------------------------------------------------


def camera(**keys: Any) -> Sensor:
    intrinsics = Intrinsics(8, 6, 5.0, 5.0, 3.5, 2.5)
    return Sensor(
        "camera", Modality.CAMERA, "/image", "camera_optical", intrinsics=intrinsics, **keys
    )


def receive_image(intake: MessageIntake, frame_id: str) -> Any:
    pixels = np.zeros((6, 8, 3), np.uint8)
    image = CameraImage("camera", START_NS, frame_id, pixels)
    message = encoders.image_to_message(clouds.TYPES, image)
    return clouds.one_frame(intake, "/image", message).base_from_sensor["camera"]


def test_image_in_base_link_has_the_extrinsics_of_the_rig_with_a_notice() -> None:
    extrinsics = Extrinsics((1.5, 0.0, 1.2))
    intake = MessageIntake(clouds.rig(camera(extrinsics=extrinsics)))
    expected = extrinsics.matrix(Modality.CAMERA)
    assert_allclose(receive_image(intake, "base_link"), expected)
    assert "in which an image cannot be measured" in clouds.notices(intake)


def test_range_in_base_link_has_the_extrinsics_of_the_rig_with_a_notice() -> None:
    extrinsics = Extrinsics((-2.0, 0.0, 0.5), (0, 0, math.pi))
    front = Sensor("front", Modality.ULTRASONIC, "/front", "front", extrinsics)
    intake = MessageIntake(clouds.rig(front))
    msg = clouds.ultrasonic_range(1.0, frame_id="base_link")
    frame = clouds.one_frame(intake, "/front", msg)
    assert_allclose(frame.base_from_sensor["front"], extrinsics.matrix(Modality.ULTRASONIC))
    assert "in which a range cannot be measured" in clouds.notices(intake)


@pytest.mark.parametrize("name", ["camera_link", "camera"])
def test_body_frame_of_a_camera_is_converted_to_the_optical_frame(name: str) -> None:
    intake = MessageIntake(clouds.rig(camera()))
    clouds.static(intake, "base_link", name, (1.5, 0, 1.2))
    expected = poses.from_xyz_rpy((1.5, 0, 1.2)) @ BODY_FROM_OPTICAL
    assert_allclose(receive_image(intake, name), expected, atol=1e-9)
    assert "body frame" in clouds.notices(intake)


def test_optical_frame_of_a_camera_is_used_as_it_is() -> None:
    intake = MessageIntake(clouds.rig(camera()))
    rpy = (-math.pi / 2, 0, -math.pi / 2)
    clouds.static(intake, "base_link", "camera_optical", (1.5, 0, 1.2), rpy)
    assert_allclose(receive_image(intake, "camera_optical"), poses.from_xyz_rpy((1.5, 0, 1.2), rpy))
    assert not clouds.notices(intake)


# Units ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", [1e-3, 1e-2])
def test_clouds_in_other_units_are_dropped_with_a_hint_or_converted(unit: float) -> None:
    rng = np.random.default_rng(2)
    xyz = rng.uniform(-60, 60, (500, 3))
    intake = MessageIntake(clouds.rig())
    assert intake.receive("/points", clouds.cloud(xyz / unit), START_NS) == []
    assert intake.drop_counts("lidar") == {"implausible_coordinates": 1}
    assert "metres_per_unit" in clouds.notices(intake)
    intake = MessageIntake(clouds.rig(clouds.lidar(metres_per_unit=unit)))
    frame = clouds.one_frame(intake, "/points", clouds.cloud(xyz / unit))
    assert_allclose(frame.lidars["lidar"].points[:, :3], xyz, rtol=1e-5, atol=1e-5)
    assert not clouds.notices(intake)


def test_ranges_in_millimetres_are_dropped_with_a_hint_or_converted() -> None:
    extrinsics = Extrinsics((2.0, 0.0, 0.5))
    front = Sensor("front", Modality.ULTRASONIC, "/front", "front", extrinsics)
    intake = MessageIntake(clouds.rig(front))
    msg = clouds.ultrasonic_range(1500.0, 200.0, 4000.0)
    assert intake.receive("/front", msg, START_NS) == []
    assert intake.drop_counts("front") == {"implausible_limits": 1}
    assert "metres_per_unit" in clouds.notices(intake)
    sensor = Sensor(
        "front", Modality.ULTRASONIC, "/front", "front", extrinsics, metres_per_unit=1e-3
    )
    reading = clouds.one_frame(MessageIntake(clouds.rig(sensor)), "/front", msg)
    values = reading.ultrasonics["front"]
    assert (values.range_m, values.min_range, values.max_range) == pytest.approx((1.5, 0.2, 4.0))


@pytest.mark.parametrize(
    ("extrinsics", "text"),
    [
        ({"xyz": [1800.0, 0, 1500.0]}, "metres"),
        ({"xyz": [1, 0, 0], "rpy": [0, 0, 90.0]}, "radians"),
    ],
)
def test_extrinsics_in_other_units_are_refused(extrinsics, text: str) -> None:
    entry = {"modality": "lidar", "topic": "/p", "frame_id": "l", "extrinsics": extrinsics}
    with pytest.raises(ConfigurationError, match=text):
        parse_rig({"name": "vehicle", "sensors": {"lidar": entry}}, "rig.yaml")


def test_transforms_in_millimetres_give_a_notice() -> None:
    intake = MessageIntake(clouds.rig(clouds.lidar(extrinsics=None)))
    clouds.static(intake, "base_link", "lidar_top", (1000.0, 0, 1800.0))
    receive_cloud(intake, "lidar_top")
    assert "transforms must be in metres" in clouds.notices(intake)


# Odometry ---------------------------------------------------------------------------------------


def sweep_at_speed(intake: MessageIntake) -> Any:
    """Deskewed x of points at 20 m whose times are spread over the sweep."""
    times = ("u4", np.linspace(0, 100 * MS, 50))
    frame = clouds.one_frame(intake, "/points", clouds.cloud([(20, 0, 0)] * 50, t=times))
    return frame.points_in_base()[:, 0] - MOUNTING[0]


def test_odometry_topic_and_tf_are_not_mixed() -> None:
    intake = MessageIntake(clouds.rig(odometry_topic="/odom"))
    for i in range(-50, 51):
        stamp_ns = START_NS + i * 20 * MS
        x = 10 * i * 0.02
        intake.receive("/odom", clouds.odometry(stamp_ns, x, speed=10.0), stamp_ns)
        # Another estimate, 5 m away, between the messages of the odometry topic.
        moved = clouds.transform("odom", "base_link", (x + 5.0, 0, 0), stamp_ns=stamp_ns + 10 * MS)
        intake.receive("/tf", moved, stamp_ns)
    assert_allclose(sweep_at_speed(intake), 20 + 10 * np.linspace(0, 0.1, 50), atol=2e-3)
    assert "/tf also has odom to base_link" in clouds.notices(intake)


def test_tf_is_the_source_without_an_odometry_topic() -> None:
    intake = MessageIntake(clouds.rig())
    clouds.drive(intake, speed=10.0)
    assert_allclose(sweep_at_speed(intake), 20 + 10 * np.linspace(0, 0.1, 50), atol=2e-3)
    assert not clouds.notices(intake)


@pytest.mark.parametrize("parent_is_footprint", [True, False])
def test_child_frame_is_converted_to_the_base_frame(parent_is_footprint: bool) -> None:
    intake = MessageIntake(clouds.rig(odometry_topic="/odom"))
    # base_footprint is below base_link, whichever of the two is the parent.
    if parent_is_footprint:
        clouds.static(intake, "base_footprint", "base_link", (0, 0, 0.3))
    else:
        clouds.static(intake, "base_link", "base_footprint", (0, 0, -0.3))
    clouds.drive(intake, "/odom", speed=10.0, child="base_footprint")
    frame = clouds.one_frame(intake, "/points", clouds.cloud([POINT]))
    assert_allclose(frame.odom_from_base, poses.from_xyz_rpy((0, 0, 0.3)), atol=1e-9)
    assert "is converted to base_frame" in clouds.notices(intake)
    # The sensor's transforms of the vehicle are unaffected.
    assert_allclose(in_base(frame), np.add(POINT, MOUNTING), atol=1e-5)


def test_unconnected_child_frame_is_not_used() -> None:
    intake = MessageIntake(clouds.rig(odometry_topic="/odom"))
    clouds.drive(intake, "/odom", child="imu_link")
    frame = clouds.one_frame(intake, "/points", clouds.cloud([POINT]))
    assert frame.odom_from_base is None
    assert "the odometry is not used" in clouds.notices(intake)


def test_other_frame_of_the_odometry_gives_a_notice() -> None:
    intake = MessageIntake(clouds.rig(odometry_topic="/odom"))
    clouds.drive(intake, "/odom", speed=10.0, frame_id="odom_combined")
    frame = clouds.one_frame(intake, "/points", clouds.cloud([POINT]))
    assert frame.odom_from_base is not None
    assert "'odom_combined' is taken as the rig's odom_frame 'odom'" in clouds.notices(intake)


def test_clock_jump_clears_the_odometry() -> None:
    intake = MessageIntake(clouds.rig(odometry_topic="/odom"))
    clouds.drive(intake, "/odom")
    clouds.one_frame(intake, "/points", clouds.cloud([POINT]))
    earlier = START_NS - 500 * SECOND
    frame = clouds.one_frame(intake, "/points", clouds.cloud([POINT], earlier))
    assert frame.odom_from_base is None
