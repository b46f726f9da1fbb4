"""Poses compared with hand-computed rotations, scipy and their inverses."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from multimodal_perception.geometry import poses

metres = st.tuples(*[st.floats(-1e4, 1e4)] * 3)
angles = st.tuples(st.floats(-3.1, 3.1), st.floats(-1.5, 1.5), st.floats(-3.1, 3.1))
rigid = st.builds(poses.from_xyz_rpy, metres, angles)
quarter = math.pi / 2


@pytest.mark.parametrize(
    ("rpy", "point", "expected"),
    [
        ((quarter, 0, 0), (0, 1, 0), (0, 0, 1)),
        ((0, quarter, 0), (1, 0, 0), (0, 0, -1)),
        ((0, 0, quarter), (1, 0, 0), (0, 1, 0)),
        # Fixed axes: roll first, yaw last.
        ((quarter, 0, quarter), (0, 1, 0), (0, 0, 1)),
        ((quarter, 0, quarter), (1, 0, 0), (0, 1, 0)),
    ],
)
def test_roll_pitch_yaw_rotate_about_fixed_axes(rpy, point, expected):
    pose = poses.from_xyz_rpy((1, 2, 3), rpy)
    moved = poses.transform_points(pose, np.array(point, np.float64))
    np.testing.assert_allclose(moved, np.add(expected, (1, 2, 3)), atol=1e-12)


@given(angles)
def test_rotation_is_yaw_times_pitch_times_roll(rpy):
    def about(axis, angle):
        return Rotation.from_rotvec(angle * np.eye(3)[axis]).as_matrix()

    expected = about(2, rpy[2]) @ about(1, rpy[1]) @ about(0, rpy[0])
    np.testing.assert_allclose(poses.from_xyz_rpy((0, 0, 0), rpy)[:3, :3], expected, atol=1e-12)


@given(metres, angles)
def test_roll_pitch_yaw_round_trip(xyz, rpy):
    pose = poses.from_xyz_rpy(xyz, rpy)
    np.testing.assert_allclose(poses.to_rpy(pose), rpy, atol=1e-7)
    np.testing.assert_array_equal(pose[:3, 3], xyz)


@given(rigid)
def test_quaternion_round_trip(pose):
    translation, quaternion = poses.to_quaternion(pose)
    assert np.linalg.norm(quaternion) == pytest.approx(1)
    np.testing.assert_allclose(poses.from_quaternion(translation, quaternion), pose, atol=1e-9)
    np.testing.assert_allclose(poses.from_quaternion(translation, -quaternion), pose, atol=1e-9)


def test_quaternion_order_is_x_y_z_w():
    rotated = poses.from_quaternion((0, 0, 0), (0, 0, math.sin(0.35), math.cos(0.35)))
    assert poses.to_yaw(rotated) == pytest.approx(0.7)


@pytest.mark.parametrize("norm", [0.995, 1.005])
def test_nearly_unit_quaternion_is_normalised(norm):
    pose = poses.from_quaternion((0, 0, 0), np.array([0.0, 0.6, 0.0, 0.8]) * norm)
    assert poses.is_rigid(pose, 1e-12)


@pytest.mark.parametrize(
    ("xyz", "quaternion"),
    [
        ((0, 0, 0), (0, 0, 0, 0)),
        ((0, 0, 0), (0, 0, 0, 1.1)),
        ((0, 0, 0), (1, 1, 1, 1)),
        ((0, 0, 0), (0, 0, 0, math.nan)),
        ((math.nan, 0, 0), (0, 0, 0, 1)),
        ((0, math.inf, 0), (0, 0, 0, 1)),
    ],
)
def test_invalid_transform_raises_error(xyz, quaternion):
    with pytest.raises(ValueError, match="not"):
        poses.from_quaternion(xyz, quaternion)


@given(rigid)
def test_inverse_times_pose_is_identity(pose):
    np.testing.assert_allclose(poses.inverse(pose) @ pose, np.eye(4), atol=1e-8)
    np.testing.assert_allclose(pose @ poses.inverse(pose), np.eye(4), atol=1e-8)


@given(rigid)
def test_is_rigid_accepts_rigid_poses(pose):
    assert poses.is_rigid(pose, 1e-9)
    mirrored = pose.copy()
    mirrored[:3, 0] *= -1
    assert not poses.is_rigid(mirrored)
    stretched = pose.copy()
    stretched[:3, :3] *= 1.01
    assert not poses.is_rigid(stretched)


@pytest.mark.parametrize(
    "matrix",
    [
        np.eye(3),
        np.zeros((4, 4)),
        np.full((4, 4), np.nan),
        np.diag([1, 1, 1, 2]),
        np.eye(4) + np.eye(4)[[3, 0, 1, 2]],
        np.vstack([np.eye(4)[:3], [0, 0, 0.1, 1]]),
        [],
        1.0,
    ],
)
def test_is_rigid_rejects_other_matrices(matrix):
    assert not poses.is_rigid(matrix)


@given(rigid, rigid)
def test_composition_of_two_transforms_is_their_product(first, second):
    points = np.array([[1.0, 2.0, 3.0], [-4.0, 0.5, 9.0]])
    twice = poses.transform_points(second, poses.transform_points(first, points))
    np.testing.assert_allclose(twice, poses.transform_points(second @ first, points), atol=1e-7)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(3,), (0, 3), (5, 3), (2, 8, 3)])
def test_transformed_points_keep_shape_and_dtype(dtype, shape):
    points = np.ones(shape, dtype)
    moved = poses.transform_points(poses.from_xyz_rpy((1, 2, 3)), points)
    assert moved.shape == shape and moved.dtype == dtype
    np.testing.assert_allclose(moved, points + np.array([1, 2, 3]))


@given(rigid, rigid, st.floats(-1, 2))
def test_interpolation_has_constant_velocity(first, second, fraction):
    between = poses.interpolate(first, second, fraction)
    assert poses.is_rigid(between, 1e-9)
    step = Rotation.from_matrix(first[:3, :3].T @ second[:3, :3]).as_rotvec()
    rotated = first[:3, :3] @ Rotation.from_rotvec(fraction * step).as_matrix()
    np.testing.assert_allclose(between[:3, :3], rotated, atol=1e-6)
    along = first[:3, 3] + fraction * (second[:3, 3] - first[:3, 3])
    np.testing.assert_allclose(between[:3, 3], along, atol=1e-6)


def test_interpolation_at_the_ends_and_the_midpoint():
    first = poses.from_xyz_rpy((0, 0, 0), (0, 0, 0.2))
    second = poses.from_xyz_rpy((4, 2, 0), (0, 0, 1.0))
    np.testing.assert_allclose(poses.interpolate(first, second, 0.0), first, atol=1e-12)
    np.testing.assert_allclose(poses.interpolate(first, second, 1.0), second, atol=1e-12)
    midpoint = poses.from_xyz_rpy((2, 1, 0), (0, 0, 0.6))
    np.testing.assert_allclose(poses.interpolate(first, second, 0.5), midpoint, atol=1e-12)
    ahead = poses.from_xyz_rpy((8, 4, 0), (0, 0, 1.8))
    np.testing.assert_allclose(poses.interpolate(first, second, 2.0), ahead, atol=1e-12)


def test_interpolation_uses_the_shorter_rotation():
    first = poses.from_xyz_rpy((0, 0, 0), (0, 0, 3.0))
    second = poses.from_xyz_rpy((0, 0, 0), (0, 0, -3.0))
    midpoint = poses.to_yaw(poses.interpolate(first, second, 0.5))
    assert abs(midpoint) == pytest.approx(math.pi)


@given(st.floats(-1e4, 1e4) | st.integers(-9, 9).map(lambda k: k * math.pi))
def test_wrapped_angles_are_equivalent(angle):
    wrapped = float(poses.wrap_angle(angle))
    assert -math.pi <= wrapped < math.pi
    assert math.cos(wrapped - angle) == pytest.approx(1)


@pytest.mark.parametrize(
    ("angle", "wrapped"),
    [
        (0, 0),
        (math.pi, -math.pi),
        (-math.pi, -math.pi),
        (3 * quarter, -quarter),
        (7, 7 - 4 * quarter),
    ],
)
def test_wrapped_angles(angle, wrapped):
    assert poses.wrap_angle(angle) == pytest.approx(wrapped)


def test_wrapped_angle_just_beyond_pi_stays_below_pi():
    assert poses.wrap_angle(np.nextafter(-math.pi, -10)) < math.pi
    assert poses.wrap_angle(np.nextafter(math.pi, -10)) < math.pi


@pytest.mark.parametrize(
    ("xyz", "yaw", "seconds", "expected"),
    [
        ((0.9, 0.0, 0.0), 0.0, 0.0, False),
        ((1.1, 0.0, 0.0), 0.0, 0.0, True),
        ((7.5, 0.0, 0.0), 0.0, 0.1, False),
        ((0.0, 8.5, 0.0), 0.0, 0.1, True),
        ((0.0, 0.0, 0.0), 0.6, 0.1, False),
        ((0.0, 0.0, 0.0), -0.8, 0.1, True),
    ],
)
def test_motion_faster_than_a_vehicle_is_an_odometry_jump(
    xyz: tuple[float, float, float], yaw: float, seconds: float, expected: bool
) -> None:
    before = poses.from_xyz_rpy((5.0, -3.0, 1.0), (0.0, 0.0, 3.1))
    after = poses.from_xyz_rpy(np.add(xyz, (5.0, -3.0, 1.0)), (0.0, 0.0, 3.1 + yaw))
    assert poses.is_odometry_jump(before, after, seconds) == expected
