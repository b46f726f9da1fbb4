"""What the near field's network sees: cells where the camera puts them, echoes, what is missing."""

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
    NOWHERE,
    RESOLUTION,
    NearFieldInputs,
    look_up,
)
from multimodal_perception.rig import OPTICAL

LENS = np.array([0.02, -0.005, 0.0, 0.0])
FISHEYE = CameraModel(
    384, 224, np.array([[116.0, 0, 191.5], [0, 116.0, 111.5], [0, 0, 1]]), "equidistant", LENS
)
MOUNT = poses.from_xyz_rpy((2.0, 0.0, 0.8), (0.0, 0.5, 0.0)) @ OPTICAL


def frame_of(step: int = 0, away: float | None = 2.0, **cameras: CameraModel) -> SensorFrame:
    stamp = step * 100_000_000
    readings = {}
    if away is not None:
        readings["sonar"] = UltrasonicReading("sonar", stamp, "sonar", away, 0.15, 5.0, 1.0)
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


def test_cells_lie_where_the_exact_camera_model_projects_them() -> None:
    places = look_up(FISHEYE, MOUNT)
    assert places.shape == (2, CELLS, CELLS, 2)
    for row, column in ((36, 66), (50, 60), (20, 70)):
        for k, height in enumerate(HEIGHTS_M):
            middle = [(column + 0.5 - CELLS / 2) * RESOLUTION, (row + 0.5 - CELLS / 2) * RESOLUTION]
            point = poses.transform_points(poses.inverse(MOUNT), np.array([[*middle, height]]))
            pixel, seen = FISHEYE.project(point)
            assert seen[0]
            back = (places[k, row, column] + 1) * (384, 224) / 2 - 0.5
            assert back == pytest.approx(pixel[0], abs=1e-3)
    assert (places[:, 36, 5] == NOWHERE).all()  # behind the vehicle
    # A smaller image of the same camera is looked up at the same place.
    small = look_up(FISHEYE.scaled(0.5, 0.5), MOUNT)
    both = (np.abs(places) <= 0.98).all(axis=-1) & (np.abs(small) <= 1).all(axis=-1)
    assert both.sum() > 1000 and np.abs(places - small)[both].max() < 1e-4


def test_echoes_are_drawn_from_above_and_remembered() -> None:
    inputs = NearFieldInputs()
    for step in range(3):
        sound = inputs.sound(frame_of(step))
    assert sound is not None and sound.shape == (5, CELLS, CELLS)
    column = int((2.2 + 2.0) / RESOLUTION + CELLS / 2)
    assert sound[1, 36, column] > 0.3 and sound[3, 36, column] > sound[1, 36, column]
    assert sound[0, 36, column - 5] > 0.2 and sound[0, 36, column + 3] == 0
    assert (sound[2:].sum(axis=0) <= 1 + 1e-6).all() and np.isfinite(sound).all()
    assert inputs.sound(frame_of(3, away=None)) is None


def test_missing_sensors_are_masks_and_other_cameras_are_left_alone() -> None:
    pinhole = CameraModel(384, 224, FISHEYE.matrix, "pinhole", np.zeros(0))
    inputs = NearFieldInputs()
    arrays = inputs.arrays(frame_of(away=None, front=FISHEYE, road=pinhole))
    assert arrays is not None and arrays["sounding"].tolist() == [0.0]
    lookup = arrays["lookup"][0]
    assert (np.abs(lookup[0]) <= 1).all(axis=-1).any() and (lookup[1:] == NOWHERE).all()
    assert arrays["images"].dtype == np.float32 and np.abs(arrays["images"][0, 0]).max() <= 1.0
    only = inputs.arrays(frame_of(1))
    assert only is not None and only["sounding"].tolist() == [1.0]
    assert (only["lookup"] == NOWHERE).all()
    assert inputs.arrays(SensorFrame(5)) is None
    five = {f"eye_{k}": FISHEYE for k in range(5)}
    assert inputs.fisheyes(frame_of(2, **five)) == [f"eye_{k}" for k in range(4)]
    assert inputs.counts["too_many_fisheyes"] == 1
    lost = replace(frame_of(3, front=FISHEYE), base_from_sensor={})
    assert inputs.fisheyes(lost) == [] and inputs.counts["no_extrinsics"] == 1
