"""Sensors that measure at the rates of the rig, each with its own stamps."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from multimodal_perception.datasets.bag import BagDataset
from multimodal_perception.datasets.shards import ShardDataset
from multimodal_perception.datasets.simulated import open_simulation
from multimodal_perception.datasets.simulation_writer import (
    SimulationPlan,
    describe_plan,
    write_shards,
    write_simulation,
)
from multimodal_perception.frame import SensorFrame
from multimodal_perception.geometry import poses
from multimodal_perception.rig import Rig
from multimodal_perception.simulation.measurement_times import MeasurementTimes
from multimodal_perception.simulation.rigs import open_rig
from multimodal_perception.simulation.simulation import Simulation
from test.simulation.rigs import small_rig, street

RATES_HZ = {"lidar": 10.0, "fisheye": 30.0, "thermal": 5.0, "sonar": 20.0}
FRAMES = 5
MS = 1_000_000


def rig_of(rates_hz: dict[str, float]) -> Rig:
    """The sensors of small_rig without noise, with these rates."""
    sensors = small_rig(noise=False).sensors
    chosen = {n: replace(sensors[n], rate_hz=rate) for n, rate in rates_hz.items()}
    return replace(small_rig(), sensors=chosen)


RIG = rig_of(RATES_HZ)
PLAN = SimulationPlan(street(), RIG, 3, FRAMES, profile="basic", sensor_rates=True)


@pytest.fixture(scope="module")
def drive() -> Simulation:
    return PLAN.simulation()


@pytest.fixture(scope="module")
def frames(drive: Simulation) -> list[SensorFrame]:
    return list(drive)


def stamps(frames: list[SensorFrame], sensor: str) -> list[int]:
    return [f.readings[sensor].stamp_ns for f in frames if sensor in f.readings]


def test_each_sensor_has_the_measurement_nearest_to_the_frame(frames: list[SensorFrame]) -> None:
    assert [f.stamp_ns for f in frames] == stamps(frames, "lidar")
    assert set(np.diff(stamps(frames, "lidar"))) == {100 * MS}
    has_thermal = ["thermal" in f.thermals for f in frames]
    assert all(a != b for a, b in itertools.pairwise(has_thermal))
    assert set(np.diff(stamps(frames, "thermal"))) == {200 * MS}
    for frame in frames:
        assert frame.missing <= {"thermal"}
        for name, rate_hz in RATES_HZ.items():
            if name in frame.readings:
                limit_ns = min(0.5e9 / rate_hz, 50 * MS)
                assert abs(frame.readings[name].stamp_ns - frame.stamp_ns) <= limit_ns + 1
    for name in ("fisheye", "sonar"):  # they are not triggered by the LiDAR
        since = np.array(stamps(frames, name)) - stamps(frames, name)[0]
        periods = since * RATES_HZ[name] / 1e9
        np.testing.assert_allclose(periods, periods.round(), atol=1e-6)
        assert any(f.readings[name].stamp_ns != f.stamp_ns for f in frames)


def test_motion_between_a_measurement_and_the_frame_is_that_of_the_vehicle(
    drive: Simulation, frames: list[SensorFrame]
) -> None:
    for frame in frames:
        for name in ("fisheye", "sonar"):
            stamp_ns = frame.readings[name].stamp_ns
            expected = poses.inverse(drive.odometry(frame.stamp_ns)) @ drive.odometry(stamp_ns)
            motion = frame.reference_from_base[name]
            np.testing.assert_allclose(motion, expected, atol=1e-9)
            assert motion[0, 3] * (stamp_ns - frame.stamp_ns) > 0  # the vehicle drives forward
        assert "lidar" not in frame.reference_from_base


def test_an_image_shows_the_scene_at_its_own_time(
    drive: Simulation, frames: list[SensorFrame]
) -> None:
    index = next(k for k, f in enumerate(frames) if k and "thermal" in f.thermals)
    image = frames[index].thermals["thermal"]
    seconds = (image.stamp_ns - drive.stamp_ns(0)) / 1e9
    # A drive whose second frame is at the time of the image.
    rig = rig_of({"lidar": 1.0 / seconds, "thermal": 10.0})
    other = Simulation(street(), rig, 3, 2)
    assert abs(other.stamp_ns(1) - image.stamp_ns) <= 1
    pixels = other[1].thermals["thermal"].pixels
    assert (pixels == image.pixels).mean() > 0.999
    at_frame = Simulation(street(), RIG, 3, FRAMES)[index].thermals["thermal"].pixels
    assert (at_frame == image.pixels).mean() < 0.99


def test_without_the_option_all_sensors_measure_at_the_time_of_the_frame(
    frames: list[SensorFrame],
) -> None:
    frame = Simulation(street(), RIG, 3, FRAMES)[1]
    assert {r.stamp_ns for r in frame.readings.values()} == {frame.stamp_ns}
    assert not frame.missing and not frame.reference_from_base
    # The first LiDAR defines the frames, so that its sweeps are the same.
    assert np.array_equal(frame.lidars["lidar"].points, frames[1].lidars["lidar"].points)
    assert "sensor_rates" not in describe_plan(replace(PLAN, sensor_rates=False))


def test_a_measurement_is_in_one_frame_only() -> None:
    for rate_hz in (3.0, 7.3, 9.0, 10.0, 11.0, 25.0):
        rig = rig_of({"lidar": 10.0, "thermal": rate_hz})
        times = MeasurementTimes.of_rig(rig, 1, 10.0)
        found = [times.measurement("thermal", k * 100 * MS) for k in range(200)]
        numbers = [m[0] for m in found if m is not None]
        assert numbers == sorted(set(numbers))
        expected = min(rate_hz, 10.0) * 20.0
        assert abs(len(numbers) - expected) <= 1, rate_hz
        if rate_hz < 10.0:
            assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def test_bags_and_shards_have_the_stamps_of_each_sensor(
    frames: list[SensorFrame], tmp_path: Path
) -> None:
    assert write_simulation(PLAN, tmp_path / "bag") == FRAMES
    assert write_shards(PLAN, tmp_path / "shards") == FRAMES
    bag, shards = list(BagDataset(tmp_path / "bag")), list(ShardDataset(tmp_path / "shards"))
    for name in RATES_HZ:
        assert stamps(bag, name) == stamps(frames, name) == stamps(shards, name)
    for frame, stored in zip(frames, shards, strict=True):
        assert stored.missing == frame.missing
        assert stored.reference_from_base.keys() == frame.reference_from_base.keys()
        for name, motion in frame.reference_from_base.items():
            np.testing.assert_allclose(stored.reference_from_base[name], motion)
    for frame, read in zip(frames, bag, strict=True):
        assert read.stamp_ns == frame.stamp_ns
        for name, motion in frame.reference_from_base.items():
            np.testing.assert_allclose(read.reference_from_base[name], motion, atol=1e-3)


def test_random_rigs_with_random_rates_differ_from_others_in_the_rates_only() -> None:
    lidar_rates = set()
    for seed in range(12):
        rig, same = open_rig(f"random_rates:{seed}"), open_rig(f"random:{seed}")
        assert rig.sensors.keys() == same.sensors.keys()
        for name, sensor in rig.sensors.items():
            assert replace(sensor, rate_hz=same.sensors[name].rate_hz) == same.sensors[name]
            if sensor.modality.value == "lidar":
                lidar_rates.add(sensor.rate_hz)
                assert same.sensors[name].rate_hz == 10.0
    assert len(lidar_rates) == 3
    drive = open_simulation("simulated:highway,frames=1,rig=random_rates:3,sensor_rates")
    assert drive.rig == open_rig("random_rates:3") and drive._times is not None
