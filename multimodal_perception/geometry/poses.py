"""Rigid transforms, 4x4, named `target_from_source`: metres, radians, quaternions x y z w."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation, Slerp

Array = NDArray[np.float64]
# Odometry may be this wrong between two moments, beyond what the limits of speed allow.
SLACK_M, SLACK_RAD = 1.0, 0.3


def from_xyz_rpy(xyz: ArrayLike, rpy: ArrayLike = (0.0, 0.0, 0.0)) -> Array:
    """Pose (4, 4) from a translation (3,) and roll, pitch, yaw (3,) about fixed axes, as URDF."""
    return _compose(Rotation.from_euler("xyz", rpy).as_matrix(), xyz)


def from_quaternion(xyz: ArrayLike, quaternion: ArrayLike) -> Array:
    """Pose (4, 4) from a translation (3,) and a quaternion x y z w (4,), normalised here.

    Raises ValueError if a value is not finite or the quaternion's norm is not within 1 % of one.
    """
    q = np.asarray(quaternion, np.float64)
    t = np.asarray(xyz, np.float64)
    if not (np.isfinite(q).all() and np.isfinite(t).all()):
        raise ValueError("transform is not finite")
    norm = float(np.linalg.norm(q))
    if abs(norm - 1.0) > 0.01:
        raise ValueError(f"quaternion has norm {norm:.3g}, not 1")
    return _compose(Rotation.from_quat(q).as_matrix(), t)


def to_quaternion(pose: Array) -> tuple[Array, Array]:
    """Translation (3,) and quaternion x y z w (4,) of a pose (4, 4)."""
    return pose[:3, 3].copy(), Rotation.from_matrix(pose[:3, :3]).as_quat()


def to_rpy(pose: Array) -> Array:
    """Roll, pitch, yaw (3,) of a pose (4, 4): the inverse of from_xyz_rpy."""
    return Rotation.from_matrix(pose[:3, :3]).as_euler("xyz")


def yaw_of(pose: Array) -> float:
    """Heading about z in radians, of the pose's x axis seen from above."""
    return float(np.arctan2(pose[1, 0], pose[0, 0]))


def inverse(pose: Array) -> Array:
    """Inverse (4, 4) of a rigid transform: source_from_target."""
    result = np.eye(4)
    result[:3, :3] = pose[:3, :3].T
    result[:3, 3] = -pose[:3, :3].T @ pose[:3, 3]
    return result


def is_rigid(pose: ArrayLike, tolerance: float = 1e-3) -> bool:
    """Whether a matrix (4, 4) is finite, orthonormal and right-handed within `tolerance`."""
    matrix = np.asarray(pose, np.float64)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        return False
    rotation = matrix[:3, :3]
    orthonormal = np.allclose(rotation @ rotation.T, np.eye(3), atol=tolerance)
    last_row = np.allclose(matrix[3], (0, 0, 0, 1), atol=tolerance)
    return bool(orthonormal and last_row and np.linalg.det(rotation) > 0)


def transform_points(
    target_from_source: Array, points: NDArray[np.floating]
) -> NDArray[np.floating]:
    """Points (..., 3) in the target frame, in the dtype given."""
    rotation = target_from_source[:3, :3].astype(points.dtype)
    return points @ rotation.T + target_from_source[:3, 3].astype(points.dtype)


def jumped(
    before: Array,
    after: Array,
    seconds: float,
    most_speed: float = 70.0,
    most_turn_rate: float = 4.0,
) -> bool:
    """Whether a pose (4, 4) is further from the one `seconds` before than any vehicle gets.

    most_speed, most_turn_rate: m/s and rad/s about z, beyond SLACK_M and SLACK_RAD.
    """
    gone = np.linalg.norm(after[:3, 3] - before[:3, 3])
    turned = abs(wrap_angle(yaw_of(after) - yaw_of(before)))
    too_far = gone > SLACK_M + most_speed * seconds
    return bool(too_far or turned > SLACK_RAD + most_turn_rate * seconds)


def interpolate(first: Array, second: Array, fraction: float) -> Array:
    """Pose (4, 4) at `fraction` of the way: linear translation, spherical rotation (Shoemake 1985).

    A fraction outside [0, 1] extrapolates at the same speed.
    """
    rotations = Rotation.from_matrix(np.stack([first[:3, :3], second[:3, :3]]))
    if 0.0 <= fraction <= 1.0:
        rotation = Slerp([0.0, 1.0], rotations)(fraction)
    else:
        step = (rotations[0].inv() * rotations[1]).as_rotvec()
        rotation = rotations[0] * Rotation.from_rotvec(fraction * step)
    translation = (1.0 - fraction) * first[:3, 3] + fraction * second[:3, 3]
    return _compose(rotation.as_matrix(), translation)


def wrap_angle(angle: ArrayLike) -> Array:
    """Angles in [-pi, pi)."""
    wrapped = np.mod(np.asarray(angle, np.float64) + np.pi, 2.0 * np.pi) - np.pi
    # Just below -pi the remainder rounds up to a whole turn.
    return np.where(wrapped >= np.pi, -np.pi, wrapped)


def _compose(rotation: ArrayLike, translation: ArrayLike) -> Array:
    pose = np.eye(4)
    pose[:3, :3] = rotation
    pose[:3, 3] = translation
    return pose
