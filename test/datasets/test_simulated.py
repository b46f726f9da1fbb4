"""Simulated drives and shards as datasets: from a line of text, and from disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from multimodal_perception.configuration import UserError
from multimodal_perception.datasets.dataset import DatasetError
from multimodal_perception.datasets.open_dataset import open_dataset
from multimodal_perception.datasets.shards import ShardFolder
from multimodal_perception.datasets.simulation_writer import (
    SimulationPlan,
    read_shard,
    shard_path,
    write_shards,
)
from multimodal_perception.frame import Modality
from multimodal_perception.rig import Rig, parse_rig
from multimodal_perception.simulation.simulation import Simulation
from multimodal_perception.simulation.world.scenarios import load_scenario


@pytest.fixture(scope="module")
def rig() -> Rig:
    """One sensor of each kind, coarse."""
    at = {"extrinsics": {"xyz": [0.5, 0.0, 1.5]}}
    lens = {"width": 64, "height": 48, "fx": 40, "fy": 40, "cx": 31.5, "cy": 23.5}
    image = {**at, "intrinsics": lens}
    sensors = {
        "lidar": {"modality": "lidar", "simulation": {"model": "vlp16", "columns": 300}, **at},
        "eye": {"modality": "camera", "camera_info_topic": "/eye/info", **image},
        "heat": {"modality": "thermal", "camera_info_topic": "/heat/info", **image},
        "sonar": {"modality": "ultrasonic", **at},
    }
    named = {n: {"topic": f"/{n}", "frame_id": n, **s} for n, s in sensors.items()}
    return parse_rig({"name": "tiny", "sensors": named}, "test rig")


def test_a_line_says_the_drive(rig: Rig) -> None:
    line = "simulated:parking_lot,seed=7,frames=3,night,fog=90,fault=dead:sonar"
    drive = open_dataset(line, rig=rig)
    assert isinstance(drive, Simulation)
    assert (drive.scenario.name, drive.seed, len(drive)) == ("parking_lot", 7, 3)
    assert drive.conditions.night and drive.conditions.fog_visibility == 90
    assert drive[0].missing == {"sonar"}
    assert drive.rig is rig
    again = open_dataset(line.removeprefix("simulated:"), "simulated", rig)
    assert np.array_equal(again[2].cameras["eye"].pixels, drive[2].cameras["eye"].pixels)
    default = open_dataset("simulated")
    assert isinstance(default, Simulation)
    assert {s.modality for s in default.rig.sensors.values()} == set(Modality)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("simulated:moon", "urban_street"),
        ("simulated:highway,seed=x", "whole number"),
        ("simulated:highway,seed=-1", "seed: allowed"),
        ("simulated:highway,frames=0", "frames: allowed"),
        ("simulated:highway,snow", "allowed: night"),
        ("simulated:highway,,", "expected simulated:SCENARIO"),
        ("simulated:highway,rig=tank", "shipped"),
        ("simulated:highway,fault=dead", "expected KIND"),
    ],
)
def test_a_line_that_says_nothing(line: str, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        open_dataset(line)


def test_shards_read_back_as_the_frames(rig: Rig, tmp_path: Path) -> None:
    plan = SimulationPlan(load_scenario("urban_street"), rig, 2, 2, faults=())
    write_shards(plan, tmp_path)
    shards, drive = open_dataset(tmp_path), plan.simulation()
    assert isinstance(shards, ShardFolder)
    assert len(shards) == 2
    for index in range(2):
        back, frame = shards[index], drive[index]
        assert back.present == frame.present and back.stamp_ns == frame.stamp_ns
        assert back.ultrasonics == frame.ultrasonics
        for name, pose in frame.base_from_sensor.items():
            np.testing.assert_allclose(back.base_from_sensor[name], pose, atol=1e-9)
        np.testing.assert_array_equal(back.points_in_base(), frame.points_in_base())
        for ours, theirs in ((back.cameras, frame.cameras), (back.thermals, frame.thermals)):
            for name in theirs:
                np.testing.assert_array_equal(ours[name].pixels, theirs[name].pixels)
        assert back.thermals["heat"].kelvin == frame.thermals["heat"].kelvin
        assert back.labels is not None and frame.labels is not None
        for part in ("boxes", "visibility", "num_points"):
            np.testing.assert_array_equal(getattr(back.labels, part), getattr(frame.labels, part))
        told, true = shards.truth(index), drive.truth(index)
        np.testing.assert_array_equal(told.occupancy.occupied, true.occupancy.occupied)
        assert told.occupancy.origin == true.occupancy.origin
        np.testing.assert_array_equal(told.semantic_grid, true.semantic_grid)
        np.testing.assert_array_equal(told.views["eye"].instances, true.views["eye"].instances)
        np.testing.assert_array_equal(
            told.points["lidar"].semantics, true.points["lidar"].semantics
        )


def test_broken_shards_are_named(rig: Rig, tmp_path: Path) -> None:
    write_shards(SimulationPlan(load_scenario("highway"), rig, 2, 1), tmp_path)
    path = shard_path(tmp_path, 0)
    arrays = read_shard(path)
    for broken in (
        {k: v for k, v in arrays.items() if k != "stamp_ns"},
        {**arrays, "lidar.points": arrays["lidar.points"][:, :2]},
        {**arrays, "ultrasonics": np.zeros(5)},
        {**arrays, "truth.velocities": np.zeros((99, 2))},
    ):
        np.savez(path, allow_pickle=False, **broken)
        with pytest.raises(DatasetError, match=r"000000\.npz"):
            ShardFolder(tmp_path)[0]
    path.write_bytes(b"no zip")
    with pytest.raises(DatasetError, match=r"000000\.npz"):
        ShardFolder(tmp_path).truth(0)
    path.unlink()
    with pytest.raises(DatasetError, match="no frame"):
        open_dataset(tmp_path)
