"""Motions fitted to blocks: closed-form displacements, outliers, too little to go by."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from multimodal_perception.calibration_monitor.drift_estimation import (
    fit_motion,
    rotation_grid,
    rotation_moves,
    similarity_grid,
    similarity_moves,
)
from multimodal_perception.calibration_monitor.edge_matching import BlockScores
from multimodal_perception.geometry.cameras import CameraModel

REACH = 20
CENTRE = np.array([200.0, 130.0])


def blocks_that_moved(displacements: np.ndarray, centres: np.ndarray) -> BlockScores:
    """Correlation as of a blob of 2 pixels about each displacement."""
    axis = np.arange(-REACH, REACH + 1)
    x = axis[None, None] - displacements[:, 0, None, None]
    y = axis[None, :, None] - displacements[:, 1, None, None]
    return BlockScores(np.exp(-(x**2 + y**2) / 8.0).astype(np.float32), centres)


def centres() -> np.ndarray:
    x, y = np.meshgrid(np.arange(30.0, 380.0, 40.0), np.arange(30.0, 240.0, 40.0))
    return np.column_stack([x.ravel(), y.ravel()])


@pytest.mark.parametrize("motion", [(0.0, 0.0, 0.0), (6.3, -4.2, 0.02), (-11.7, 8.4, -0.03)])
def test_a_similarity_is_found_to_a_tenth_of_a_pixel(motion: tuple[float, ...]) -> None:
    moves = similarity_moves(centres(), CENTRE)
    truth = np.array(motion)
    fit = fit_motion(
        blocks_that_moved(moves(truth[None])[0], centres()), moves, similarity_grid(15.0, 220.0)
    )
    assert fit is not None
    assert fit.values == pytest.approx(truth, abs=0.1)
    assert fit.values[2] == pytest.approx(truth[2], abs=1e-3)
    assert fit.support > 0.9 and fit.distinct > 1.0


def test_a_third_of_blocks_that_found_something_else_does_not_sway_it() -> None:
    rng = np.random.default_rng(0)
    moves = similarity_moves(centres(), CENTRE)
    truth = np.array([5.0, -3.0, 0.01])
    displacements = moves(truth[None])[0]
    wrong = rng.permutation(len(displacements))[: len(displacements) // 3]
    displacements[wrong] = rng.uniform(-18, 18, (len(wrong), 2))
    fit = fit_motion(blocks_that_moved(displacements, centres()), moves, similarity_grid(15, 220))
    assert fit is not None
    assert fit.values == pytest.approx(truth, abs=0.3)
    assert fit.support == pytest.approx(2 / 3, abs=0.12)


def test_the_covariance_covers_noise_of_the_blocks() -> None:
    moves = similarity_moves(centres(), CENTRE)
    truth, inside = np.array([2.0, 3.0, 0.01]), 0
    for seed in range(20):
        noise = np.random.default_rng(seed).normal(0, 0.6, (len(centres()), 2))
        blocks = blocks_that_moved(moves(truth[None])[0] + noise, centres())
        fit = fit_motion(blocks, moves, similarity_grid(8.0, 220.0))
        assert fit is not None
        off = fit.values - truth
        inside += float(off @ np.linalg.solve(fit.covariance, off)) < 11.3
    assert inside >= 18  # 99 % of chi-square with three degrees, were the noise Gaussian throughout


def test_too_few_or_empty_blocks_say_nothing() -> None:
    few = centres()[:5]
    moves = similarity_moves(few, CENTRE)
    assert fit_motion(blocks_that_moved(np.zeros((5, 2)), few), moves, np.zeros((1, 3))) is None
    empty = BlockScores(np.zeros((30, 41, 41), np.float32), centres()[:30])
    moves = similarity_moves(empty.centres, CENTRE)
    assert fit_motion(empty, moves, similarity_grid(5.0, 100.0)) is None


@pytest.mark.parametrize(
    "model",
    [
        CameraModel.pinhole(400, 260, 300.0),
        CameraModel(
            400,
            260,
            np.array([[150.0, 0, 199.5], [0, 150.0, 129.5], [0, 0, 1]]),
            "equidistant",
            np.array([0.02, -0.005, 0.0, 0.0]),
        ),
    ],
)
@pytest.mark.parametrize("axis", range(3))
def test_rotation_moves_follow_the_camera_model(model: CameraModel, axis: int) -> None:
    turn = np.zeros(3)
    turn[axis] = np.radians(1.0)
    rays = model.unproject(centres())
    exact = model.project(Rotation.from_rotvec(turn).apply(rays))[0] - centres()
    moves = rotation_moves(centres(), model)
    np.testing.assert_allclose(moves(turn[None])[0], exact, atol=0.25)
    fit = fit_motion(
        blocks_that_moved(exact, centres()), moves, rotation_grid(np.radians(2.5), 150.0)
    )
    assert fit is not None
    assert np.degrees(fit.values) == pytest.approx(np.degrees(turn), abs=0.08)
