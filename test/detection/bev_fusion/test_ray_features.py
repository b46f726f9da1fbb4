"""Geometry of the pixels' rays."""

from __future__ import annotations

import numpy as np
import pytest

from multimodal_perception.detection.bev_fusion.network_config import RAY_CHANNELS
from multimodal_perception.detection.bev_fusion.ray_features import (
    MAX_GROUND_RANGE,
    MIN_GROUND_RANGE,
    ray_features,
)
from multimodal_perception.geometry.cameras import CameraModel
from test.detection.bev_fusion.small_images import camera_model, camera_pose

SIZE = (64, 96)


def ground_range(features: np.ndarray) -> np.ndarray:
    """Metres from the first channel."""
    return MIN_GROUND_RANGE * (MAX_GROUND_RANGE / MIN_GROUND_RANGE) ** features[0]


@pytest.mark.parametrize("height", [0.6, 1.5, 2.4])
@pytest.mark.parametrize("ground_z", [0.0, -0.4])
def test_range_to_the_ground_is_exact_below_the_horizon(height: float, ground_z: float) -> None:
    features = ray_features(camera_model(), camera_pose(xyz=(0, 0, height)), SIZE, ground_z)
    assert features.shape == (RAY_CHANNELS, 8, 12) and features.dtype == np.float32
    rows = (np.arange(8) + 0.5) * 8 - 0.5
    centre, focal = (SIZE[0] - 1) / 2, 40.0
    column = 5  # (5 + 0.5) * 8 - 0.5 = 43.5
    offset = (43.5 - (SIZE[1] - 1) / 2) / focal
    for row in np.flatnonzero(rows > centre + 2):
        down = (rows[row] - centre) / focal
        expected = (height - ground_z) / down * np.sqrt(1 + down**2 + offset**2)
        if expected < MAX_GROUND_RANGE:
            assert ground_range(features)[row, column] == pytest.approx(expected, rel=1e-4)
            assert features[1, row, column] == 1.0
    above = rows < centre
    assert (features[0, above] == 1.0).all() and not features[1, above].any()


def test_elevation_and_angle_per_cell() -> None:
    features = ray_features(camera_model(), camera_pose(), SIZE)
    assert (np.diff(features[2, :, 6]) < 0).all()  # rows run downwards
    wide = ray_features(camera_model(focal=20.0), camera_pose(), SIZE)
    middle = (slice(3, 5), 5)
    np.testing.assert_allclose(wide[3][middle] - features[3][middle], np.log(2), atol=0.05)


def test_fisheye_rays_beyond_the_image_plane_are_valid() -> None:
    features = ray_features(camera_model(fisheye=True, focal=25.0), camera_pose(), SIZE)
    assert np.isfinite(features).all() and features[2].min() < -0.7


def test_cells_outside_the_scaled_image_are_zero() -> None:
    features = ray_features(CameraModel.pinhole(48, 64, 40.0), camera_pose(), SIZE)
    assert not features[:, :, 6:].any() and features[2, :, :6].all()


def test_rolled_camera_has_the_horizon_across_the_image() -> None:
    from multimodal_perception.geometry import poses

    rolled = camera_pose() @ poses.from_xyz_rpy((0, 0, 0), (0, 0, np.pi / 2))
    features = ray_features(camera_model(), rolled, SIZE)
    assert (features[1].all(axis=0) | ~features[1].any(axis=0)).all()
    assert features[1].any() and not features[1].all()
