"""Places in an atlas of images."""

from __future__ import annotations

import numpy as np

from multimodal_perception.detection.fusion.image_projection import ImageView, atlas_places
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.rig import OPTICAL


def view(yaw: float) -> ImageView:
    pose = poses.from_xyz_rpy((0, 0, 1.5), (0, 0, yaw)) @ OPTICAL
    return ImageView(CameraModel.pinhole(64, 32, 40.0), pose)


def test_points_land_in_the_image_that_sees_them() -> None:
    points = np.array([[10.0, 0, 1.5], [-10.0, 0, 1.5], [0, 10.0, 1.5]])
    places, seen = atlas_places(points, [view(0.0), None, view(np.pi)], (32, 64))
    assert seen.tolist() == [1, 1, 0]
    # The middle of the first and of the third of three images.
    np.testing.assert_allclose(places[0], [0.0, -2 / 3], atol=1e-6)
    np.testing.assert_allclose(places[1], [0.0, 2 / 3], atol=1e-6)


def test_nothing_is_seen_without_images() -> None:
    _, seen = atlas_places(np.ones((5, 3)), [None, None], (32, 64))
    assert not seen.any()
    places, seen = atlas_places(np.zeros((0, 3)), [view(0.0)], (32, 64))
    assert places.shape == (0, 2) and seen.shape == (0,)
