"""Projection of single points by compiled kernels: equal to CameraModel for every lens model."""

from __future__ import annotations

import numpy as np
import pytest

from multimodal_perception.geometry.camera_kernels import camera_parameters, project_point
from multimodal_perception.geometry.cameras import CameraModel

MATRIX = np.array([[300.0, 2.0, 310.0], [0, 320.0, 245.0], [0, 0, 1]])
RATIONAL = [0.2, -0.1, 0.001, -0.002, 0.01, 0.15, -0.05, 0.005]
LENSES = {
    "pinhole": (),
    "plumb_bob": (-0.3, 0.1, 0.001, -0.002, 0.01),
    "rational_polynomial": RATIONAL,
    "equidistant": (0.05, -0.01, 0.002, -0.0005),
    "thin prism": [*RATIONAL, 0.01, -0.002, 0.005, 0.001],
    "tilted": [*RATIONAL, 0.01, -0.002, 0.005, 0.001, 0.03, -0.02],
}


@pytest.mark.parametrize("lens", LENSES)
def test_projection_is_that_of_the_camera_model(lens: str) -> None:
    name = lens if lens in ("pinhole", "plumb_bob", "equidistant") else "rational_polynomial"
    model = CameraModel(640, 480, MATRIX, name, LENSES[lens])  # type: ignore[arg-type]
    points = np.random.default_rng(0).normal(0, 4, (4000, 3)) * (1, 0.6, 1)
    points[:3] = (0, 0, 5), (0, 0, -5), (0, 0, 0)
    expected, visible = model.project(points)
    parameters = camera_parameters(model)
    projected = [project_point(parameters, *point) for point in points]
    np.testing.assert_array_equal([p[2] for p in projected], visible)
    pixels = np.array([p[:2] for p in projected])
    assert visible.sum() > 300
    np.testing.assert_allclose(pixels[visible], expected[visible], atol=1e-6)


def test_non_finite_points_are_not_visible() -> None:
    for lens in ("pinhole", "plumb_bob", "equidistant"):
        parameters = camera_parameters(CameraModel(640, 480, MATRIX, lens, LENSES[lens]))  # type: ignore[arg-type]
        for point in (
            (np.nan, 0, 1),
            (0, 0, np.nan),
            (0, np.nan, 5),
            (np.inf, 0, 1),
            (0, 0, -np.inf),
        ):
            assert not project_point(parameters, *point)[2]
