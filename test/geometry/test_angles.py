"""The fast azimuth kernel agrees with np.arctan2."""

from __future__ import annotations

import numpy as np

from multimodal_perception.geometry.angles import azimuth


def test_azimuth_matches_arctan2() -> None:
    angles = np.linspace(-np.pi, np.pi, 2001)
    for radius in (1e-3, 1.0, 80.0):
        x, y = (radius * np.cos(angles)).tolist(), (radius * np.sin(angles)).tolist()
        fast = np.array([azimuth(a, b) for a, b in zip(x, y, strict=True)])
        exact = np.arctan2(y, x)
        np.testing.assert_allclose(np.cos(fast - exact), 1.0, atol=1e-9)
        np.testing.assert_allclose(np.sin(fast - exact), 0.0, atol=5e-6)
