"""Values that mean "no measurement" in point clouds, ranges and odometry."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multimodal_perception.frame import LidarSweep, Modality, SensorFrame
from multimodal_perception.geometry import poses
from multimodal_perception.messages.decoding_log import DecodingLog
from multimodal_perception.messages.errors import MessageError
from multimodal_perception.messages.pointcloud import PointCloudOptions, sweep_from_message
from multimodal_perception.occupancy.cells import GridGeometry
from multimodal_perception.occupancy.ultrasonic import UltrasonicModel
from multimodal_perception.rig import Sensor
from multimodal_perception.sensor_calibration import Extrinsics
from multimodal_perception.synchronization.intake import MessageIntake
from test.messages import clouds
from test.messages.clouds import MOUNTING, MS, START_NS

NO_RETURN = (
    (0.0, 0.0, 0.0),
    (-0.0, 0.0, 0.0),
    (1e-3, -2e-3, 1e-3),
    (math.nan, math.nan, math.nan),
    (math.inf, 1.0, 0.0),
    (1.0, -math.inf, 0.0),
    (3.4e38, 3.4e38, 3.4e38),
    (1e9, 0.0, 0.0),
)


def decode(msg, log=None, **options) -> LidarSweep:
    return sweep_from_message(msg, "lidar", START_NS, PointCloudOptions(**options), log)


@pytest.mark.parametrize("value", NO_RETURN)
def test_missing_return_is_removed_with_ring_and_time(value) -> None:
    xyz = np.array([(5, 0, 0), value, (6, 1, 0), value, (7, 2, 1)])
    rings, times = np.arange(5), np.arange(5) * 20 * MS
    log = DecodingLog()
    sweep = decode(clouds.cloud(xyz, ring=("u2", rings), t=("u4", times)), log)
    np.testing.assert_array_equal(sweep.points[:, :3], [(5, 0, 0), (6, 1, 0), (7, 2, 1)])
    np.testing.assert_array_equal(sweep.rings, [0, 2, 4])
    np.testing.assert_allclose(sweep.time_offsets, [0, 0.04, 0.08], atol=1e-8)
    # Missing returns are normal: they are information, not a fault.
    assert not log.losses
    assert sum(log.information.values()) == 2


@settings(max_examples=100)
@given(st.lists(st.booleans(), min_size=1, max_size=60), st.sampled_from(NO_RETURN), st.booleans())
def test_any_pattern_of_missing_returns_keeps_the_other_points(measured, value, intensity) -> None:
    count = len(measured)
    xyz = np.where(np.array(measured)[:, None], np.arange(3 * count).reshape(-1, 3) + 1.0, value)
    fields = {"intensity": ("f4", np.arange(count))} if intensity else {}
    msg = clouds.cloud(xyz, ring=("u1", np.arange(count)), **fields)
    if not any(measured):
        with pytest.raises(MessageError) as caught:
            decode(msg)
        assert caught.value.reason in ("all_nan", "no_returns")
        return
    sweep = decode(msg)
    np.testing.assert_array_equal(sweep.rings, np.flatnonzero(measured))
    np.testing.assert_array_equal(sweep.points[:, :3], xyz[measured])


def test_limits_of_the_rig_apply() -> None:
    xyz = [(0, 0, 0), (0.05, 0, 0), (0.5, 0, 0), (120, 0, 0), (250, 0, 0)]
    assert len(decode(clouds.cloud(xyz), min_range=0.0).points) == 5
    assert len(decode(clouds.cloud(xyz)).points) == 3
    assert len(decode(clouds.cloud(xyz), min_range=1.0, max_range=200.0).points) == 1
    intake = MessageIntake(clouds.rig(clouds.lidar(min_range=1.0, max_range=200.0)))
    frame = clouds.one_frame(intake, "/points", clouds.cloud(xyz))
    assert len(frame.lidars["lidar"].points) == 1


def test_no_obstacle_at_the_bumper_after_deskewing_at_speed() -> None:
    # At 20 m/s, (0, 0, 0) with a time of 0.1 s would move 2 m forward of the sensor.
    xyz = np.vstack([np.zeros((50, 3)), [(20, 0, 0)] * 50])
    times = np.tile(np.linspace(0, 100 * MS, 50), 2)
    intake = MessageIntake(clouds.rig())
    clouds.drive(intake)
    frame = clouds.one_frame(intake, "/points", clouds.cloud(xyz, t=("u4", times)))
    points = frame.points_in_base()
    assert len(points) == 50
    expected = 20 + MOUNTING[0] + 20.0 * np.linspace(0, 0.1, 50)
    np.testing.assert_allclose(points[:, 0], expected, atol=2e-3)


@pytest.mark.parametrize("missing", [math.nan, 0.0, 1e12, -1.0, math.inf])
def test_points_without_time_do_not_disable_deskewing_of_the_others(missing: float) -> None:
    stamp_s = START_NS / 1e9
    times = stamp_s + np.linspace(0, 0.1, 60)
    times[::3] = missing
    intake = MessageIntake(clouds.rig())
    clouds.drive(intake)
    msg = clouds.cloud([(20, 0, 0)] * 60, timestamp=("f8", times))
    frame = clouds.one_frame(intake, "/points", msg)
    moved = 20 + MOUNTING[0] + 20.0 * np.linspace(0, 0.1, 60)
    moved[::3] = 20 + MOUNTING[0]
    np.testing.assert_allclose(frame.points_in_base()[:, 0], moved, atol=2e-3)
    assert intake.details("lidar")["information.points_without_time"] == "20"
    assert not intake.drop_counts("lidar")


def test_returns_of_a_cloud_in_base_link_are_removed_at_the_sensor() -> None:
    # A driver that transforms (0, 0, 0) to base_link puts the missing returns at the sensor.
    xyz = np.vstack([[MOUNTING] * 10, [(10, 1, 0.5)]])
    intake = MessageIntake(clouds.rig())
    frame = clouds.one_frame(intake, "/points", clouds.cloud(xyz, frame_id="base_link"))
    np.testing.assert_allclose(frame.points_in_base()[:, :3], [(10, 1, 0.5)], atol=1e-5)


# Ranges -----------------------------------------------------------------------------------------


def ultrasonic(**keys) -> Sensor:
    extrinsics = Extrinsics((2.0, 0.0, 0.5))
    return Sensor("front", Modality.ULTRASONIC, "/front", "front", extrinsics, **keys)


def grid_of(frame: SensorFrame) -> tuple[float, float]:
    """Free and occupied mass on the axis, summed up to 4 m before the sensor."""
    cells = GridGeometry.around_base(200, 0.1)
    evidence = UltrasonicModel().evidence(frame, cells)
    if evidence is None:
        return 0.0, 0.0
    free, occupied, _ = evidence
    return float(free.sum()), float(occupied.sum())


def read(intake: MessageIntake, msg) -> SensorFrame:
    return clouds.one_frame(intake, "/front", msg)


@pytest.mark.parametrize(
    ("msg", "reason", "free", "occupied"),
    [
        (clouds.ultrasonic_range(math.inf), None, True, False),
        (clouds.ultrasonic_range(4.0), None, True, False),
        (clouds.ultrasonic_range(-math.inf), None, False, True),
        (clouds.ultrasonic_range(math.nan), "no_range", False, False),
        (clouds.ultrasonic_range(0.0), "outside_limits", False, False),
        (clouds.ultrasonic_range(-1.0), "outside_limits", False, False),
        (clouds.ultrasonic_range(4.5), "outside_limits", False, False),
        (clouds.ultrasonic_range(-math.inf, 0.5, 0.5), None, False, True),
        (clouds.ultrasonic_range(math.inf, 0.5, 0.5), None, True, False),
        (clouds.ultrasonic_range(0.3, 0.5, 0.5), "fixed_distance_range", False, False),
        (clouds.ultrasonic_range(math.inf, 0.0, 0.0), "bad_limits", False, False),
    ],
)
def test_special_ranges_mark_and_clear_or_are_counted(msg, reason, free, occupied) -> None:
    intake = MessageIntake(clouds.rig(ultrasonic()))
    masses = grid_of(read(intake, msg))
    assert (masses[0] > 0, masses[1] > 0) == (free, occupied)
    assert intake.drop_counts("front") == ({} if reason is None else {reason: 1})


@pytest.mark.parametrize("sentinel", [0.0, -1.0, 5.0, 655.35])
def test_missing_echo_of_a_driver_can_be_declared(sentinel: float) -> None:
    intake = MessageIntake(clouds.rig(ultrasonic(no_echo_ranges=(sentinel,))))
    frame = read(intake, clouds.ultrasonic_range(sentinel))
    assert frame.ultrasonics["front"].range_m == math.inf
    assert grid_of(frame)[0] > 0
    assert not intake.drop_counts("front")
    undeclared = MessageIntake(clouds.rig(ultrasonic()))
    read(undeclared, clouds.ultrasonic_range(sentinel))
    assert undeclared.drop_counts("front") == {"outside_limits": 1}
    assert "no_echo_ranges" in clouds.notices(undeclared)


# Odometry ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"x": math.nan}, "bad_transform"),
        ({"x": math.inf}, "bad_transform"),
        ({"quaternion": (0.0, 0.0, 0.0, 0.0)}, "bad_transform"),
        ({"quaternion": (math.nan, 0.0, 0.0, 1.0)}, "bad_transform"),
        ({"quaternion": (1.0, 0.0, 0.0, 0.0)}, "upside_down"),
        ({"variance": -1.0}, "unknown_pose"),
        ({"variance": 1e6}, "unknown_pose"),
        ({"variance": 1e9}, "unknown_pose"),
    ],
)
def test_unknown_pose_of_the_odometry_is_counted(changes, reason) -> None:
    intake = MessageIntake(clouds.rig(odometry_topic="/odom"))
    intake.receive("/odom", clouds.odometry(START_NS, **changes), START_NS)
    assert intake.drops["/odom", reason] == 1
    frame = clouds.one_frame(intake, "/points", clouds.cloud([(5, 0, 0)]))
    assert frame.odom_from_base is None


@pytest.mark.parametrize("variance", [0.0, 1e-3, 5.0, math.nan])
def test_known_pose_of_the_odometry_is_used(variance: float) -> None:
    intake = MessageIntake(clouds.rig(odometry_topic="/odom"))
    intake.receive("/odom", clouds.odometry(START_NS, 3.0, variance=variance), START_NS)
    frame = clouds.one_frame(intake, "/points", clouds.cloud([(5, 0, 0)]))
    np.testing.assert_allclose(frame.odom_from_base, poses.from_xyz_rpy((3.0, 0, 0)))


def test_pose_that_contradicts_the_twist_is_not_used() -> None:
    intake = MessageIntake(clouds.rig(odometry_topic="/odom"))
    for i in range(60):
        stamp_ns = START_NS - 3000 * MS + i * 50 * MS
        intake.receive("/odom", clouds.odometry(stamp_ns, 0.0, speed=10.0), stamp_ns)
    frame = clouds.one_frame(intake, "/points", clouds.cloud([(5, 0, 0)]))
    assert frame.odom_from_base is None
    assert intake.drops["/odom", "frozen_pose"] == 59
    assert "twist is not 0" in clouds.notices(intake)


def test_standing_vehicle_keeps_its_odometry() -> None:
    intake = MessageIntake(clouds.rig(odometry_topic="/odom"))
    clouds.drive(intake, "/odom", speed=0.0)
    frame = clouds.one_frame(intake, "/points", clouds.cloud([(5, 0, 0)]))
    assert frame.odom_from_base is not None and not intake.drops
