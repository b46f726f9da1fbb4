"""Evaluation of occupancy on simulated drives: truth of cells, and all subsets on a short drive."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from multimodal_perception.cli.drive_options import parse_seeds
from multimodal_perception.cli.main import main
from multimodal_perception.configuration import UserError
from multimodal_perception.evaluation.occupancy import FREE, OCCUPIED, UNDECIDED
from multimodal_perception.evaluation.occupancy_drives import (
    FAULTS,
    FULL,
    KERB,
    SUBSETS,
    DriveScores,
    cell_truth,
    score_drive,
    simulate,
)
from multimodal_perception.frame import Boxes3D
from multimodal_perception.occupancy.raycast import RaycastConfig
from multimodal_perception.perception import OccupancyGrid
from multimodal_perception.pipeline_builder import PipelineConfig, build_pipeline
from multimodal_perception.rig import load_rig, resolve_rig_path
from multimodal_perception.simulation.truth import FrameTruth


def test_cell_is_free_if_all_parts_are_free_and_occupied_if_any_part_is() -> None:
    free, occupied = np.ones((8, 8), np.float32), np.zeros((8, 8), np.float32)
    semantic = np.full((8, 8), 10, np.uint8)
    free[1, 3], occupied[1, 3] = 0, 1  # in cell (0, 1) of 0.2 m
    free[2, 0] = 0  # not observed, in cell (1, 0)
    semantic[5, 5] = KERB  # in cell (2, 2)
    grid = OccupancyGrid(0, "base_link", 0.1, (-0.4, -0.4), free, occupied)
    no_boxes = Boxes3D.empty(0, "base_link")
    truth = FrameTruth(0, no_boxes, np.zeros(0, np.float32), grid, semantic, np.eye(4))
    cell_centres = np.array([-0.3, -0.1, 0.1, 0.3])
    x, y = (v.ravel() for v in np.meshgrid(cell_centres, cell_centres))
    state = cell_truth(truth)(x, y).reshape(4, 4)
    expected = np.full((4, 4), FREE)
    expected[0, 1], expected[1, 0], expected[2, 2] = OCCUPIED, UNDECIDED, UNDECIDED
    assert np.array_equal(state, expected)
    assert cell_truth(truth)(np.array([9.0]), np.array([0.0])).tolist() == [UNDECIDED]


def test_all_subsets_are_evaluated_and_faults_increase_the_conflict() -> None:
    rig = load_rig(resolve_rig_path("simulation"))
    lidar = replace(rig.sensors["lidar"], simulation={"model": "vlp16", "columns": 900})
    small = ("camera_rear", "front_left_centre", "front_right_centre")
    rig = replace(rig, sensors={"lidar": lidar, **{n: rig.sensors[n] for n in small}})
    scores = DriveScores()
    drive = simulate(10001, (), rig, 3, 10.0)
    config = PipelineConfig(raycast=RaycastConfig(half_extent=12.0))
    factory = partial(build_pipeline, config)
    done = list(score_drive(scores, drive, "day", factory, True, 10.0))
    assert len(done) == 3
    metrics = scores.metrics()
    assert set(metrics["by_subset"]) == {*SUBSETS, *FAULTS}
    assert metrics["iou_free"] > 0.8 and metrics["false_free"] < 0.1
    assert metrics["by_condition"]["day"]["cells"] == metrics["cells"] > 1000
    by_subset = metrics["by_subset"]
    assert by_subset["ultrasonic"]["unknown"] > by_subset["lidar"]["unknown"] > metrics["unknown"]
    for fault in FAULTS:  # the cells of one sensor are a small part of all cells
        assert by_subset[fault]["conflict"] > 1.02 * metrics["conflict"], fault
    # The echo of the stuck sensor lies where all other sensors observe free space.
    contradiction = {n: by_subset[n]["contradiction"] for n in ("ultrasonic stuck", FULL)}
    assert contradiction["ultrasonic stuck"] > 0.5, contradiction
    assert not contradiction[FULL] > 0.25, contradiction
    assert by_subset[FULL]["ece"] == metrics["ece"]


def test_seed_ranges_are_parsed_and_invalid_arguments_are_reported(tmp_path: Path) -> None:
    assert list(parse_seeds("10000..10002")) == [10000, 10001, 10002]
    assert list(parse_seeds("7")) == [7]
    for text in ("5..3", "-4..2", "a..b", "1..9999999999"):
        with pytest.raises(UserError, match="--seeds"):
            parse_seeds(text)
    assert main(["evaluate", "occupancy", "--frames", "0"]) == 2
    (tmp_path / "none.yaml").write_text("occupancy: none\n")
    assert main(["evaluate", "occupancy", "--pipeline", str(tmp_path / "none.yaml")]) == 2
