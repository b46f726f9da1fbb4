"""Occupancy on simulated drives: truth of cells by hand, and every set of sensors on a short one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from multimodal_perception.cli.drive_options import parse_seeds
from multimodal_perception.cli.main import main
from multimodal_perception.configuration import UserError
from multimodal_perception.evaluation.occupancy import FREE, OCCUPIED, UNDECIDED
from multimodal_perception.evaluation.occupancy_drives import (
    FULL,
    KERB,
    LIARS,
    SUBSETS,
    DriveScores,
    cell_truth,
    score_drive,
    simulate,
)
from multimodal_perception.frame import Boxes3D
from multimodal_perception.occupancy.raycast import RaycastConfig
from multimodal_perception.perception import OccupancyGrid
from multimodal_perception.pipeline import PipelineConfig, build_pipeline
from multimodal_perception.rig import load_rig, rig_path
from multimodal_perception.simulation.truth import FrameTruth


def test_a_cell_is_free_when_all_of_it_is_and_occupied_when_any_is() -> None:
    free, occupied = np.ones((8, 8), np.float32), np.zeros((8, 8), np.float32)
    semantic = np.full((8, 8), 10, np.uint8)
    free[1, 3], occupied[1, 3] = 0, 1  # in cell (0, 1) of 0.2 m
    free[2, 0] = 0  # unseen, in cell (1, 0)
    semantic[5, 5] = KERB  # in cell (2, 2)
    grid = OccupancyGrid(0, "base_link", 0.1, (-0.4, -0.4), free, occupied)
    nobody = Boxes3D.empty(0, "base_link")
    truth = FrameTruth(0, nobody, np.zeros(0, np.float32), grid, semantic, np.eye(4))
    middles = np.array([-0.3, -0.1, 0.1, 0.3])
    x, y = (v.ravel() for v in np.meshgrid(middles, middles))
    found = cell_truth(truth)(x, y).reshape(4, 4)
    expected = np.full((4, 4), FREE)
    expected[0, 1], expected[1, 0], expected[2, 2] = OCCUPIED, UNDECIDED, UNDECIDED
    assert np.array_equal(found, expected)
    assert cell_truth(truth)(np.array([9.0]), np.array([0.0])).tolist() == [UNDECIDED]


def test_every_set_of_sensors_is_scored_and_a_liar_shows_as_conflict() -> None:
    rig = load_rig(rig_path("simulation"))
    lidar = replace(rig.sensors["lidar"], simulation={"model": "vlp16", "columns": 900})
    small = ("camera_rear", "front_left_centre", "front_right_centre")
    rig = replace(rig, sensors={"lidar": lidar, **{n: rig.sensors[n] for n in small}})
    scores = DriveScores()
    drive = simulate(10001, (), rig, 3, 10.0)
    config = PipelineConfig(raycast=RaycastConfig(extent=12.0))
    done = list(score_drive(scores, drive, "day", lambda: build_pipeline(config), True, 10.0))
    assert len(done) == 3
    figures = scores.figures()
    assert set(figures["by_subset"]) == {*SUBSETS, *LIARS}
    assert figures["iou_free"] > 0.8 and figures["false_free"] < 0.1
    assert figures["by_condition"]["day"]["cells"] == figures["cells"] > 1000
    by_subset = figures["by_subset"]
    assert by_subset["ultrasonic"]["unknown"] > by_subset["lidar"]["unknown"] > figures["unknown"]
    for liar in LIARS:  # one sensor's arc is a small part of all cells
        assert by_subset[liar]["conflict"] > 1.02 * figures["conflict"], liar
    # Which sensor lies shows where it says something: free to all others, conflict in the grid.
    told = {name: by_subset[name]["contradiction"] for name in ("ultrasonic stuck", FULL)}
    assert told["ultrasonic stuck"] > 0.5 and not told[FULL] > 0.25, told
    assert by_subset[FULL]["ece"] == figures["ece"]


def test_seeds_are_a_range_and_mistakes_are_named(tmp_path: Path) -> None:
    assert list(parse_seeds("10000..10002")) == [10000, 10001, 10002]
    assert list(parse_seeds("7")) == [7]
    for wrong in ("5..3", "-4..2", "a..b", "1..9999999999"):
        with pytest.raises(UserError, match="--seeds"):
            parse_seeds(wrong)
    assert main(["evaluate", "occupancy", "--frames", "0"]) == 2
    (tmp_path / "none.yaml").write_text("occupancy: none\n")
    assert main(["evaluate", "occupancy", "--pipeline", str(tmp_path / "none.yaml")]) == 2
