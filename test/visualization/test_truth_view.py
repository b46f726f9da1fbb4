"""Positions of ground truth in the image of a simulated frame."""

from __future__ import annotations

import numpy as np
import pytest

from multimodal_perception.datasets.synthetic import SyntheticDataset
from multimodal_perception.frame import Boxes3D
from multimodal_perception.perception import OccupancyGrid
from multimodal_perception.rig import parse_rig
from multimodal_perception.simulation.sensors.camera import ImageTruth
from multimodal_perception.simulation.simulation import Simulation
from multimodal_perception.simulation.truth import FrameTruth
from multimodal_perception.simulation.world.materials import SEMANTIC_NAMES
from multimodal_perception.visualization.palette import OCCUPIED
from multimodal_perception.visualization.truth_view import (
    HasGroundTruth,
    draw_truth,
    semantic_colours,
)

CAR, ROAD, SKY = (SEMANTIC_NAMES.index(n) for n in ("car", "road", "sky"))


def truth() -> FrameTruth:
    """A camera view with a car at the lower left, and grid cells of a car 20 m ahead, 10 m left."""
    semantics = np.full((60, 80), SKY, np.uint8)
    semantics[30:, :40] = CAR
    instances = np.where(semantics == CAR, 7, 0).astype(np.int32)
    view = ImageTruth(np.ones((60, 80), np.float32), semantics, instances)
    occupied = np.zeros((320, 320), np.float32)
    occupied[196:204, 236:244] = 1.0
    grid = OccupancyGrid(0, "base_link", 0.25, (-40.0, -40.0), np.zeros_like(occupied), occupied)
    cells = np.where(occupied > 0, CAR, ROAD).astype(np.uint8)
    boxes = Boxes3D.empty(0, "base_link")
    return FrameTruth(0, boxes, np.zeros(0, np.float32), grid, cells, np.eye(4), {"camera": view})


def test_classes_and_occupancy_are_drawn_at_their_positions() -> None:
    picture = draw_truth(truth())
    assert picture.shape[1] == 1640
    height = picture.shape[0]
    top_views = picture[height - 16 - 796 : height - 16]
    left, right = top_views[:, 16:812], top_views[:, 828:1624]
    scale = 796 / 80.0
    for panel, colour in ((left, OCCUPIED), (right, semantic_colours()[CAR])):
        rows, columns = np.nonzero((panel == np.asarray(colour)).all(axis=2))
        assert rows.mean() == pytest.approx(20 * scale, abs=2)
        assert columns.mean() == pytest.approx(30 * scale, abs=2)
    camera = picture[: height - 16 - 796 - 34]
    rows, columns = np.nonzero((camera == semantic_colours()[CAR]).all(axis=2))
    assert rows.min() > camera.shape[0] * 0.45 and columns.max() < 1640 * 0.52
    assert len(rows) > 0.2 * 1600 * 1200


def test_simulation_has_ground_truth_and_synthetic_dataset_does_not() -> None:
    entry = {
        "modality": "ultrasonic",
        "topic": "/u",
        "frame_id": "u",
        "extrinsics": {"xyz": [0, 0, 1]},
    }
    rig = parse_rig({"name": "r", "sensors": {"u": entry}}, "r")
    assert isinstance(Simulation("highway", rig, 0, 1), HasGroundTruth)
    assert not isinstance(SyntheticDataset(frames=1, rings=4, columns=16), HasGroundTruth)
