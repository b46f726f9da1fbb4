"""Projection of points into stacked feature maps."""

from __future__ import annotations

import numpy as np

from multimodal_perception.detection.bev_fusion.image_view import ImageView
from multimodal_perception.detection.fusion.image_projection import project_to_feature_map
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.sensor_calibration import BODY_FROM_OPTICAL


def view(yaw: float) -> ImageView:
    pose = poses.from_xyz_rpy((0, 0, 1.5), (0, 0, yaw)) @ BODY_FROM_OPTICAL
    return ImageView(CameraModel.pinhole(64, 32, 40.0), pose)


def test_points_are_projected_into_the_image_that_contains_them() -> None:
    points = np.array([[10.0, 0, 1.5], [-10.0, 0, 1.5], [0, 10.0, 1.5]])
    uv, visible = project_to_feature_map(points, [view(0.0), None, view(np.pi)], (32, 64))
    assert visible.tolist() == [1, 1, 0]
    # Centres of the first and of the third of three images.
    np.testing.assert_allclose(uv[0], [0.0, -2 / 3], atol=1e-6)
    np.testing.assert_allclose(uv[1], [0.0, 2 / 3], atol=1e-6)


def test_no_point_is_visible_without_images() -> None:
    _, visible = project_to_feature_map(np.ones((5, 3)), [None, None], (32, 64))
    assert not visible.any()
    uv, visible = project_to_feature_map(np.zeros((0, 3)), [view(0.0)], (32, 64))
    assert uv.shape == (0, 2) and visible.shape == (0,)
