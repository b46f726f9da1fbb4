"""Rigid transforms as 4x4 matrices named `target_from_source`; metres, radians, quaternions x y z w."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation, Slerp

Array = NDArray[np.float64]
# Odometry errors tolerated between two poses in addition to the motion that the speed limits allow.
JUMP_MARGIN_M, JUMP_MARGIN_RAD = 1.0, 0.3


def from_xyz_rpy(xyz: ArrayLike, rpy: ArrayLike = (0.0, 0.0, 0.0)) -> Array:
    """Return a pose (4, 4) from a translation (3,) and roll, pitch, yaw (3,) about fixed axes (URDF)."""
    return _compose(Rotation.from_euler("xyz", rpy).as_matrix(), xyz)


def from_quaternion(xyz: ArrayLike, quaternion: ArrayLike) -> Array:
    """Return a pose (4, 4) from a translation (3,) and a quaternion x y z w (4,).

    The quaternion is normalised. Raises ValueError if a value is not finite or if the norm of the
    quaternion differs from 1 by more than 0.01.
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
    """Return the translation (3,) and the quaternion x y z w (4,) of a pose (4, 4)."""
    return pose[:3, 3].copy(), Rotation.from_matrix(pose[:3, :3]).as_quat()


def to_rpy(pose: Array) -> Array:
    """Return roll, pitch, yaw (3,) of a pose (4, 4); the inverse of from_xyz_rpy."""
    return Rotation.from_matrix(pose[:3, :3]).as_euler("xyz")


def to_yaw(pose: Array) -> float:
    """Return the heading of the pose's x axis in the x-y plane, radians."""
    return float(np.arctan2(pose[1, 0], pose[0, 0]))


def inverse(pose: Array) -> Array:
    """Return the inverse (4, 4) of a rigid transform: source_from_target."""
    result = np.eye(4)
    result[:3, :3] = pose[:3, :3].T
    result[:3, 3] = -pose[:3, :3].T @ pose[:3, 3]
    return result


def is_rigid(pose: ArrayLike, tolerance: float = 1e-3) -> bool:
    """Return whether a matrix (4, 4) is finite, orthonormal and right-handed within `tolerance`."""
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
    """Transform points (..., 3) into the target frame; the dtype of the points is kept."""
    rotation = target_from_source[:3, :3].astype(points.dtype)
    return points @ rotation.T + target_from_source[:3, 3].astype(points.dtype)


def is_odometry_jump(
    before: Array,
    after: Array,
    seconds: float,
    max_speed: float = 70.0,
    max_yaw_rate: float = 4.0,
) -> bool:
    """Return whether the motion between two poses (4, 4) is too large for a vehicle.

    before, after: poses `seconds` apart. The motion is a jump if it exceeds max_speed (m/s) by more
    than JUMP_MARGIN_M or max_yaw_rate (rad/s about z) by more than JUMP_MARGIN_RAD.
    """
    distance = np.linalg.norm(after[:3, 3] - before[:3, 3])
    yaw_change = abs(wrap_angle(to_yaw(after) - to_yaw(before)))
    too_far = distance > JUMP_MARGIN_M + max_speed * seconds
    return bool(too_far or yaw_change > JUMP_MARGIN_RAD + max_yaw_rate * seconds)


def interpolate(first: Array, second: Array, fraction: float) -> Array:
    """Interpolate between two poses (4, 4) at `fraction` in [0, 1].

    Linear in translation, spherical linear in rotation (Shoemake 1985). A fraction outside [0, 1]
    extrapolates with constant velocity.
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
    """Wrap angles to [-pi, pi)."""
    wrapped = np.mod(np.asarray(angle, np.float64) + np.pi, 2.0 * np.pi) - np.pi
    # Slightly below -pi the remainder rounds up to 2 pi.
    return np.where(wrapped >= np.pi, -np.pi, wrapped)


def _compose(rotation: ArrayLike, translation: ArrayLike) -> Array:
    pose = np.eye(4)
    pose[:3, :3] = rotation
    pose[:3, 3] = translation
    return pose
