"""Odometry on /tf and on a topic with wrong stamps, gaps and two publishers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from multimodal_perception.frame import SensorFrame
from multimodal_perception.perception import Level
from multimodal_perception.synchronization.intake import MessageIntake
from test.messages import clouds
from test.messages.clouds import MS, SECOND, START_NS

DAY_S = 86_400.0
SPEED = 5.0
TOPICS = ("/tf", "/odom")


class Drive:
    """A vehicle at constant speed with a LiDAR at 10 Hz and odometry at 20 Hz."""

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.intake = MessageIntake(
            clouds.rig(odometry_topic="/odom" if topic == "/odom" else None)
        )
        self.now_ns = START_NS

    def message(self, stamp_ns: int, x: float) -> Any:
        if self.topic == "/odom":
            return clouds.odometry(stamp_ns, x, speed=SPEED)
        return clouds.transform("odom", "base_link", (x, 0, 0), stamp_ns=stamp_ns)

    def send_odometry(self, error_s: float = 0.0, x: float | None = None) -> None:
        seconds = (self.now_ns - START_NS) / SECOND
        stamp_ns = self.now_ns + round(error_s * SECOND)
        x = SPEED * seconds if x is None else x
        self.intake.receive(self.topic, self.message(stamp_ns, x), self.now_ns + MS)

    def run(self, seconds: float, odometry: Callable[[], None] | None) -> list[SensorFrame]:
        frames = []
        for at in range(round(seconds * 20)):
            if odometry is not None:
                odometry()
            if at % 2 == 0:
                frames += self.intake.receive(
                    "/points", clouds.cloud([(9, 1, 0.5)], self.now_ns), self.now_ns + 2 * MS
                )
            self.now_ns += 50 * MS
        return frames

    @property
    def level(self) -> tuple[Level, str]:
        status = self.intake.odometry_status(self.now_ns)
        return status.level, status.message


def has_odometry(frames: list[SensorFrame]) -> list[bool]:
    return [f.odom_from_base is not None for f in frames]


@pytest.mark.parametrize("topic", TOPICS)
@pytest.mark.parametrize("error_s", [DAY_S, 15.0, 3.0, 0.5, -DAY_S, -30.0])
def test_one_wrong_stamp_is_refused_and_does_not_remove_poses(topic: str, error_s: float) -> None:
    drive = Drive(topic)
    drive.run(1.0, drive.send_odometry)
    drive.send_odometry(error_s)
    frames = drive.run(3.0, drive.send_odometry)
    assert len(frames) == 30 and all(has_odometry(frames))
    reason = "stamp_ahead" if error_s > 0 else "stamp_behind"
    assert drive.intake.drops[topic, reason] == 1
    assert drive.level == (Level.OK, "ok")


@pytest.mark.parametrize("topic", TOPICS)
@pytest.mark.parametrize("error_s", [DAY_S, 15.0])
def test_wrong_stamp_before_the_first_sensor_message_is_removed(topic: str, error_s: float) -> None:
    drive = Drive(topic)
    drive.send_odometry(error_s)
    frames = drive.run(3.0, drive.send_odometry)
    assert all(has_odometry(frames[1:]))
    assert drive.level == (Level.OK, "ok")


@pytest.mark.parametrize("topic", TOPICS)
@pytest.mark.parametrize("error_s", [None, DAY_S, -DAY_S, -5.0, 2.0])
def test_lost_odometry_is_a_warning_and_recovers(topic: str, error_s: float | None) -> None:
    """error_s: the stamps are wrong from then on; None: the publisher stops."""
    drive = Drive(topic)
    drive.run(1.0, drive.send_odometry)
    assert drive.level == (Level.OK, "ok")
    wrong = None if error_s is None else lambda: drive.send_odometry(error_s)
    frames = drive.run(3.0, wrong)
    assert not any(has_odometry(frames[4:]))
    level, text = drive.level
    assert level is Level.WARN and "odometry lost" in text
    frames = drive.run(1.0, drive.send_odometry)
    assert all(has_odometry(frames[1:]))
    assert drive.level == (Level.OK, "ok")
    poses = [f.odom_from_base[0, 3] for f in frames[1:]]  # type: ignore[index]
    np.testing.assert_allclose(np.diff(poses), SPEED * 0.1, atol=1e-6)


def test_lost_odometry_is_a_warning_without_frames() -> None:
    drive = Drive("/tf")
    drive.run(1.0, drive.send_odometry)
    drive.now_ns += 5 * SECOND
    assert "odometry lost: the newest pose is 5.0" in drive.level[1]


@pytest.mark.parametrize("topic", TOPICS)
def test_no_odometry_is_a_warning_only_if_the_rig_has_a_topic(topic: str) -> None:
    drive = Drive(topic)
    drive.run(1.0, None)
    assert drive.level[0] is (Level.WARN if topic == "/odom" else Level.OK)


@pytest.mark.parametrize("topic", TOPICS)
@pytest.mark.parametrize("distance", [1.0, 30.0])
def test_two_publishers_of_the_pose_are_detected(topic: str, distance: float) -> None:
    drive = Drive(topic)

    def alternate() -> None:
        drive.send_odometry()
        drive.send_odometry(0.005, SPEED * (drive.now_ns - START_NS) / SECOND + distance)

    drive.run(1.0, drive.send_odometry)
    drive.run(1.0, alternate)
    assert drive.level[0] is Level.WARN and "two nodes publish" in drive.level[1]
    assert drive.intake.drops[topic, "alternating_poses"] >= 5
    assert not any(has_odometry(drive.run(1.0, alternate)))
    drive.run(1.5, drive.send_odometry)
    assert all(has_odometry(drive.run(1.0, drive.send_odometry)))
    assert drive.level == (Level.OK, "ok")


@pytest.mark.parametrize("speed", [0.0, 0.3, 30.0, -3.0])
def test_motion_and_noise_are_not_two_publishers(speed: float) -> None:
    drive = Drive("/tf")
    rng = np.random.default_rng(0)

    def noisy() -> None:
        x = speed * (drive.now_ns - START_NS) / SECOND + rng.normal(0, 0.02)
        drive.send_odometry(0.0, x)

    assert all(has_odometry(drive.run(10.0, noisy)))
    assert ("/tf", "alternating_poses") not in drive.intake.drops


def test_second_parent_does_not_replace_the_odometry() -> None:
    drive = Drive("/tf")

    def both() -> None:
        drive.send_odometry()
        other = clouds.transform("map", "base_link", (100, 0, 0), stamp_ns=drive.now_ns)
        drive.intake.receive("/tf", other, drive.now_ns + MS)

    frames = drive.run(2.0, both)
    assert all(has_odometry(frames))
    assert drive.intake.drops["/tf", "parent_changed"] == 40
    assert "two publishers" in clouds.notices(drive.intake)


@pytest.mark.parametrize("stamp", [(-5, 0), (0, 0), (2_000_000_000, 0), (1, 4_000_000_000)])
def test_static_transforms_do_not_depend_on_their_stamps(stamp: tuple[int, int]) -> None:
    intake = MessageIntake(clouds.rig(clouds.lidar(extrinsics=None)))
    msg = clouds.transform("base_link", "lidar_top", (1, 0, 2))
    msg.transforms[0].header.stamp = clouds.TYPES.new(
        "builtin_interfaces/msg/Time", sec=stamp[0], nanosec=stamp[1]
    )
    intake.receive("/tf_static", msg, START_NS)
    frame = clouds.one_frame(intake, "/points", clouds.cloud([(9, 1, 0.5)], START_NS))
    assert "lidar" in frame.lidars
    assert not [d for d in intake.drops if d[0] == "/tf_static"]


@pytest.mark.parametrize("base_s", [0.0, -1e6])
def test_stamps_are_compared_with_the_clock_of_the_sensors(base_s: float) -> None:
    """A bag is played without /clock: all stamps differ from the time of arrival."""
    drive = Drive("/tf")
    frames = []
    for at in range(60):
        now_ns = START_NS + at * 50 * MS
        stamp_ns = now_ns + round(base_s * SECOND)
        msg = clouds.transform("odom", "base_link", (at, 0, 0), stamp_ns=stamp_ns)
        drive.intake.receive("/tf", msg, now_ns)
        cloud = clouds.cloud([(9, 1, 0.5)], stamp_ns)
        frames += drive.intake.receive("/points", cloud, now_ns + MS)
    assert len(frames) >= 28 and all(has_odometry(frames[1:]))
    assert not drive.intake.drops
