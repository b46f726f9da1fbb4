"""Another brightness, the same colour."""

from __future__ import annotations

import cv2
import numpy as np

from multimodal_perception.image_fusion.colour import with_luma


def test_the_luma_is_the_one_given_and_the_chroma_the_images() -> None:
    rng = np.random.default_rng(0)
    rgb = rng.integers(100, 150, (8, 9, 3), np.uint8)
    luma = rng.uniform(0.3, 0.7, (8, 9)).astype(np.float32)
    before = cv2.cvtColor(rgb, cv2.COLOR_RGB2YCrCb).astype(int)
    after = cv2.cvtColor(with_luma(rgb, luma), cv2.COLOR_RGB2YCrCb).astype(int)
    assert np.abs(after[..., 0] - 255 * luma).max() <= 2
    assert np.abs(after[..., 1:] - before[..., 1:]).max() <= 2


def test_brightness_beyond_the_range_is_black_or_white() -> None:
    grey = np.full((1, 2, 3), 128, np.uint8)
    beyond = with_luma(grey, np.array([[-0.5, 1.5]], np.float32))
    assert beyond[0].tolist() == [[0, 0, 0], [255, 255, 255]]
