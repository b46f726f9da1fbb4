"""Rotation and translation from blocks with known displacements, and from a street of boards."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from multimodal_perception.calibration_monitor.lidar_rendering import fill_columns, ring_distance
from multimodal_perception.calibration_monitor.monitor import estimate_drift
from multimodal_perception.calibration_monitor.pose_error import (
    BlockShifts,
    block_inverse_distances,
    block_shifts,
    estimate_pose_error,
)
from multimodal_perception.calibration_monitor.sensor_pairs import (
    measure_rotation_error,
    rotated_pose,
)
from multimodal_perception.frame import SensorFrame
from multimodal_perception.geometry import poses
from multimodal_perception.perception import Level
from test.calibration_monitor.painted_street import CAMERA, MODEL, POSE, street

ROTATION = np.radians([0.6, -0.4, 0.3])


def exact_blocks(
    seed: int, rotation: np.ndarray, translation: np.ndarray, noise: float = 0.0
) -> BlockShifts:
    """Blocks at random pixels and distances whose displacements follow from a pose error."""
    rng = np.random.default_rng(seed)
    centres = rng.uniform((20, 20), (380, 240), (60, 2))
    rays = MODEL.unproject(centres)
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    distance = rng.uniform(4.0, 40.0, 60)
    points = distance[:, None] * rays
    moved = points + np.cross(rotation, points) + translation
    shifts = MODEL.project(moved)[0] - centres + rng.normal(0, noise, (60, 2))
    by_rotation = np.stack(
        [
            (MODEL.project(rays + np.cross(1e-4 * axis, rays))[0] - centres) / 1e-4
            for axis in np.eye(3)
        ],
        -1,
    )
    return block_shifts(MODEL, centres, shifts, np.ones(60), 1.0 / distance, by_rotation)


def test_rotation_and_translation_of_exact_blocks_are_recovered() -> None:
    translation = np.array([0.08, -0.05, 0.06])
    found = estimate_pose_error([exact_blocks(k, ROTATION, translation) for k in range(9)])
    assert found is not None
    assert np.degrees(found.rotation) == pytest.approx(np.degrees(ROTATION), abs=0.03)
    assert found.translation == pytest.approx(translation, abs=0.005)
    assert found.translation_significance > 3.0 and found.distance == pytest.approx(0.11, abs=0.01)


def test_rotation_alone_is_no_translation() -> None:
    blocks = [exact_blocks(k, ROTATION, np.zeros(3), noise=1.0) for k in range(8)]
    found = estimate_pose_error(blocks)
    assert found is not None and found.translation_significance < 3.0
    assert found.distance < 0.04


def test_blocks_at_wrong_places_have_little_influence() -> None:
    blocks = [exact_blocks(k, np.zeros(3), np.array([0.1, 0.0, 0.0])) for k in range(9)]
    for part in blocks:
        part.shifts[::5] += 15.0
    found = estimate_pose_error(blocks)
    assert found is not None and found.translation == pytest.approx([0.1, 0.0, 0.0], abs=0.015)


def test_few_frames_give_no_estimate() -> None:
    assert estimate_pose_error([exact_blocks(0, ROTATION, np.zeros(3))] * 7) is None
    assert estimate_pose_error([]) is None


def test_edge_of_a_block_has_the_distance_of_the_nearer_surface() -> None:
    distance = np.full((64, 64), 20.0, np.float32)
    distance[:, 32:] = 5.0
    energy = np.zeros((64, 64), np.float32)
    energy[:, 30:34] = 1.0
    valid = np.ones((64, 64), np.bool_)
    centre = np.array([[31.5, 31.5]])
    assert block_inverse_distances(centre, 64, distance, valid, energy) == pytest.approx([0.2])
    assert block_inverse_distances(centre, 64, distance, ~valid, energy) == pytest.approx([0.0])


def translated(translation: tuple[float, float, float]) -> list[SensorFrame]:
    """Nine streets with wrong extrinsics of the camera."""
    frames = []
    for seed in range(9):
        frame = street(seed)
        pose = rotated_pose(POSE, np.zeros(3), -np.array(translation))
        frames.append(replace(frame, base_from_sensor={**frame.base_from_sensor, "camera": pose}))
    return frames


def test_translation_of_a_camera_is_reported_and_its_correction_improves_the_pose() -> None:
    frames = translated((0.3, 0.0, 0.0))
    measured = [measure_rotation_error(f, CAMERA) for f in frames]
    drift = estimate_drift([m for m in measured if m is not None])
    assert drift is not None and drift.pose_error is not None and drift.is_moved
    assert drift.level is not Level.OK and "moved by" in drift.message
    # Overlapping boards make blocks with several distances, which reduces the estimate.
    x, y, z = drift.pose_error.translation
    assert 0.12 < x < 0.33 and abs(y) < 0.06 and abs(z) < 0.06
    pose = frames[0].base_from_sensor["camera"]
    corrected = rotated_pose(pose, drift.rotation, drift.pose_error.translation)
    before, after = (poses.inverse(POSE) @ p for p in (pose, corrected))
    assert np.linalg.norm(after[:3, 3]) < 0.7 * np.linalg.norm(before[:3, 3])


def test_camera_at_its_place_is_not_reported() -> None:
    measured = [measure_rotation_error(f, CAMERA) for f in translated((0.0, 0.0, 0.0))]
    drift = estimate_drift([m for m in measured if m is not None])
    assert drift is not None and drift.level is Level.OK and not drift.is_moved


def test_gaps_between_the_rings_of_one_surface_are_interpolated() -> None:
    rows = np.array([10, 20, 34])
    pixels = np.column_stack([np.full(3, 8.0), rows])
    depth, values, valid = fill_columns(
        pixels, np.array([9.0, 8.0, 4.0]), np.array([0.0, 1.0, 5.0]), 16, 48
    )
    # On one surface the inverse distance is linear between two points.
    assert depth[15, 8] == pytest.approx(1 / (0.5 / 9 + 0.5 / 8)) and values[15, 8] == 0.5
    # Two surfaces: each pixel has the value of the nearer ring.
    assert depth[25, 8] == 8.0 and depth[30, 8] == 4.0
    assert depth[2, 8] == 9.0 and valid[2, 8] and not valid[1, 8]
    assert depth[42, 8] == 4.0 and valid[42, 8] and not valid[43, 8]
    assert valid[15, 8 - 3] and not valid[15, 8 - 4]


def test_distance_of_the_rings_is_measured_between_points_of_one_column() -> None:
    x = np.arange(0.0, 60.0, 0.5)
    rings = np.concatenate([np.column_stack([x, np.full(len(x), y)]) for y in (10, 19, 28, 37)])
    assert ring_distance(rings) == pytest.approx(9.0)
    assert ring_distance(rings[:0]) == 0.0
