"""Motion fits to block scores: known displacements, outliers, too few blocks."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from multimodal_perception.calibration_monitor.drift_estimation import (
    fit_motion,
    rigid_candidates,
    rigid_displacements,
    rotation_candidates,
    rotation_displacements,
)
from multimodal_perception.calibration_monitor.edge_matching import BlockScores
from multimodal_perception.geometry.cameras import CameraModel

MAX_DISPLACEMENT = 20
CENTRE = np.array([200.0, 130.0])


def block_scores(displacements: np.ndarray, centres: np.ndarray) -> BlockScores:
    """Correlation scores with a Gaussian peak (sigma 2 px) at each displacement."""
    axis = np.arange(-MAX_DISPLACEMENT, MAX_DISPLACEMENT + 1)
    x = axis[None, None] - displacements[:, 0, None, None]
    y = axis[None, :, None] - displacements[:, 1, None, None]
    return BlockScores(np.exp(-(x**2 + y**2) / 8.0).astype(np.float32), centres)


def centres() -> np.ndarray:
    x, y = np.meshgrid(np.arange(30.0, 380.0, 40.0), np.arange(30.0, 240.0, 40.0))
    return np.column_stack([x.ravel(), y.ravel()])


@pytest.mark.parametrize("motion", [(0.0, 0.0, 0.0), (6.3, -4.2, 0.02), (-11.7, 8.4, -0.03)])
def test_similarity_is_estimated_to_a_tenth_of_a_pixel(motion: tuple[float, ...]) -> None:
    motion_model = rigid_displacements(centres(), CENTRE)
    truth = np.array(motion)
    fit = fit_motion(
        block_scores(motion_model(truth[None])[0], centres()),
        motion_model,
        rigid_candidates(15.0, 220.0),
    )
    assert fit is not None
    assert fit.values == pytest.approx(truth, abs=0.1)
    assert fit.values[2] == pytest.approx(truth[2], abs=1e-3)
    assert fit.inlier_fraction > 0.9 and fit.peak_margin > 1.0


def test_one_third_of_outlier_blocks_does_not_bias_the_fit() -> None:
    rng = np.random.default_rng(0)
    motion_model = rigid_displacements(centres(), CENTRE)
    truth = np.array([5.0, -3.0, 0.01])
    displacements = motion_model(truth[None])[0]
    wrong = rng.permutation(len(displacements))[: len(displacements) // 3]
    displacements[wrong] = rng.uniform(-18, 18, (len(wrong), 2))
    fit = fit_motion(
        block_scores(displacements, centres()),
        motion_model,
        rigid_candidates(15, 220),
    )
    assert fit is not None
    assert fit.values == pytest.approx(truth, abs=0.3)
    assert fit.inlier_fraction == pytest.approx(2 / 3, abs=0.12)


def test_covariance_covers_the_noise_of_the_blocks() -> None:
    motion_model = rigid_displacements(centres(), CENTRE)
    truth, inside = np.array([2.0, 3.0, 0.01]), 0
    for seed in range(20):
        noise = np.random.default_rng(seed).normal(0, 0.6, (len(centres()), 2))
        blocks = block_scores(motion_model(truth[None])[0] + noise, centres())
        fit = fit_motion(blocks, motion_model, rigid_candidates(8.0, 220.0))
        assert fit is not None
        off = fit.values - truth
        inside += float(off @ np.linalg.solve(fit.covariance, off)) < 11.3
    assert inside >= 18  # 11.3 is the 99 % quantile of chi-square with three degrees of freedom


def test_too_few_or_empty_blocks_give_no_fit() -> None:
    few = centres()[:5]
    motion_model = rigid_displacements(few, CENTRE)
    assert fit_motion(block_scores(np.zeros((5, 2)), few), motion_model, np.zeros((1, 3))) is None
    empty = BlockScores(np.zeros((30, 41, 41), np.float32), centres()[:30])
    motion_model = rigid_displacements(empty.centres, CENTRE)
    assert fit_motion(empty, motion_model, rigid_candidates(5.0, 100.0)) is None


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
def test_rotation_displacements_follow_the_camera_model(model: CameraModel, axis: int) -> None:
    rotation = np.zeros(3)
    rotation[axis] = np.radians(1.0)
    rays = model.unproject(centres())
    exact = model.project(Rotation.from_rotvec(rotation).apply(rays))[0] - centres()
    motion_model = rotation_displacements(centres(), model)
    np.testing.assert_allclose(motion_model(rotation[None])[0], exact, atol=0.25)
    fit = fit_motion(
        block_scores(exact, centres()),
        motion_model,
        rotation_candidates(np.radians(2.5), 150.0),
    )
    assert fit is not None
    assert np.degrees(fit.values) == pytest.approx(np.degrees(rotation), abs=0.08)
