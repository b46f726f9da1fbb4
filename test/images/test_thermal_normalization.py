"""Normalisation of thermal images with stable contrast."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from multimodal_perception.images.thermal_normalization import (
    ThermalNormaliser,
    quartile_gamma,
)

FRAME_NS = 33_333_333


def scene(rng: np.random.Generator, warm: int = 0) -> np.ndarray:
    y, x = np.mgrid[:96, :128]
    counts = 8000 + 4 * x + 2 * y + rng.normal(0, 6, (96, 128))
    if warm:
        counts[30:60, 40:80] += warm
    return counts.astype(np.uint16)


def test_passing_hot_object_does_not_change_the_background() -> None:
    rng = np.random.default_rng(3)
    normaliser = ThermalNormaliser()
    background = []
    for i in range(60):
        image = scene(rng, 6000 if 20 <= i < 40 else 0)
        background.append(float(normaliser.normalise(image, i * FRAME_NS)[80:, 100:].mean()))
    steps = np.abs(np.diff(background))
    assert steps.max() < 0.05
    # The percentiles of the single image would jump.
    single = float(ThermalNormaliser().normalise(scene(rng, 6000), 0)[80:, 100:].mean())
    assert abs(single - background[19]) > 0.3


def test_limits_follow_the_scene_independently_of_the_frame_rate() -> None:
    limits = []
    for rate in (9, 60):
        normaliser = ThermalNormaliser()
        dark, bright = np.full((64, 64), 1000, np.uint16), np.full((64, 64), 1000, np.uint16)
        dark[:32], bright[:32] = 2000, 6000
        normaliser.normalise(dark, 0)
        for i in range(1, rate + 1):
            normaliser.normalise(bright, round(i * 1e9 / rate))
        limits.append(normaliser._limits)
    assert limits[0] == pytest.approx(limits[1], rel=0.05)


def test_noise_of_a_uniform_scene_is_not_amplified() -> None:
    rng = np.random.default_rng(4)
    image = (5000 + rng.integers(-1, 2, (64, 64))).astype(np.uint16)
    normalised = ThermalNormaliser().normalise(image, 0)
    assert normalised.std() < 0.1
    assert np.isfinite(normalised).all()


def test_stamps_that_jump_back_reset_the_limits() -> None:
    normaliser = ThermalNormaliser()
    cold = np.tile(np.arange(64, dtype=np.uint16), (64, 1))
    hot = cold + 30000
    normaliser.normalise(cold, 100 * FRAME_NS)
    again = normaliser.normalise(hot, 0)
    assert 0.3 < again.mean() < 0.7


def test_eight_bit_images_are_normalised() -> None:
    image = np.tile(np.arange(0, 256, 2, dtype=np.uint8), (64, 1))
    normalised = ThermalNormaliser().normalise(image, 0)
    assert normalised.dtype == np.float32
    assert (normalised.min(), normalised.max()) == (0.0, 1.0)


def test_quartile_gamma_restores_contrast_below_a_cold_sky() -> None:
    # Half of the image is sky at 0; the street is at 0.8 and a person at 0.9.
    image = np.zeros((96, 128), np.float32)
    image[48:] = 0.8
    image[60:80, 60:66] = 0.9
    gamma = quartile_gamma(image, 0.5)
    assert_allclose(np.float32(0.8) ** gamma, 0.5, rtol=1e-5)
    assert 0.9**gamma - 0.8**gamma > 1.9 * (0.9 - 0.8)


@pytest.mark.parametrize(("value", "gamma"), [(0.0, 0.5), (1.0, 8.0), (0.5, 1.0)])
def test_quartile_gamma_is_limited(value: float, gamma: float) -> None:
    assert_allclose(quartile_gamma(np.full((9, 9), value, np.float32), 0.5), gamma, rtol=1e-6)
