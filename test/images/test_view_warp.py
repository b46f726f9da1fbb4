import numpy as np
import pytest

from multimodal_perception.frame import LidarSweep, SensorFrame
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.images.view_warp import MIN_DEPTH, render_inverse_depth, warp_between

BODY_FROM_OPTICAL = np.array([[0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1.0]])
CAMERA = CameraModel.pinhole(64, 48, 40.0)
THERMAL = CameraModel.pinhole(48, 40, 45.0)


def at(x: float, y: float, z: float) -> np.ndarray:
    return poses.from_xyz_rpy((x, y, z)) @ BODY_FROM_OPTICAL


@pytest.mark.parametrize("position", [(6.0, 0.5, 0.0), (12.0, -1.0, 0.0), (30.0, 2.0, 0.0)])
def test_ground_pixels_are_aligned(position: tuple[float, float, float]) -> None:
    pose, other = at(0.5, 0.0, 1.5), at(0.4, 0.3, 1.4)
    warp = warp_between(CAMERA, pose, THERMAL, other)
    point = np.array([position])
    (u, v), (tu, tv) = (
        model.project(poses.transform_points(poses.inverse(p), point))[0][0]
        for model, p in ((CAMERA, pose), (THERMAL, other))
    )
    # The map is smooth except near the horizon; interpolate it at the pixel of the point.
    rows = np.floor(v).astype(int), np.floor(v).astype(int) + 1
    below, above = (np.interp(u, np.arange(64), warp.columns[r]) for r in rows)
    assert below + (v - rows[0]) * (above - below) == pytest.approx(tu, abs=0.3)
    below, above = (np.interp(u, np.arange(64), warp.rows[r]) for r in rows)
    assert below + (v - rows[0]) * (above - below) == pytest.approx(tv, abs=0.3)


def test_warp_between_identical_views_is_identity() -> None:
    pose = at(0.0, 0.0, 1.5)
    warp = warp_between(CAMERA, pose, CAMERA, pose)
    image = np.random.default_rng(0).random((48, 64)).astype(np.float32)
    assert warp.valid.all()
    np.testing.assert_allclose(warp.apply(image), image, atol=1e-3)


def test_view_in_the_opposite_direction_has_no_valid_pixels() -> None:
    behind = poses.from_xyz_rpy((0, 0, 1.5), (0, 0, np.pi)) @ BODY_FROM_OPTICAL
    assert not warp_between(CAMERA, at(0, 0, 1.5), THERMAL, behind).valid.any()


def test_lidar_points_cover_3x3_pixels_and_the_nearest_is_used() -> None:
    points = np.array([[10, 0, 1.5, 0], [20, 0, 1.5, 0], [-5, 0, 1.5, 0]], np.float32)
    frame = SensorFrame(
        0, lidars={"l": LidarSweep("l", 0, "l", points)}, base_from_sensor={"l": np.eye(4)}
    )
    camera = CameraModel.pinhole(65, 49, 40.0)
    inverse, valid = render_inverse_depth(frame, camera, at(0.0, 0.0, 1.5))
    assert valid.sum() == 9 and valid[23:26, 31:34].all()
    np.testing.assert_allclose(inverse[valid], MIN_DEPTH / 10.0)
