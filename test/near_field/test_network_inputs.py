"""Inputs of the near-field network: projected cells, ultrasonic evidence, missing sensors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from multimodal_perception.frame import CameraImage, SensorFrame, UltrasonicReading
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.near_field.network_inputs import (
    CELLS,
    HEIGHTS_M,
    OUTSIDE,
    RESOLUTION,
    NearFieldInputs,
    project_cells,
)
from multimodal_perception.sensor_calibration import BODY_FROM_OPTICAL

LENS = np.array([0.02, -0.005, 0.0, 0.0])
FISHEYE = CameraModel(
    384, 224, np.array([[116.0, 0, 191.5], [0, 116.0, 111.5], [0, 0, 1]]), "equidistant", LENS
)
MOUNT = poses.from_xyz_rpy((2.0, 0.0, 0.8), (0.0, 0.5, 0.0)) @ BODY_FROM_OPTICAL


def frame_of(step: int = 0, range_m: float | None = 2.0, **cameras: CameraModel) -> SensorFrame:
    stamp = step * 100_000_000
    readings = {}
    if range_m is not None:
        readings["sonar"] = UltrasonicReading("sonar", stamp, "sonar", range_m, 0.15, 5.0, 1.0)
    rng = np.random.default_rng(0)
    images = {
        name: CameraImage(name, stamp, name, rng.integers(0, 255, (c.height, c.width, 3), np.uint8))
        for name, c in cameras.items()
    }
    return SensorFrame(
        stamp,
        cameras=images,
        ultrasonics=readings,
        base_from_sensor={
            "sonar": poses.from_xyz_rpy((2.2, 0, 0.5)),
            **dict.fromkeys(cameras, MOUNT),
        },
        intrinsics=cameras,
        odom_from_base=poses.from_xyz_rpy((0.0, 0.0, 0.0)),
    )


def test_cells_are_projected_with_the_exact_camera_model() -> None:
    positions = project_cells(FISHEYE, MOUNT)
    assert positions.shape == (2, CELLS, CELLS, 2)
    for row, column in ((36, 66), (50, 60), (20, 70)):
        for k, height in enumerate(HEIGHTS_M):
            centre = [(column + 0.5 - CELLS / 2) * RESOLUTION, (row + 0.5 - CELLS / 2) * RESOLUTION]
            point = poses.transform_points(poses.inverse(MOUNT), np.array([[*centre, height]]))
            pixel, visible = FISHEYE.project(point)
            assert visible[0]
            back = (positions[k, row, column] + 1) * (384, 224) / 2 - 0.5
            assert back == pytest.approx(pixel[0], abs=1e-3)
    assert (positions[:, 36, 5] == OUTSIDE).all()  # behind the vehicle
    # A smaller image of the same camera has the same relative positions.
    small = project_cells(FISHEYE.scaled(0.5, 0.5), MOUNT)
    both = (np.abs(positions) <= 0.98).all(axis=-1) & (np.abs(small) <= 1).all(axis=-1)
    assert both.sum() > 1000 and np.abs(positions - small)[both].max() < 1e-4


def test_ultrasonic_evidence_is_accumulated() -> None:
    inputs = NearFieldInputs()
    for step in range(3):
        grid = inputs.ultrasonic_grid(frame_of(step))
    assert grid is not None and grid.shape == (5, CELLS, CELLS)
    column = int((2.2 + 2.0) / RESOLUTION + CELLS / 2)
    assert grid[1, 36, column] > 0.3 and grid[3, 36, column] > grid[1, 36, column]
    assert grid[0, 36, column - 5] > 0.2 and grid[0, 36, column + 3] == 0
    assert (grid[2:].sum(axis=0) <= 1 + 1e-6).all() and np.isfinite(grid).all()
    assert inputs.ultrasonic_grid(frame_of(3, range_m=None)) is None


def test_missing_sensors_are_masked_and_other_cameras_ignored() -> None:
    pinhole = CameraModel(384, 224, FISHEYE.matrix, "pinhole", np.zeros(0))
    inputs = NearFieldInputs()
    arrays = inputs.build(frame_of(range_m=None, front=FISHEYE, road=pinhole))
    assert arrays is not None and arrays["has_ultrasonic"].tolist() == [0.0]
    sample_uv = arrays["sample_uv"][0]
    assert (np.abs(sample_uv[0]) <= 1).all(axis=-1).any() and (sample_uv[1:] == OUTSIDE).all()
    assert arrays["images"].dtype == np.float32 and np.abs(arrays["images"][0, 0]).max() <= 1.0
    only = inputs.build(frame_of(1))
    assert only is not None and only["has_ultrasonic"].tolist() == [1.0]
    assert (only["sample_uv"] == OUTSIDE).all()
    assert inputs.build(SensorFrame(5)) is None
    five = {f"eye_{k}": FISHEYE for k in range(5)}
    assert inputs.select_fisheyes(frame_of(2, **five)) == [f"eye_{k}" for k in range(4)]
    assert inputs.counts["too_many_fisheyes"] == 1
    uncalibrated = replace(frame_of(3, front=FISHEYE), base_from_sensor={})
    assert inputs.select_fisheyes(uncalibrated) == [] and inputs.counts["no_extrinsics"] == 1


def test_cameras_of_other_models_are_counted_once_and_uncalibrated_ones_in_every_frame() -> None:
    pinhole = CameraModel(384, 224, FISHEYE.matrix, "pinhole", np.zeros(0))
    inputs = NearFieldInputs()
    for step in range(3):
        frame = frame_of(step, front=FISHEYE, road=pinhole, side=FISHEYE)
        frame = replace(frame, intrinsics={"front": FISHEYE, "road": pinhole})
        assert inputs.select_fisheyes(frame) == ["front"]
    assert inputs.counts == {"road.not_fisheye": 1, "no_intrinsics": 3}
