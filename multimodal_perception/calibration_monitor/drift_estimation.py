"""Fit of one motion model to the correlation scores of image blocks, with its covariance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.calibration_monitor.edge_matching import BlockScores
from multimodal_perception.geometry.cameras import CameraModel

Array = NDArray[np.float64]
# A motion model: displacements (M, K, 2), px, of K block centres under motion parameters (M, 3).
MotionModel = Callable[[Array], Array]

# Step between candidate motions, px. The correlation decreases over about two pixels.
CANDIDATE_STEP = 1.5
MAX_IMAGE_ROTATION = np.radians(3.0)
# Search radius around the common displacement for the peak of a single block, px.
PEAK_SEARCH_RADIUS = 4
# The same for the estimate of a translation, which moves near blocks further than the others. Larger
# values include more vehicles that move between the times of the image and of the sweep.
WIDE_SEARCH_RADIUS = 5
# Candidates whose mean block displacement differs by less than this are the same motion, px.
MIN_MOTION_DIFFERENCE = 6.0
# Minimum scale of the Cauchy weights (residual at which the weight is one half), px.
MIN_CAUCHY_SCALE = 0.5
ITERATIONS = 10
MIN_BLOCKS = 6
# Number of candidates that are scored at once, which limits the memory.
CANDIDATE_CHUNK = 4096


@dataclass(frozen=True)
class Fit:
    """Parameters of a fitted motion and their uncertainty.

    values: (3,) motion parameters. covariance: (3, 3), random error only, without systematic
    errors. inlier_fraction: fraction of the blocks whose own peak agrees with the motion.
    peak_margin: margin of the motion's mean correlation over every clearly different candidate, in
    standard deviations of the candidates' correlations. blocks: number of compared blocks. peaks: (K, 2)
    displacement of each block, px, up to WIDE_SEARCH_RADIUS from the motion, and weights (K,), 0 for
    blocks without a peak.
    """

    values: Array
    covariance: Array
    inlier_fraction: float
    peak_margin: float
    blocks: int
    peaks: Array
    weights: Array


def fit_motion(blocks: BlockScores, motion_model: MotionModel, candidates: Array) -> Fit | None:
    """Fit motion parameters to block scores; None if too few blocks can be compared.

    First, the scores of all blocks are summed for each of the candidates (M, 3), so that a few blocks
    with wrong peaks have little influence. Then the best candidate is refined with the peak of each
    block close to the displacement that the candidate predicts.
    """
    if len(blocks.centres) < MIN_BLOCKS or not (blocks.scores > 0).any():
        return None
    start, peak_margin = _best_candidate(blocks, motion_model, candidates)
    peaks, weights = _block_peaks(blocks, motion_model(start[None])[0])
    if (weights > 0).sum() < MIN_BLOCKS:
        return None
    values, covariance, inlier_fraction = _robust_fit(motion_model, peaks, weights, start)
    expected = motion_model(values[None])[0]
    wide_peaks, wide_weights = _block_peaks(blocks, expected, WIDE_SEARCH_RADIUS)
    return Fit(
        values, covariance, inlier_fraction, peak_margin, len(weights), wide_peaks, wide_weights
    )


def rigid_displacements(points: Array, centre: Array) -> MotionModel:
    """Motion model of a shift x, y (px) and a rotation about centre (rad, from x to y)."""
    arms = points - centre

    def displacements(motions: Array) -> Array:
        c, s = np.cos(motions[:, 2:]) - 1.0, np.sin(motions[:, 2:])
        x = c * arms[:, 0] - s * arms[:, 1] + motions[:, :1]
        y = s * arms[:, 0] + c * arms[:, 1] + motions[:, 1:2]
        return np.stack([x, y], -1)

    return displacements


def rigid_candidates(max_shift: float, radius: float) -> Array:
    """Grid (M, 3) of rigid motions up to max_shift (px) and MAX_IMAGE_ROTATION.

    radius: largest distance (px) of a block from the centre, which sets the step of the rotation.
    """
    shifts = np.arange(-max_shift, max_shift + 1e-9, CANDIDATE_STEP)
    count = int(np.ceil(MAX_IMAGE_ROTATION * radius / (1.5 * CANDIDATE_STEP)))
    angles = np.linspace(-MAX_IMAGE_ROTATION, MAX_IMAGE_ROTATION, 2 * count + 1)
    return _grid(shifts, shifts, angles)


def rotation_displacements(points: Array, model: CameraModel) -> MotionModel:
    """Motion model of a rotation vector (rad) in the view's optical frame, for any camera model.

    A scene point at pixel p moves to p + displacement when the scene rotates. The model is linear in the
    rotation about each point's exact ray; the error is below half a pixel at 2 degrees.
    """
    rays = model.unproject(points)
    step = 1e-4
    jacobian = np.zeros((len(points), 2, 3))
    for axis in range(3):
        rotation = np.zeros(3)
        rotation[axis] = step
        plus, minus = (model.project(rays + np.cross(r, rays))[0] for r in (rotation, -rotation))
        jacobian[..., axis] = (plus - minus) / (2 * step)
    # Blocks whose centre has no valid ray are moved out of the score window.
    jacobian = np.nan_to_num(jacobian, nan=1e6)

    def displacements(motions: Array) -> Array:
        return np.einsum("kij,mj->mki", jacobian, motions)

    return displacements


def rotation_candidates(max_angle: float, focal: float) -> Array:
    """Grid (M, 3) of rotation vectors up to max_angle (rad) about each axis; focal: focal length, px."""
    count = int(np.ceil(max_angle * focal / CANDIDATE_STEP))
    angles = np.linspace(-max_angle, max_angle, 2 * count + 1)
    return _grid(angles, angles, angles)


def _grid(*axes: Array) -> Array:
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)


def _best_candidate(
    blocks: BlockScores, motion_model: MotionModel, candidates: Array
) -> tuple[Array, float]:
    """The candidate with the largest sum of block scores, and its peak_margin (see Fit)."""
    scores = np.maximum(blocks.scores, 0.0)
    chunks = [
        candidates[k : k + CANDIDATE_CHUNK] for k in range(0, len(candidates), CANDIDATE_CHUNK)
    ]
    sums = np.concatenate([_sum_scores(scores, motion_model(c)) for c in chunks])
    best = int(sums.argmax())
    best_displacement = motion_model(candidates[best : best + 1])
    difference = np.concatenate(
        [np.abs(motion_model(c) - best_displacement).max(-1).mean(-1) for c in chunks]
    )
    others = sums[difference > MIN_MOTION_DIFFERENCE]
    spread = float(others.std()) if others.size else 0.0
    peak_margin = (float(sums[best]) - float(others.max())) / spread if spread > 0 else 0.0
    return candidates[best], peak_margin


def _sum_scores(scores: NDArray[np.float32], displacements: Array) -> NDArray[np.float32]:
    """Sum over blocks of scores (K, D, D) at displacements (M, K, 2): (M,)."""
    count, width, _ = scores.shape
    at = np.rint(np.clip(displacements, -width, width)).astype(np.int32) + width // 2
    inside = ((at >= 0) & (at < width)).all(-1)
    flat = np.where(inside, at[..., 1] * width + at[..., 0], 0)
    flat += np.arange(count, dtype=np.int32) * width * width
    return np.where(inside, scores.reshape(-1)[flat], np.float32(0.0)).sum(-1)


def _block_peaks(
    blocks: BlockScores, expected: Array, radius: int = PEAK_SEARCH_RADIUS
) -> tuple[Array, Array]:
    """Displacement (K, 2) of each block's score peak near the expected one, and its weight (K,).

    radius: px. The weight is 0 for blocks without a peak.
    """
    centre = blocks.max_displacement
    peaks, weights = expected.copy(), np.zeros(len(expected))
    for k, (dx, dy) in enumerate(np.rint(np.clip(expected, -999, 999)).astype(np.int64) + centre):
        low_x, low_y = max(dx - radius, 0), max(dy - radius, 0)
        part = blocks.scores[k, low_y : max(dy + radius + 1, 0), low_x:]
        part = part[:, : max(dx + radius + 1 - low_x, 0)]
        if part.size == 0:
            continue
        row, column = np.unravel_index(int(part.argmax()), part.shape)
        # A maximum on the border of the window belongs to a peak outside of it.
        if not (0 < row < part.shape[0] - 1 and 0 < column < part.shape[1] - 1):
            continue
        x = low_x + column + _vertex(part[row, column - 1 : column + 2])
        y = low_y + row + _vertex(part[row - 1 : row + 2, column])
        peaks[k] = x - centre, y - centre
        weights[k] = max(float(part[row, column]), 0.0) ** 2
    return peaks, weights


def _robust_fit(
    motion_model: MotionModel, peaks: Array, weights: Array, start: Array
) -> tuple[Array, Array, float]:
    """Gauss-Newton fit with Cauchy weights: values (3,), covariance (3, 3) and inlier_fraction.

    The covariance is White's (1980) sandwich estimator.
    """
    values = start.astype(np.float64)
    for _ in range(ITERATIONS):
        jacobian = _jacobian(motion_model, values)
        residuals = peaks - motion_model(values[None])[0]
        length = np.linalg.norm(residuals, axis=1)
        scale = max(1.48 * float(np.median(length[weights > 0])), MIN_CAUCHY_SCALE)
        robust = np.where(weights > 0, weights / (1.0 + (length / scale) ** 2), 0.0)
        normal = np.einsum("k,kij,kil->jl", robust, jacobian, jacobian)
        inverse = np.linalg.pinv(normal)
        values = values + inverse @ np.einsum("k,kij,ki->j", robust, jacobian, residuals)
    gradients = robust[:, None] * np.einsum("kij,ki->kj", jacobian, residuals)
    agree = (weights > 0) & (length < 2.0 * scale)
    # The correction n / (n - p) for the degrees of freedom is doubled, as neighbouring blocks share
    # pixels and few blocks underestimate the residuals.
    inflation = 2.0 * len(peaks) / max(float(agree.sum()) - 1.5, 1.0)
    covariance = inverse @ (gradients.T @ gradients) @ inverse * min(inflation, 20.0)
    return values, covariance, float(agree.mean())


def _jacobian(motion_model: MotionModel, values: Array) -> Array:
    """Derivative (K, 2, 3) of the displacements by the parameters, by central differences."""
    step = 1e-5
    shifted = np.concatenate([values + step * np.eye(3), values - step * np.eye(3)])
    plus, minus = np.split(motion_model(shifted), 2)
    return np.moveaxis((plus - minus) / (2 * step), 0, -1)


def _vertex(values: NDArray[np.float32]) -> float:
    """Vertex in -0.5 .. 0.5 of the parabola through three values, of which the second is the largest."""
    left, centre, right = (float(v) for v in values)
    curvature = left - 2 * centre + right
    return 0.0 if curvature >= 0 else float(np.clip(0.5 * (left - right) / curvature, -0.5, 0.5))
