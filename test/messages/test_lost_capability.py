"""Losses of a capability (deskewing, transforms, a required sensor) that are counted and reported."""

from __future__ import annotations

import numpy as np
import pytest

from multimodal_perception.frame import Modality
from multimodal_perception.perception import Level, SensorHealth
from multimodal_perception.rig import Sensor
from multimodal_perception.sensor_calibration import Extrinsics
from multimodal_perception.synchronization.intake import MessageIntake
from multimodal_perception.synchronization.sensor_health import sensor_health
from test.messages import clouds
from test.messages.clouds import MS, START_NS

PERIOD_NS = 100 * MS


def health(intake: MessageIntake, name: str, now_ns: int, last=None) -> SensorHealth:
    sensor, statistics = intake.rig.sensors[name], intake.statistics()[name]
    streak = intake.assembler.unusable_streaks[name]
    drops = intake.drop_counts(name)
    return sensor_health(sensor, statistics, drops, last or {}, now_ns, unusable_streak=streak)


def send(intake: MessageIntake, count: int, start_ns: int = START_NS, **keys) -> list:
    frames = []
    for i in range(count):
        stamp_ns = start_ns + i * PERIOD_NS
        msg = clouds.cloud([(5, 0, 0)] * 3, stamp_ns, **keys)
        frames += intake.receive("/points", msg, stamp_ns + 5 * MS)
    return frames + intake.flush(start_ns + count * PERIOD_NS)


@pytest.mark.parametrize("required", [True, False])
def test_sensor_without_transform_is_an_error_and_dropped_from_the_frame(required: bool) -> None:
    intake = MessageIntake(clouds.rig(clouds.lidar(extrinsics=None, required=required)))
    frames = send(intake, 5)
    assert len(frames) == 5
    assert all(f.dropped == {"lidar"} and f.missing == {"lidar"} for f in frames)
    status = health(intake, "lidar", START_NS + 5 * PERIOD_NS)
    assert status.level is (Level.ERROR if required else Level.WARN)
    assert "no usable reading" in status.message and "no_transform" in status.message
    # The transform arrives late.
    clouds.static(intake, "base_link", "lidar_top", clouds.MOUNTING)
    start_ns = START_NS + 5 * PERIOD_NS
    frames = send(intake, 5, start_ns)
    assert all(not f.dropped and f.present == {"lidar"} for f in frames)
    last = intake.drop_counts("lidar")
    assert health(intake, "lidar", start_ns + 5 * PERIOD_NS, last).level is Level.OK


def test_sensor_that_becomes_undecodable_is_an_error() -> None:
    other = Sensor("other", Modality.LIDAR, "/other", "other", Extrinsics((0, 0, 1)))
    intake = MessageIntake(clouds.rig(clouds.lidar(), other))
    frames = []
    for i in range(12):
        stamp_ns = START_NS + i * PERIOD_NS
        msg = clouds.cloud([(5, 0, 0)] * 3, stamp_ns)
        if i >= 4:
            msg.fields = msg.fields[:2]
        frames += intake.receive("/points", msg, stamp_ns + 5 * MS)
        msg = clouds.cloud([(5, 0, 0)] * 3, stamp_ns, "other")
        frames += intake.receive("/other", msg, stamp_ns + 6 * MS)
    frames += intake.flush(START_NS + 13 * PERIOD_NS)
    assert not any(f.dropped for f in frames[:4])
    assert all(f.dropped == {"lidar"} for f in frames[5:])
    status = health(intake, "lidar", START_NS + 12 * PERIOD_NS)
    assert status.level is Level.ERROR and "missing_xyz" in status.message


def test_silent_sensor_is_missing_but_not_dropped() -> None:
    other = Sensor("other", Modality.LIDAR, "/other", "other", Extrinsics((0, 0, 1)))
    frames = send(MessageIntake(clouds.rig(clouds.lidar(), other)), 20)
    assert frames and all(f.missing == {"other"} and not f.dropped for f in frames)


def test_camera_without_camera_info_is_dropped_from_the_frame() -> None:
    camera = Sensor(
        "camera", Modality.CAMERA, "/image", "camera", Extrinsics((0, 0, 1)), camera_info_topic="/i"
    )
    intake = MessageIntake(clouds.rig(clouds.lidar(), camera))
    from multimodal_perception.frame import CameraImage
    from multimodal_perception.messages import encoders

    pixels = np.zeros((4, 4, 3), np.uint8)
    image = CameraImage("camera", START_NS, "camera", pixels)
    intake.receive("/image", encoders.image_to_message(clouds.TYPES, image), START_NS)
    frame = clouds.one_frame(intake, "/points", clouds.cloud([(5, 0, 0)]))
    assert frame.dropped == {"camera"} and frame.present == {"lidar"}
    assert intake.drop_counts("camera") == {"no_camera_info": 1}


def test_odometry_that_does_not_cover_the_sweep_is_counted() -> None:
    # The only pose is just recent enough for the stamp, but not for the end of the sweep.
    intake = MessageIntake(clouds.rig())
    old = START_NS - 190 * MS
    intake.receive("/tf", clouds.transform("odom", "base_link", (1, 0, 0), stamp_ns=old), old)
    msg = clouds.cloud([(5, 0, 0)] * 3, t=("u4", [0, 50 * MS, 100 * MS]))
    frame = clouds.one_frame(intake, "/points", msg)
    assert frame.present == {"lidar"}
    assert intake.drop_counts("lidar") == {"not_deskewed": 1}
    assert "not deskewed" in clouds.notices(intake)


@pytest.mark.parametrize(
    ("code", "unit"), [("f4", 1e3), ("f4", 1e6), ("u4", 1e6), ("f8", 1e6), ("f8", 1e3)]
)
def test_sweep_is_deskewed_with_times_in_any_unit(code: str, unit: float) -> None:
    intake = MessageIntake(clouds.rig())
    clouds.drive(intake)
    seconds = np.linspace(0, 0.1, 50)
    shift = 0.0 if code != "f8" else START_NS / 1e9
    msg = clouds.cloud([(20, 0, 0)] * 50, time=(code, (shift + seconds) * unit))
    frame = clouds.one_frame(intake, "/points", msg)
    expected = 20 + clouds.MOUNTING[0] + 20 * seconds
    np.testing.assert_allclose(frame.points_in_base()[:, 0], expected, atol=0.03)
    assert not intake.drop_counts("lidar")
    assert "taken as" in clouds.notices(intake)


def test_transform_with_two_parents_is_counted() -> None:
    intake = MessageIntake(clouds.rig())
    for i, parent in enumerate(("odom", "odom_combined") * 3):
        stamp_ns = START_NS + i * MS
        intake.receive("/tf", clouds.transform(parent, "base_link", stamp_ns=stamp_ns), stamp_ns)
    # The first parent is kept.
    assert intake.drops["/tf", "parent_changed"] == 3
    assert intake.transforms.parent("base_link") == "odom"
    assert "two publishers" in clouds.notices(intake)
