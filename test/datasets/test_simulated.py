"""Simulated drives as datasets, from a line of text; shards of simulated drives, from disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from multimodal_perception.configuration import UserError
from multimodal_perception.datasets.dataset import DatasetError
from multimodal_perception.datasets.open_dataset import open_dataset
from multimodal_perception.datasets.shards import ShardDataset
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
    """One sensor of each modality, with low resolution."""
    pose = {"extrinsics": {"xyz": [0.5, 0.0, 1.5]}}
    lens = {"width": 64, "height": 48, "fx": 40, "fy": 40, "cx": 31.5, "cy": 23.5}
    image = {**pose, "intrinsics": lens}
    sensors = {
        "lidar": {"modality": "lidar", "simulation": {"model": "vlp16", "columns": 300}, **pose},
        "camera": {"modality": "camera", "camera_info_topic": "/camera/info", **image},
        "thermal": {"modality": "thermal", "camera_info_topic": "/thermal/info", **image},
        "sonar": {"modality": "ultrasonic", **pose},
    }
    named = {n: {"topic": f"/{n}", "frame_id": n, **s} for n, s in sensors.items()}
    return parse_rig({"name": "tiny", "sensors": named}, "test rig")


def test_a_line_defines_the_drive(rig: Rig) -> None:
    line = "simulated:parking_lot,seed=7,frames=3,night,fog=90,fault=outage:sonar"
    drive = open_dataset(line, rig=rig)
    assert isinstance(drive, Simulation)
    assert (drive.scenario.name, drive.seed, len(drive)) == ("parking_lot", 7, 3)
    assert drive.conditions.night and drive.conditions.fog_visibility == 90
    assert drive[0].missing == {"sonar"}
    assert drive.rig is rig
    again = open_dataset(line.removeprefix("simulated:"), "simulated", rig)
    assert np.array_equal(again[2].cameras["camera"].pixels, drive[2].cameras["camera"].pixels)
    default = open_dataset("simulated")
    assert isinstance(default, Simulation)
    assert {s.modality for s in default.rig.sensors.values()} == set(Modality)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("simulated:moon", "urban_street"),
        ("simulated:highway,seed=x", "not an integer"),
        ("simulated:highway,seed=-1", "seed: allowed"),
        ("simulated:highway,frames=0", "frames: allowed"),
        ("simulated:highway,snow", "allowed: night"),
        ("simulated:highway,,", "expected simulated:SCENARIO"),
        ("simulated:highway,rig=tank", "shipped"),
        ("simulated:highway,fault=outage", "expected TYPE"),
    ],
)
def test_an_invalid_line_is_rejected(line: str, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        open_dataset(line)


def test_shards_contain_the_simulated_frames(rig: Rig, tmp_path: Path) -> None:
    plan = SimulationPlan(load_scenario("urban_street"), rig, 2, 2, faults=())
    write_shards(plan, tmp_path)
    shards, drive = open_dataset(tmp_path), plan.simulation()
    assert isinstance(shards, ShardDataset)
    assert len(shards) == 2
    for index in range(2):
        shard, frame = shards[index], drive[index]
        assert shard.present == frame.present and shard.stamp_ns == frame.stamp_ns
        assert shard.ultrasonics == frame.ultrasonics
        for name, pose in frame.base_from_sensor.items():
            np.testing.assert_allclose(shard.base_from_sensor[name], pose, atol=1e-9)
        np.testing.assert_array_equal(shard.points_in_base(), frame.points_in_base())
        for read, expected in ((shard.cameras, frame.cameras), (shard.thermals, frame.thermals)):
            for name in expected:
                np.testing.assert_array_equal(read[name].pixels, expected[name].pixels)
        assert (
            shard.thermals["thermal"].counts_to_kelvin == frame.thermals["thermal"].counts_to_kelvin
        )
        assert shard.labels is not None and frame.labels is not None
        for part in ("boxes", "visibility", "num_points"):
            np.testing.assert_array_equal(getattr(shard.labels, part), getattr(frame.labels, part))
        read_truth, expected_truth = shards.truth(index), drive.truth(index)
        np.testing.assert_array_equal(
            read_truth.occupancy.occupied, expected_truth.occupancy.occupied
        )
        assert read_truth.occupancy.origin == expected_truth.occupancy.origin
        np.testing.assert_array_equal(read_truth.semantic_grid, expected_truth.semantic_grid)
        np.testing.assert_array_equal(
            read_truth.views["camera"].instances, expected_truth.views["camera"].instances
        )
        np.testing.assert_array_equal(
            read_truth.points["lidar"].semantics, expected_truth.points["lidar"].semantics
        )


def test_errors_name_the_broken_shard(rig: Rig, tmp_path: Path) -> None:
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
            ShardDataset(tmp_path)[0]
    path.write_bytes(b"no zip")
    with pytest.raises(DatasetError, match=r"000000\.npz"):
        ShardDataset(tmp_path).truth(0)
    path.unlink()
    with pytest.raises(DatasetError, match="no frame"):
        open_dataset(tmp_path)
