"""LiDARs and ultrasonic sensors that repeat an old measurement with new stamps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from multimodal_perception.frame import LidarSweep, Modality, SensorFrame, UltrasonicReading
from multimodal_perception.frozen_sensors import FrozenSensorMonitor, FrozenSensorsConfig
from multimodal_perception.geometry import poses
from multimodal_perception.perception import Level, SensorHealth
from multimodal_perception.rig import Sensor
from multimodal_perception.synchronization.sensor_health import frozen_health

TENTH = 100_000_000


def sweep(seed: int = 0, intensities: bool = True, noise: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    points = rng.uniform(-40, 40, (5000, 4)).astype(np.float32)
    points[:, 3] = rng.integers(0, 255, 5000) if intensities else 0.0
    points[:, :3] += np.random.default_rng(seed + 1).normal(0, noise, (5000, 3))
    return points


def frame(
    step: int, points: np.ndarray | None = None, echo: float = 1.25, speed: float = 0.5
) -> SensorFrame:
    """Frame of a step of 0.1 s with a speed in metres per step."""
    stamp_ns = step * TENTH
    lidars = {} if points is None else {"lidar": LidarSweep("lidar", stamp_ns, "", points)}
    sonar = UltrasonicReading("sonar", stamp_ns, "", echo, 0.2, 4.0, 1.0)
    return SensorFrame(
        stamp_ns,
        lidars=lidars,
        ultrasonics={"sonar": sonar},
        odom_from_base=poses.from_xyz_rpy((speed * step, 0.0, 0.0)),
        expected=frozenset({"lidar", "sonar"}),
    )


@pytest.mark.parametrize("intensities", [True, False])
def test_repeated_sweep_is_frozen_and_dropped_until_it_changes(intensities: bool) -> None:
    monitor, points = FrozenSensorMonitor(), sweep(0, intensities)
    for step in range(8):
        given = frame(step, points)
        frozen = monitor.check(given)
        used = monitor.drop_frozen(given, frozen)
        if step < 4:
            assert "lidar" not in frozen and used is given
        else:
            assert frozen["lidar"] == pytest.approx(0.1 * step)
            assert used.missing == used.dropped == {"lidar"} and "sonar" in used.ultrasonics
    assert monitor.counts == {"lidar.frozen": 4}
    assert "lidar" not in monitor.check(frame(8, sweep(7, intensities)))


def test_repeated_sweep_of_a_standing_vehicle_is_reported_and_used() -> None:
    monitor = FrozenSensorMonitor()
    for step in range(10):
        given = frame(step, sweep(), speed=0.0)
        frozen = monitor.check(given)
        assert monitor.drop_frozen(given, frozen) is given
    assert "lidar" in frozen


def test_repeated_sweep_is_frozen_although_deskewing_moves_its_points() -> None:
    monitor, points = FrozenSensorMonitor(), sweep()
    for step in range(6):
        moved = points + np.array([0.03 * step, 0.01 * step, 0.0, 0.0], np.float32)
        frozen = monitor.check(frame(step, moved))
    assert "lidar" in frozen


def test_standing_lidar_with_noise_is_not_frozen() -> None:
    monitor, rng = FrozenSensorMonitor(), np.random.default_rng(0)
    for step in range(10):
        points = sweep(intensities=False) + rng.normal(0, 0.02, (5000, 4)).astype(np.float32)
        assert "lidar" not in monitor.check(frame(step, points.astype(np.float32), speed=0.0))


def test_sweep_that_is_in_several_frames_or_empty_is_not_frozen() -> None:
    monitor = FrozenSensorMonitor()
    slow = frame(0, sweep())
    for step in range(10):
        assert "lidar" not in monitor.check(replace(slow, stamp_ns=step * TENTH))
        assert "lidar" not in monitor.check(frame(step, np.zeros((0, 4), np.float32)))


def test_stamps_that_jump_back_restart_the_check() -> None:
    monitor, points = FrozenSensorMonitor(), sweep()
    for step in range(6):
        assert ("lidar" in monitor.check(frame(step, points))) == (step >= 4)
    assert "lidar" not in monitor.check(frame(0, points))


@pytest.mark.parametrize(
    ("echo", "speed", "frozen"),
    [(1.25, 0.5, True), (1.25, 0.0, False), (np.inf, 0.5, False), (4.0, 0.5, False)],
    ids=["moving", "standing", "no_echo", "maximum_range"],
)
def test_echo_that_does_not_change_while_driving_is_reported_within_2_s(
    echo: float, speed: float, frozen: bool
) -> None:
    monitor = FrozenSensorMonitor()
    for step in range(20):
        given = frame(step, None, echo, speed)
        found = monitor.check(given)
        assert monitor.drop_frozen(given, found) is given
    assert ("sonar" in found) == frozen


def test_changing_echo_is_not_reported() -> None:
    monitor = FrozenSensorMonitor()
    assert not any(monitor.check(frame(k, None, 1.25 + 0.01 * (k % 2))) for k in range(30))


def test_both_checks_can_be_switched_off() -> None:
    monitor = FrozenSensorMonitor(FrozenSensorsConfig(0.0, 0.0))
    points = sweep()
    assert not any(monitor.check(frame(k, points)) for k in range(30))


def test_health_of_a_frozen_sensor() -> None:
    lidar = Sensor("lidar", Modality.LIDAR, "/points", "lidar")
    health = frozen_health(SensorHealth("lidar", Level.WARN, "rate is 5 Hz"), lidar, 1.25)
    assert health.level is Level.ERROR
    assert health.message == "frozen: the data has not changed for 1.2 s; rate is 5 Hz"
    sonar = Sensor("sonar", Modality.ULTRASONIC, "/sonar", "sonar")
    assert frozen_health(SensorHealth("sonar", Level.OK, "ok"), sonar, 1.0).level is Level.WARN
