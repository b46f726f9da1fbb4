"""Near-field shards: cell labels, recording, and the mixture of scenarios."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from multimodal_perception.frame import Boxes3D, VehicleFootprint
from multimodal_perception.perception import OccupancyGrid
from multimodal_perception.rig import load_rig, resolve_rig_path
from multimodal_perception.simulation.truth import FrameTruth
from multimodal_perception.simulation.world.materials import SEMANTIC_NAMES
from multimodal_perception.training.near_field import dataset as near_field_data
from multimodal_perception.training.near_field.dataset import (
    CELLS,
    CLASSES,
    FINE_FACTOR,
    RESOLUTION,
    UNLABELLED,
    cell_labels,
    hard_cells,
    plan_drives,
    simulate_drive,
)


def make_truth(semantic: np.ndarray, free: np.ndarray, occupied: np.ndarray) -> FrameTruth:
    size = CELLS * FINE_FACTOR
    half = CELLS * RESOLUTION / 2
    grid = OccupancyGrid(0, "base_link", RESOLUTION / FINE_FACTOR, (-half, -half), free, occupied)
    assert semantic.shape == (size, size)
    visibility = np.zeros(0, np.float32)
    return FrameTruth(0, Boxes3D.empty(0, "base_link"), visibility, grid, semantic, np.eye(4))


def test_thin_pole_labels_its_cell_and_unobserved_cells_are_unlabelled() -> None:
    size = CELLS * FINE_FACTOR
    semantic = np.full((size, size), SEMANTIC_NAMES.index("road"), np.uint8)
    free, occupied = np.ones((size, size), np.float32), np.zeros((size, size), np.float32)
    semantic[4, 9] = SEMANTIC_NAMES.index("pole")  # one of the 16 ground-truth cells of cell (1, 2)
    free[4, 9], occupied[4, 9] = 0, 1
    semantic[8:12, 8:12] = SEMANTIC_NAMES.index("kerb")  # cell (2, 2), which also contains a car
    semantic[10, 10] = SEMANTIC_NAMES.index("car")
    free[20:24, 20:24] = 0  # cell (5, 5)
    labels = cell_labels(
        make_truth(semantic, free, occupied), VehicleFootprint(-2.0, 2.0, -1.0, 1.0)
    )
    assert CLASSES[labels[1, 2]] == "pole" and CLASSES[labels[2, 2]] == "vehicle"
    assert labels[5, 5] == UNLABELLED and CLASSES[labels[0, 0]] == "free"
    centre = CELLS // 2
    assert labels[centre, centre + 9] == UNLABELLED  # 1.9 m ahead: inside the ego vehicle
    assert labels[centre, centre + 10] != UNLABELLED and labels[centre + 5, centre] != UNLABELLED


def test_drive_is_recorded_completely_and_only_once(tmp_path: Path, monkeypatch: object) -> None:
    monkeypatch.setattr(near_field_data, "DRIVE_STEPS", 4)  # type: ignore[attr-defined]
    drive, path = plan_drives([2])[0], tmp_path / "shard.npz"
    rig = load_rig(resolve_rig_path("near_field"))
    simulate_drive(drive, rig, path)
    with np.load(path) as shard:
        assert shard["images"].shape == (1, 4, 112, 192, 3)
        assert shard["ranges"].shape == (4, 12) and shard["odom_from_base"].shape == (4, 4, 4)
        labels = shard["labels"][0]
        assert shard["frames"].tolist() == [3]
    assert {CLASSES[k] for k in np.unique(labels) if k != UNLABELLED} >= {"free", "wall"}
    written = path.stat().st_mtime_ns
    simulate_drive(drive, rig, path)
    assert path.stat().st_mtime_ns == written
    assert list(tmp_path.iterdir()) == [path]


def test_hard_cells_contain_only_hard_classes() -> None:
    size = CELLS * FINE_FACTOR
    semantic = np.full((size, size), SEMANTIC_NAMES.index("road"), np.uint8)
    empty = np.zeros((size, size), np.float32)
    semantic[4, 9] = SEMANTIC_NAMES.index("pole")
    semantic[8:12, 8:12] = SEMANTIC_NAMES.index("kerb")
    semantic[40:60, 40:60] = SEMANTIC_NAMES.index("car")
    semantic[80:90, 40:60] = SEMANTIC_NAMES.index("rack")
    hard = hard_cells(make_truth(semantic, empty, empty))
    assert np.argwhere(hard).tolist() == [[1, 2], [2, 2]]


def test_seeds_cover_the_scenarios_in_their_proportions() -> None:
    planned = plan_drives(range(20))
    assert [d.name for d in plan_drives([7, 3])] == [planned[7].name, planned[3].name]
    assert sum(d.conditions == ("night",) for d in planned) == 6
    assert sum(d.conditions == ("unlit",) for d in planned) == 8
    assert sum(d.scenario == "warehouse" for d in planned) == 6
