"""Occupancy metrics of cells with known results."""

from __future__ import annotations

import numpy as np
import pytest

from multimodal_perception.evaluation.occupancy import (
    FREE,
    OCCUPIED,
    UNDECIDED,
    LabelledFrameScore,
    OccupancyScore,
    cell_centres,
    evaluate_occupancy,
)
from multimodal_perception.frame import Boxes3D, LidarSweep, SensorFrame
from multimodal_perception.perception import OccupancyGrid
from multimodal_perception.pointcloud.ground_segmentation import Cloud, segment_ground


class ConstantMapper:
    """A mapper with the same grid for every frame."""

    def __init__(self, grid: OccupancyGrid) -> None:
        self.grid = grid
        self.updates = 0

    def update(self, frame: SensorFrame, cloud: Cloud) -> OccupancyGrid:
        self.updates += 1
        return self.grid


def grid_of(free: np.ndarray, occupied: np.ndarray, resolution: float = 1.0) -> OccupancyGrid:
    half = free.shape[0] * resolution / 2
    return OccupancyGrid(
        0,
        "base_link",
        resolution,
        (-half, -half),
        free.astype(np.float32),
        occupied.astype(np.float32),
    )


def test_metrics_of_known_cells() -> None:
    score = OccupancyScore()
    # Six observed free cells, predicted four times free, once occupied, once neither; four observed
    # occupied cells, predicted twice occupied, once free, once neither; one cell not observed; one
    # undecided.
    p = np.array([0.1, 0.1, 0.1, 0.1, 0.9, 0.5, 0.9, 0.9, 0.2, 0.5, 0.5, 0.0])
    truth = np.array([FREE] * 6 + [OCCUPIED] * 5 + [UNDECIDED])
    observed = np.ones(12, bool)
    observed[10] = False
    score.add(p, observed, truth)
    metrics = score.metrics()
    assert metrics["iou_occupied"] == pytest.approx(2 / (4 + 1))
    assert metrics["iou_free"] == pytest.approx(4 / (6 + 1))
    assert metrics["false_free"] == pytest.approx(1 / 4)
    assert metrics["false_occupied"] == pytest.approx(1 / 6)
    assert metrics["observed"] == pytest.approx(10 / 11)
    assert metrics["cells"] == 10
    squares = 4 * 0.01 + 0.81 + 0.25 + 2 * 0.01 + 0.64 + 0.25
    assert metrics["brier"] == pytest.approx(squares / 10)
    # Bins: 0.1 (0 of 4), 0.2 (1 of 1), 0.5 (1 of 2), 0.9 (2 of 3).
    gaps = abs(0.4 - 0) + abs(0.2 - 1) + abs(1.0 - 1) + abs(2.7 - 2)
    assert metrics["ece"] == pytest.approx(gaps / 10)


def test_counts_accumulate_over_frames_and_empty_score_gives_nan() -> None:
    empty = OccupancyScore().metrics()
    assert np.isnan(empty["iou_occupied"]) and np.isnan(empty["ece"]) and empty["cells"] == 0
    rng = np.random.default_rng(0)
    p, truth = rng.random(500), rng.integers(0, 3, 500)
    observed = rng.random(500) < 0.7
    complete, parts = OccupancyScore(), OccupancyScore()
    complete.add(p, observed, truth)
    for k in range(5):
        part = slice(100 * k, 100 * (k + 1))
        parts.add(p[part], observed[part], truth[part])
    assert complete.metrics() == pytest.approx(parts.metrics())


def test_calibrated_probabilities_have_no_calibration_error() -> None:
    rng = np.random.default_rng(1)
    p = rng.random(200_000)
    score = OccupancyScore()
    score.add(p, np.ones(len(p), bool), (rng.random(len(p)) < p).astype(int))
    assert score.metrics()["ece"] < 0.01
    assert score.metrics()["brier"] == pytest.approx(1 / 6, abs=0.005)
    # Confidences c are uniform from 0.5 to 1 and right with the probability c: the AUROC is 13 / 18.
    assert score.metrics()["error_auroc"] == pytest.approx(13 / 18, abs=0.01)


def cloud_of(points: np.ndarray) -> tuple[SensorFrame, Cloud]:
    values = np.zeros((len(points), 4), np.float32)
    values[:, :3] = points
    frame = SensorFrame(
        0, lidars={"l": LidarSweep("l", 0, "l", values)}, base_from_sensor={"l": np.eye(4)}
    )
    return frame, segment_ground(frame)


def test_footprints_and_ground_returns_of_a_real_frame() -> None:
    free, occupied = np.zeros((40, 40)), np.zeros((40, 40))
    grid = grid_of(free, occupied, 0.5)
    x, y = cell_centres(grid)
    # A 3 m square around a cell centre: 7 x 7 cells, of which 5 x 5 are completely inside.
    box = (np.abs(x - 5.25) <= 1.5) & (np.abs(y - 0.25) <= 1.5)
    inner = (np.abs(x - 5.25) <= 1.25) & (np.abs(y - 0.25) <= 1.25)
    free[inner & (y > 0.3)] = 0.9  # 10 cells
    occupied[box & (y < 0.2)] = 0.9  # 21 cells, 10 of them inner; the row between them is unknown
    ground_x, ground_y = (v.ravel() for v in np.meshgrid(np.arange(-9, 9, 0.5) + 0.25, [3.25]))
    occupied[26, 0:8] = 0.9  # y = 3.25, x from -9.75
    _, cloud = cloud_of(np.column_stack([ground_x, ground_y, np.zeros(ground_x.size)]))
    labels = Boxes3D(
        0,
        "base_link",
        np.array([[5.25, 0.25, 1, 3, 3, 2, 0.0]], np.float32),
        np.ones(1, np.float32),
        np.ones(1, np.int64),
    )
    score = LabelledFrameScore()
    score.add(grid_of(free, occupied, 0.5), labels, cloud)
    metrics = score.metrics()
    assert metrics["footprint_cells"] == 20 and metrics["footprint_rim_cells"] == 11
    assert metrics["footprint_free"] == pytest.approx(0.5)
    assert metrics["footprint_rim_free"] == 0
    assert metrics["ground_cells"] == 36
    # The ground returns start at x = -8.75, the wrong cells end at -6.25.
    assert metrics["ground_occupied"] == pytest.approx(6 / 36)


def test_evaluation_by_distance_and_group_uses_a_new_mapper_for_each_group() -> None:
    occupied = np.zeros((80, 80))
    x, _ = cell_centres(grid_of(occupied, occupied))
    wall = np.abs(x - 8) < 1.0
    grid = grid_of(np.where(wall, 0, 0.9), np.where(wall, 0.9, 0))
    mappers: list[ConstantMapper] = []

    def make() -> ConstantMapper:
        mappers.append(ConstantMapper(grid))
        return mappers[-1]

    frames = [SensorFrame(k) for k in range(4)]
    result = evaluate_occupancy(
        frames,
        make,
        # The wall is absent in the second half of the frames.
        truth=lambda f: lambda a, b: np.where((np.abs(a - 8) < 1.0) & (f.stamp_ns < 2), 1, 0),
        group=lambda f: "day" if f.stamp_ns < 2 else "night",
    )
    assert [m.updates for m in mappers] == [2, 2]
    assert result["frames"] == 4
    assert result["by_group"]["day"]["iou_occupied"] == 1
    assert result["by_group"]["night"]["iou_occupied"] == 0
    assert result["by_distance"]["0-5 m"]["iou_free"] == 1
    assert result["by_distance"]["5-10 m"]["false_occupied"] > 0
    assert result["iou_occupied"] == pytest.approx(0.5)
    assert result["latency_ms"]["p95"] > 0


def test_grid_that_is_not_aligned_with_base_link_is_refused() -> None:
    grid = grid_of(np.zeros((4, 4)), np.zeros((4, 4)))
    mapper = ConstantMapper(OccupancyGrid(0, "odom", 1.0, grid.origin, grid.free, grid.occupied))
    with pytest.raises(ValueError, match="expected a grid in base_link"):
        evaluate_occupancy([SensorFrame(0)], lambda: mapper)


def test_labelled_objects_of_kitti_are_not_predicted_free(shared_data) -> None:
    from multimodal_perception.datasets.kitti import KittiDataset
    from multimodal_perception.occupancy.evidential import EvidentialMapper

    real = evaluate_occupancy(KittiDataset(shared_data / "kitti" / "training"), EvidentialMapper)[
        "real"
    ]
    assert real["footprint_cells"] > 200
    assert real["footprint_free"] <= 0.02
    assert real["ground_occupied"] <= 0.01
