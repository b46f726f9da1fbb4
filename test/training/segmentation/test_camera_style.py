"""Random changes of the look of camera images."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multimodal_perception.training.segmentation.camera_style import match_colours, vary_camera


def scene(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (6, 8, 3)).astype(np.uint8)
    return cv2.resize(coarse, (96, 64), interpolation=cv2.INTER_LINEAR)


def lab_mean(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(image, cv2.COLOR_RGB2LAB).reshape(-1, 3).astype(float).mean(axis=0)


def test_matched_colours_have_the_mean_of_the_reference() -> None:
    reference = (0.3 * scene(1) + 90).astype(np.uint8)
    matched = match_colours((0.5 * scene(0) + 40).astype(np.uint8), reference, 1.0)
    np.testing.assert_allclose(lab_mean(matched), lab_mean(reference), atol=4.0)


def test_strength_zero_keeps_the_colours() -> None:
    image = (0.5 * scene(0) + 60).astype(np.uint8)
    kept = match_colours(image, scene(1), 0.0)
    assert np.abs(kept.astype(int) - image.astype(int)).mean() < 2.0  # rounding of the colour space


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), strength=st.floats(0.1, 1.0))
def test_varied_images_keep_size_and_depend_on_the_generator_only(
    seed: int, strength: float
) -> None:
    image = scene()
    first = vary_camera(image, strength, np.random.default_rng(seed))
    second = vary_camera(image, strength, np.random.default_rng(seed))
    assert first.shape == image.shape
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(image, scene())  # the input is not changed


def test_objects_stay_where_they_are() -> None:
    """The position of a bright square, measured after the change, is that before it."""
    image = np.full((64, 96, 3), 60, np.uint8)
    image[20:40, 30:60] = 200
    for seed in range(25):
        grey = vary_camera(image, 1.0, np.random.default_rng(seed)).astype(float).mean(axis=2)
        threshold = (grey[25:35, 35:55].mean() + grey[50:, :20].mean()) / 2
        rows, columns = np.nonzero(grey > threshold)
        assert rows.mean() == pytest.approx(29.5, abs=1.0)
        assert columns.mean() == pytest.approx(44.5, abs=1.0)
