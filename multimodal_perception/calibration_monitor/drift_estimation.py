"""One motion fitted to how well the blocks of two images fit each other, with its uncertainty."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.calibration_monitor.edge_matching import BlockScores
from multimodal_perception.geometry.cameras import CameraModel

Array = NDArray[np.float64]
# Displacements (M, K, 2) in pixels of K block centres under motions (M, 3).
Moves = Callable[[Array], Array]

# Between the motions that are tried, pixels; correlation falls off over about two.
VOTE_STEP = 1.5
LARGEST_TURN = np.radians(3.0)
# How far from what the whole says a block's own displacement is looked for, pixels.
OWN_REACH = 4
# Motions that move blocks by less than this on average are the same one, pixels.
SAME = 6.0
# Residual at which a block counts for half (Cauchy) is never below this, pixels.
LEAST_SCALE = 0.5
ROUNDS = 10
LEAST_BLOCKS = 6
CHUNK = 4096


@dataclass(frozen=True)
class Fit:
    """Three values of a motion and how sure they are.

    values: (3,); covariance: (3, 3), of chance alone: it knows nothing of what is systematic.
    support: share of the blocks whose own peak agrees. distinct: by how much the motion's mean
    correlation exceeds that of every other one, in standard deviations over all that were tried.
    blocks: how many were compared.
    """

    values: Array
    covariance: Array
    support: float
    distinct: float
    blocks: int


def fit_motion(blocks: BlockScores, moves: Moves, tried: Array) -> Fit | None:
    """The motion of `tried` (M, 3) under which the blocks fit best together, then refined.

    All blocks vote for every motion first, which a few that found something else cannot sway; then
    each block's own peak nearby tells the rest. None when too few blocks can be compared.
    """
    if len(blocks.centres) < LEAST_BLOCKS or not (blocks.scores > 0).any():
        return None
    start, distinct = _vote(blocks, moves, tried)
    found, weights = _own_peaks(blocks, moves(start[None])[0])
    if (weights > 0).sum() < LEAST_BLOCKS:
        return None
    values, covariance, support = _robust_fit(moves, found, weights, start)
    return Fit(values, covariance, support, distinct, len(weights))


def similarity_moves(points: Array, centre: Array) -> Moves:
    """Motions x, y (pixels) and angle (radians, from x to y): a shift, and a rotation about centre."""
    arms = points - centre

    def moves(motions: Array) -> Array:
        c, s = np.cos(motions[:, 2:]) - 1.0, np.sin(motions[:, 2:])
        x = c * arms[:, 0] - s * arms[:, 1] + motions[:, :1]
        y = s * arms[:, 0] + c * arms[:, 1] + motions[:, 1:2]
        return np.stack([x, y], -1)

    return moves


def similarity_grid(reach: float, radius: float) -> Array:
    """Similarities (M, 3) up to `reach` pixels and LARGEST_TURN, for points up to `radius` away."""
    shifts = np.arange(-reach, reach + 1e-9, VOTE_STEP)
    count = int(np.ceil(LARGEST_TURN * radius / (1.5 * VOTE_STEP)))
    turns = np.linspace(-LARGEST_TURN, LARGEST_TURN, 2 * count + 1)
    return _grid(shifts, shifts, turns)


def rotation_moves(points: Array, model: CameraModel) -> Moves:
    """Motions are rotation vectors (radians) of the view's optical frame, for any camera model.

    A scene turned by w shows at p + moves(w) what it showed at p. First order in w about each point's
    exact ray: below half a pixel of error at 2 degrees, and the caller may look again.
    """
    rays = model.unproject(points)
    step = 1e-4
    jacobian = np.zeros((len(points), 2, 3))
    for axis in range(3):
        turn = np.zeros(3)
        turn[axis] = step
        ahead, behind = (model.project(rays + np.cross(t, rays))[0] for t in (turn, -turn))
        jacobian[..., axis] = (ahead - behind) / (2 * step)
    # Blocks whose middle has no ray tell nothing.
    jacobian = np.nan_to_num(jacobian, nan=1e6)

    def moves(motions: Array) -> Array:
        return np.einsum("kij,mj->mki", jacobian, motions)

    return moves


def rotation_grid(reach: float, focal: float) -> Array:
    """Rotation vectors (M, 3) up to `reach` radians about each axis."""
    count = int(np.ceil(reach * focal / VOTE_STEP))
    angles = np.linspace(-reach, reach, 2 * count + 1)
    return _grid(angles, angles, angles)


def _grid(*axes: Array) -> Array:
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)


def _vote(blocks: BlockScores, moves: Moves, tried: Array) -> tuple[Array, float]:
    """The motion with the largest sum of correlations, and how distinct it is."""
    votes = np.maximum(blocks.scores, 0.0)
    sums = np.concatenate(
        [_sums(votes, moves(tried[k : k + CHUNK])) for k in range(0, len(tried), CHUNK)]
    )
    best = int(sums.argmax())
    # Of a few blocks' displacements it is known well enough whether two motions are the same.
    there = moves(tried[best : best + 1])
    apart = np.concatenate(
        [
            np.abs(moves(tried[k : k + CHUNK]) - there).max(-1).mean(-1)
            for k in range(0, len(tried), CHUNK)
        ]
    )
    others = sums[apart > SAME]
    spread = float(others.std()) if others.size else 0.0
    distinct = (float(sums[best]) - float(others.max())) / spread if spread > 0 else 0.0
    return tried[best], distinct


def _sums(votes: NDArray[np.float32], displacements: Array) -> NDArray[np.float32]:
    """Sum over blocks of votes (K, D, D) at displacements (M, K, 2): (M,)."""
    count, wide, _ = votes.shape
    at = np.rint(np.clip(displacements, -wide, wide)).astype(np.int32) + wide // 2
    inside = ((at >= 0) & (at < wide)).all(-1)
    flat = np.where(inside, at[..., 1] * wide + at[..., 0], 0)
    flat += np.arange(count, dtype=np.int32) * wide * wide
    return np.where(inside, votes.reshape(-1)[flat], np.float32(0.0)).sum(-1)


def _own_peaks(blocks: BlockScores, expected: Array) -> tuple[Array, Array]:
    """Displacement (K, 2) of each block's peak near the common one, and its weight (K,), 0 for none."""
    reach = blocks.reach
    found, weights = expected.copy(), np.zeros(len(expected))
    for k, (dx, dy) in enumerate(np.rint(np.clip(expected, -999, 999)).astype(np.int64) + reach):
        low_x, low_y = max(dx - OWN_REACH, 0), max(dy - OWN_REACH, 0)
        part = blocks.scores[k, low_y : max(dy + OWN_REACH + 1, 0), low_x:]
        part = part[:, : max(dx + OWN_REACH + 1 - low_x, 0)]
        if part.size == 0:
            continue
        row, column = np.unravel_index(int(part.argmax()), part.shape)
        # A peak on the border is the flank of something else.
        if not (0 < row < part.shape[0] - 1 and 0 < column < part.shape[1] - 1):
            continue
        x = low_x + column + _vertex(part[row, column - 1 : column + 2])
        y = low_y + row + _vertex(part[row - 1 : row + 2, column])
        found[k] = x - reach, y - reach
        weights[k] = max(float(part[row, column]), 0.0) ** 2
    return found, weights


def _robust_fit(
    moves: Moves, found: Array, weights: Array, start: Array
) -> tuple[Array, Array, float]:
    """Values, covariance and support: Gauss-Newton with Cauchy's weights, White's (1980) sandwich."""
    values = start.astype(np.float64)
    for _ in range(ROUNDS):
        jacobian = _jacobian(moves, values)
        residuals = found - moves(values[None])[0]
        length = np.linalg.norm(residuals, axis=1)
        scale = max(1.48 * float(np.median(length[weights > 0])), LEAST_SCALE)
        now = np.where(weights > 0, weights / (1.0 + (length / scale) ** 2), 0.0)
        normal = np.einsum("k,kij,kil->jl", now, jacobian, jacobian)
        inverse = np.linalg.pinv(normal)
        values = values + inverse @ np.einsum("k,kij,ki->j", now, jacobian, residuals)
    pull = now[:, None] * np.einsum("kij,ki->kj", jacobian, residuals)
    agree = (weights > 0) & (length < 2.0 * scale)
    # Few blocks fit their own residuals, and neighbours share pixels: twice what n / (n - p) says.
    inflation = 2.0 * len(found) / max(float(agree.sum()) - 1.5, 1.0)
    covariance = inverse @ (pull.T @ pull) @ inverse * min(inflation, 20.0)
    return values, covariance, float(agree.mean())


def _jacobian(moves: Moves, values: Array) -> Array:
    """(K, 2, 3), by central differences."""
    step = 1e-5
    turns = np.concatenate([values + step * np.eye(3), values - step * np.eye(3)])
    ahead, behind = np.split(moves(turns), 2)
    return np.moveaxis((ahead - behind) / (2 * step), 0, -1)


def _vertex(values: NDArray[np.float32]) -> float:
    """Place in -0.5 .. 0.5 of the top of the parabola through three values, the second the largest."""
    left, middle, right = (float(v) for v in values)
    bend = left - 2 * middle + right
    return 0.0 if bend >= 0 else float(np.clip(0.5 * (left - right) / bend, -0.5, 0.5))
