"""Shards for the learned near field: labels by hand, a short drive, the same twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from multimodal_perception.frame import Boxes3D, OwnVehicle
from multimodal_perception.perception import OccupancyGrid
from multimodal_perception.rig import load_rig, rig_path
from multimodal_perception.simulation.truth import FrameTruth
from multimodal_perception.simulation.world.materials import SEMANTIC_NAMES
from multimodal_perception.training.near_field import dataset as near_field_data
from multimodal_perception.training.near_field.dataset import (
    CELLS,
    CLASSES,
    FINER,
    RESOLUTION,
    UNSEEN,
    cell_labels,
    drives,
    hard_cells,
    record,
)


def truth_of(semantic: np.ndarray, free: np.ndarray, occupied: np.ndarray) -> FrameTruth:
    size = CELLS * FINER
    half = CELLS * RESOLUTION / 2
    grid = OccupancyGrid(0, "base_link", RESOLUTION / FINER, (-half, -half), free, occupied)
    assert semantic.shape == (size, size)
    visibility = np.zeros(0, np.float32)
    return FrameTruth(0, Boxes3D.empty(0, "base_link"), visibility, grid, semantic, np.eye(4))


def test_one_thin_post_makes_its_cell_a_pole_and_nobody_looking_is_told() -> None:
    size = CELLS * FINER
    semantic = np.full((size, size), SEMANTIC_NAMES.index("road"), np.uint8)
    free, occupied = np.ones((size, size), np.float32), np.zeros((size, size), np.float32)
    semantic[4, 9] = SEMANTIC_NAMES.index("pole")  # one of the 16 looks into cell (1, 2)
    free[4, 9], occupied[4, 9] = 0, 1
    semantic[8:12, 8:12] = SEMANTIC_NAMES.index("kerb")  # cell (2, 2), and a car beside it
    semantic[10, 10] = SEMANTIC_NAMES.index("car")
    free[20:24, 20:24] = 0  # cell (5, 5)
    labels = cell_labels(truth_of(semantic, free, occupied), OwnVehicle(-2.0, 2.0, -1.0, 1.0))
    assert CLASSES[labels[1, 2]] == "pole" and CLASSES[labels[2, 2]] == "vehicle"
    assert labels[5, 5] == UNSEEN and CLASSES[labels[0, 0]] == "free"
    middle = CELLS // 2
    assert labels[middle, middle + 9] == UNSEEN  # 1.9 m ahead: the vehicle itself
    assert labels[middle, middle + 10] != UNSEEN and labels[middle + 5, middle] != UNSEEN


def test_a_drive_is_recorded_once_and_whole(tmp_path: Path, monkeypatch: object) -> None:
    monkeypatch.setattr(near_field_data, "LENGTH", 4)  # type: ignore[attr-defined]
    drive, path = drives([2])[0], tmp_path / "shard.npz"
    rig = load_rig(rig_path("near_field"))
    record(drive, rig, path)
    with np.load(path) as shard:
        assert shard["images"].shape == (1, 4, 112, 192, 3)
        assert shard["ranges"].shape == (4, 12) and shard["odom_from_base"].shape == (4, 4, 4)
        labels = shard["labels"][0]
        assert shard["frames"].tolist() == [3]
    assert {CLASSES[k] for k in np.unique(labels) if k != UNSEEN} >= {"free", "wall"}
    written = path.stat().st_mtime_ns
    record(drive, rig, path)
    assert path.stat().st_mtime_ns == written
    assert list(tmp_path.iterdir()) == [path]


def test_hard_cells_are_those_of_low_thin_and_clear_things_alone() -> None:
    size = CELLS * FINER
    semantic = np.full((size, size), SEMANTIC_NAMES.index("road"), np.uint8)
    nothing = np.zeros((size, size), np.float32)
    semantic[4, 9] = SEMANTIC_NAMES.index("pole")
    semantic[8:12, 8:12] = SEMANTIC_NAMES.index("kerb")
    semantic[40:60, 40:60] = SEMANTIC_NAMES.index("car")
    semantic[80:90, 40:60] = SEMANTIC_NAMES.index("rack")
    hard = hard_cells(truth_of(semantic, nothing, nothing))
    assert np.argwhere(hard).tolist() == [[1, 2], [2, 2]]


def test_seeds_give_every_scenario_in_its_share() -> None:
    chosen = drives(range(20))
    assert [d.name for d in drives([7, 3])] == [chosen[7].name, chosen[3].name]
    assert sum(d.conditions == ("night",) for d in chosen) == 6
    assert sum(d.conditions == ("unlit",) for d in chosen) == 8
    assert sum(d.scenario == "warehouse" for d in chosen) == 6
