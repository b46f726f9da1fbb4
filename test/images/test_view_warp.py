import numpy as np
import pytest

from multimodal_perception.frame import LidarSweep, SensorFrame
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.images.view_warp import NEAREST, lidar_image, warp_between

OPTICAL = np.array([[0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1.0]])
CAMERA = CameraModel.pinhole(64, 48, 40.0)
THERMAL = CameraModel.pinhole(48, 40, 45.0)


def at(x: float, y: float, z: float) -> np.ndarray:
    return poses.from_xyz_rpy((x, y, z)) @ OPTICAL


@pytest.mark.parametrize("place", [(6.0, 0.5, 0.0), (12.0, -1.0, 0.0), (30.0, 2.0, 0.0)])
def test_ground_falls_on_itself(place: tuple[float, float, float]) -> None:
    pose, other = at(0.5, 0.0, 1.5), at(0.4, 0.3, 1.4)
    warp = warp_between(CAMERA, pose, THERMAL, other)
    point = np.array([place])
    (u, v), (tu, tv) = (
        model.project(poses.transform_points(poses.inverse(p), point))[0][0]
        for model, p in ((CAMERA, pose), (THERMAL, other))
    )
    # Between pixels the map is smooth but near the horizon: interpolate it at the point's pixel.
    rows = np.floor(v).astype(int), np.floor(v).astype(int) + 1
    below, above = (np.interp(u, np.arange(64), warp.columns[r]) for r in rows)
    assert below + (v - rows[0]) * (above - below) == pytest.approx(tu, abs=0.3)
    below, above = (np.interp(u, np.arange(64), warp.rows[r]) for r in rows)
    assert below + (v - rows[0]) * (above - below) == pytest.approx(tv, abs=0.3)


def test_the_same_camera_sees_itself_unmoved() -> None:
    pose = at(0.0, 0.0, 1.5)
    warp = warp_between(CAMERA, pose, CAMERA, pose)
    image = np.random.default_rng(0).random((48, 64)).astype(np.float32)
    assert warp.seen.all()
    np.testing.assert_allclose(warp.apply(image), image, atol=1e-3)


def test_a_camera_that_looks_back_sees_nothing() -> None:
    behind = poses.from_xyz_rpy((0, 0, 1.5), (0, 0, np.pi)) @ OPTICAL
    assert not warp_between(CAMERA, at(0, 0, 1.5), THERMAL, behind).seen.any()


def test_lidar_points_cover_their_pixels_and_the_nearest_counts() -> None:
    points = np.array([[10, 0, 1.5, 0], [20, 0, 1.5, 0], [-5, 0, 1.5, 0]], np.float32)
    frame = SensorFrame(
        0, lidars={"l": LidarSweep("l", 0, "l", points)}, base_from_sensor={"l": np.eye(4)}
    )
    camera = CameraModel.pinhole(65, 49, 40.0)
    inverse, seen = lidar_image(frame, camera, at(0.0, 0.0, 1.5))
    assert seen.sum() == 9 and seen[23:26, 31:34].all()
    np.testing.assert_allclose(inverse[seen], NEAREST / 10.0)
