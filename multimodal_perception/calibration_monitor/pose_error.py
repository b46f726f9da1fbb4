"""Rotation and translation error of a camera relative to a LiDAR, from the blocks of several frames.

A rotation moves all blocks of an image alike, and a translation moves near blocks more than distant
ones. A single frame has too few near blocks to separate them; the frames of a window have enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.geometry.cameras import CameraModel

Array = NDArray[np.float64]
# Minimum scale of the Cauchy weights, px, and number of iterations.
MIN_CAUCHY_SCALE, ITERATIONS = 0.5, 12
# Standard deviation of translations before the measurement, m: components that the blocks do not
# determine stay at zero.
PRIOR_TRANSLATION = 0.3
# Standard deviation of an error of the displacements that depends on the distance as that of a
# translation does, and that averaging does not remove, px.
SYSTEMATIC_PX = 0.2
# Minimum number of frames and of blocks with a weight. The covariance of fewer frames is too small.
MIN_FRAMES, MIN_BLOCKS = 8, 60
# Columns and rows of the regions of the image.
REGIONS = (4, 3)
# Size of the neighbourhood whose nearest surface gives the distance of an edge, px.
NEAR_SIDE = 7


@dataclass(frozen=True)
class BlockShifts:
    """Displacements of the blocks of one frame.

    centres, shifts: (K, 2), px. weights: (K,). by_rotation: (K, 2, 3), px per radian. by_translation:
    (K, 2, 3), px per metre.
    """

    centres: Array
    shifts: Array
    weights: Array
    by_rotation: Array
    by_translation: Array


@dataclass(frozen=True)
class PoseError:
    """Error of a pose: a point p predicted by the extrinsics is observed at R(rotation) p + translation.

    rotation: (3,), rad. translation: (3,), m. Both are in the sensor's optical frame. covariance:
    (6, 6), of rotation and translation, with the systematic error of the translation.
    """

    rotation: Array
    translation: Array
    covariance: Array

    @property
    def distance(self) -> float:
        """Length of the translation, m."""
        return float(np.linalg.norm(self.translation))

    @property
    def translation_significance(self) -> float:
        """Distance of the translation from zero in standard deviations."""
        covariance = self.covariance[3:, 3:]
        return float(np.sqrt(self.translation @ np.linalg.solve(covariance, self.translation)))


def block_shifts(
    model: CameraModel,
    centres: Array,
    peaks: Array,
    weights: Array,
    inverse_distance: Array,
    by_rotation: Array,
) -> BlockShifts:
    """Shifts of blocks at `centres` (K, 2) px with mean inverse distances (K,), 1/m.

    peaks, weights: see drift_estimation.Fit. by_rotation: (K, 2, 3), px per radian.
    """
    rays = model.unproject(centres)
    rays = rays / np.linalg.norm(rays, axis=1, keepdims=True)
    step = 1e-4
    by_translation = np.zeros((len(centres), 2, 3))
    for axis in range(3):
        # Moving a point at distance r by t changes its direction as moving the unit ray by t / r.
        offset = np.zeros((len(rays), 3))
        offset[:, axis] = step * inverse_distance
        plus, minus = (model.project(rays + s * offset)[0] for s in (1.0, -1.0))
        by_translation[..., axis] = (plus - minus) / (2 * step)
    both = np.concatenate([by_rotation, by_translation], axis=2)
    usable = np.asarray(np.isfinite(both).all(axis=(1, 2)), np.bool_)
    return BlockShifts(
        centres,
        peaks,
        np.where(usable, weights, 0.0),
        np.where(usable[:, None, None], by_rotation, 0.0),
        np.where(usable[:, None, None], by_translation, 0.0),
    )


def block_inverse_distances(
    centres: Array,
    size: int,
    distance: NDArray[np.floating],
    valid: NDArray[np.bool_],
    energy: NDArray[np.floating],
) -> Array:
    """Mean inverse distance (K,), 1/m, of the edges in blocks of `size` px, 0 without any.

    distance: (H, W), m. valid: (H, W). energy: (H, W), strength of the edges. An edge belongs to the
    nearer one of the surfaces on its two sides.
    """
    inverse = np.where(valid, 1.0 / np.maximum(distance, 0.5), 0.0).astype(np.float32)
    near = cv2.dilate(inverse, np.ones((NEAR_SIDE, NEAR_SIDE), np.uint8))
    strength = np.where(valid, energy, 0.0).astype(np.float32)
    result = np.zeros(len(centres))
    for k, (x, y) in enumerate(centres):
        left, top = round(x - (size - 1) / 2), round(y - (size - 1) / 2)
        part = slice(max(top, 0), top + size), slice(max(left, 0), left + size)
        total = float(strength[part].sum())
        if total > 0:
            result[k] = float((strength[part] * near[part]).sum()) / total
    return result


def estimate_pose_error(frames: Sequence[BlockShifts]) -> PoseError | None:
    """Rotation and translation that fit the blocks of all frames; None if there are too few.

    Gauss-Newton with Cauchy weights. The covariance is the sandwich estimator with clusters (Liang and
    Zeger 1986), plus the systematic error. The clusters are the frames or the regions of the image,
    whichever gives the larger variance of the translation: structure such as a guard rail stays in one
    region and causes the same error in all frames.
    """
    used = [f for f in frames if (f.weights > 0).any()]
    if len(used) < MIN_FRAMES or sum(int((f.weights > 0).sum()) for f in used) < MIN_BLOCKS:
        return None
    jacobian = np.concatenate(
        [np.concatenate([f.by_rotation, f.by_translation], axis=2) for f in used]
    )
    shifts = np.concatenate([f.shifts for f in used])
    # Each frame has the same total weight.
    weights = np.concatenate([f.weights / f.weights.sum() for f in used])
    frame_of_block = np.repeat(np.arange(len(used)), [len(f.weights) for f in used])
    region_of_block = _regions(np.concatenate([f.centres for f in used]))
    weights = weights * (weights > 0).sum() / weights.sum()
    prior = np.zeros((6, 6))
    prior[3:, 3:] = np.eye(3) / PRIOR_TRANSLATION**2
    values = np.zeros(6)
    for _ in range(ITERATIONS):
        residuals = shifts - np.einsum("kij,j->ki", jacobian, values)
        length = np.linalg.norm(residuals, axis=1)
        scale = max(1.48 * float(np.median(length[weights > 0])), MIN_CAUCHY_SCALE)
        robust = weights / (1.0 + (length / scale) ** 2)
        information = np.einsum("k,kij,kil->jl", robust, jacobian, jacobian) + prior
        gradient = np.einsum("k,kij,ki->j", robust, jacobian, residuals) - prior @ values
        values = values + np.linalg.solve(information, gradient)
    residuals = shifts - np.einsum("kij,j->ki", jacobian, values)
    gradients = robust[:, None] * np.einsum("kij,ki->kj", jacobian, residuals)
    inverse = np.linalg.inv(information)
    candidates = [
        inverse @ _scatter(gradients, clusters) @ inverse
        for clusters in (frame_of_block, region_of_block)
    ]
    covariance = max(candidates, key=lambda c: float(np.trace(c[3:, 3:])))
    covariance[3:, 3:] += _systematic(information - prior, float(robust.sum()))
    return PoseError(values[:3], values[3:], covariance)


def _regions(centres: Array) -> NDArray[np.int64]:
    """Region (N,) of the image that contains each block, of REGIONS columns and rows."""
    low, high = centres.min(axis=0), centres.max(axis=0)
    part = (centres - low) / np.maximum(high - low, 1.0)
    index = np.minimum((part * REGIONS).astype(np.int64), np.array(REGIONS) - 1)
    return np.asarray(index[:, 1] * REGIONS[0] + index[:, 0])


def _scatter(gradients: Array, clusters: NDArray[np.int64]) -> Array:
    """Sum (6, 6) of the outer products of the gradients' sums by cluster, corrected for few clusters."""
    sums = np.zeros((int(clusters.max()) + 1, 6))
    np.add.at(sums, clusters, gradients)
    count = len(np.unique(clusters))
    return np.asarray(sums.T @ sums * count / max(count - 2.0, 1.0))


def _systematic(information: Array, total: float) -> Array:
    """Covariance (3, 3) of the translation for a systematic error of SYSTEMATIC_PX."""
    rotation, mixed, translation = information[:3, :3], information[:3, 3:], information[3:, 3:]
    alone = translation - mixed.T @ np.linalg.pinv(rotation) @ mixed
    per_block = alone / total + np.eye(3) * (SYSTEMATIC_PX / PRIOR_TRANSLATION) ** 2
    return np.asarray(SYSTEMATIC_PX**2 * np.linalg.inv(per_block), np.float64)
