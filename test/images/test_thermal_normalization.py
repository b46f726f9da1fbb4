"""Thermal images: mended, flat, and steady in contrast."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from multimodal_perception.images.thermal_normalization import (
    FlatField,
    ThermalConfig,
    ThermalNormaliser,
    anchoring_power,
    find_bad_pixels,
    mend_bad_pixels,
)

FRAME_NS = 33_333_333


def scene(rng: np.random.Generator, warm: int = 0) -> np.ndarray:
    y, x = np.mgrid[:96, :128]
    counts = 8000 + 4 * x + 2 * y + rng.normal(0, 6, (96, 128))
    if warm:
        counts[30:60, 40:80] += warm
    return counts.astype(np.uint16)


def test_broken_pixels_are_found_and_only_they() -> None:
    rng = np.random.default_rng(0)
    frames = np.stack([scene(rng, 40 * i) for i in range(12)])
    frames[:, 10, 20] = 16000  # hot
    frames[:, 70, 90] = 10  # cold
    frames[:, 45, 60] = frames[0, 45, 60]  # stuck where the scene changes
    bad = find_bad_pixels(frames)
    assert bad[10, 20] and bad[70, 90] and bad[45, 60]
    assert bad.sum() <= 3 + 0.002 * bad.size
    with pytest.raises(ValueError, match="at least 8"):
        find_bad_pixels(frames[:3])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_bad_pixels_take_their_neighbours_mean(dtype: type) -> None:
    y, x = np.mgrid[:20, :30]
    truth = (50 + 2 * x + 3 * y).astype(dtype)
    bad = np.zeros(truth.shape, bool)
    bad[5, 5] = bad[10, 10] = bad[10, 11] = bad[0, 0] = True
    broken = truth.copy()
    broken[bad] = 255
    mended = mend_bad_pixels(broken, bad)
    assert mended.dtype == dtype
    assert_array_equal(mended[~bad], truth[~bad])
    assert_allclose(mended[bad].astype(float), truth[bad].astype(float), atol=4)


def test_a_large_hole_gets_the_median_and_nothing_stays_as_it_was() -> None:
    image = np.full((20, 20), 100, np.uint16)
    bad = np.zeros(image.shape, bool)
    bad[4:14, 4:14] = True
    image[bad] = 9999
    assert (mend_bad_pixels(image, bad) == 100).all()
    with pytest.raises(ValueError, match="all pixels"):
        mend_bad_pixels(image, np.ones_like(bad))
    with pytest.raises(ValueError, match="mask"):
        mend_bad_pixels(image, bad[:5])


def test_two_temperatures_give_the_pattern() -> None:
    rng = np.random.default_rng(1)
    gain = rng.normal(1.0, 0.1, (40, 50))
    offset = rng.normal(0.0, 80.0, (40, 50))

    def seen(temperature: np.ndarray | float) -> np.ndarray:
        return (temperature * gain + offset).astype(np.uint16)

    flat = FlatField.from_two_points(np.stack([seen(6000.0)] * 4), np.stack([seen(9000.0)] * 4))
    assert flat.correct(seen(7500.0)).std() < 2.0 < 100 < seen(7500.0).std()
    with pytest.raises(ValueError, match="not hotter"):
        FlatField.from_two_points(np.stack([seen(9000.0)]), np.stack([seen(6000.0)]))
    with pytest.raises(ValueError, match="flat field is"):
        flat.correct(np.zeros((3, 3), np.uint16))


def test_a_shutter_takes_the_offset_off() -> None:
    rng = np.random.default_rng(2)
    pattern = rng.normal(0, 50, (40, 50))
    shutter = np.stack([(7000 + pattern).astype(np.uint16)] * 4)
    corrected = FlatField.from_shutter(shutter).correct((8000 + pattern).astype(np.uint16))
    assert corrected.std() < 2.0
    assert corrected.mean() == pytest.approx(8000, abs=5)


def test_something_hot_that_passes_does_not_make_the_rest_flicker() -> None:
    rng = np.random.default_rng(3)
    normaliser = ThermalNormaliser()
    background = []
    for i in range(60):
        image = scene(rng, 6000 if 20 <= i < 40 else 0)
        background.append(float(normaliser.normalise(image, i * FRAME_NS)[80:, 100:].mean()))
    steps = np.abs(np.diff(background))
    assert steps.max() < 0.05
    # The image's own percentiles would have jumped.
    alone = float(ThermalNormaliser().normalise(scene(rng, 6000), 0)[80:, 100:].mean())
    assert abs(alone - background[19]) > 0.3


def test_contrast_follows_the_scene_in_time_whatever_the_rate() -> None:
    limits = []
    for rate in (9, 60):
        normaliser = ThermalNormaliser(ThermalConfig(follow_s=1.0))
        dark, bright = np.full((64, 64), 1000, np.uint16), np.full((64, 64), 1000, np.uint16)
        dark[:32], bright[:32] = 2000, 6000
        normaliser.normalise(dark, 0)
        for i in range(1, rate + 1):
            normaliser.normalise(bright, round(i * 1e9 / rate))
        limits.append(normaliser._limits)
    assert limits[0] == pytest.approx(limits[1], rel=0.05)


def test_an_even_scene_is_not_all_noise() -> None:
    rng = np.random.default_rng(4)
    image = (5000 + rng.integers(-1, 2, (64, 64))).astype(np.uint16)
    normalised = ThermalNormaliser().normalise(image, 0)
    assert normalised.std() < 0.1
    assert np.isfinite(normalised).all()


def test_after_a_jump_of_time_the_limits_begin_anew() -> None:
    normaliser = ThermalNormaliser()
    cold = np.tile(np.arange(64, dtype=np.uint16), (64, 1))
    hot = cold + 30000
    normaliser.normalise(cold, 100 * FRAME_NS)
    again = normaliser.normalise(hot, 0)
    assert 0.3 < again.mean() < 0.7


def test_eight_bit_images_work_too() -> None:
    image = np.tile(np.arange(0, 256, 2, dtype=np.uint8), (64, 1))
    normalised = ThermalNormaliser().normalise(image, 0)
    assert normalised.dtype == np.float32
    assert (normalised.min(), normalised.max()) == (0.0, 1.0)


def test_under_a_cold_sky_what_is_warm_gets_its_contrast_back() -> None:
    # Half of it sky at 0, a street at 0.8, and someone at 0.9.
    image = np.zeros((96, 128), np.float32)
    image[48:] = 0.8
    image[60:80, 60:66] = 0.9
    power = anchoring_power(image, 0.5)
    assert_allclose(np.float32(0.8) ** power, 0.5, rtol=1e-5)
    assert 0.9**power - 0.8**power > 1.9 * (0.9 - 0.8)


@pytest.mark.parametrize(("value", "power"), [(0.0, 0.5), (1.0, 8.0), (0.5, 1.0)])
def test_the_power_has_its_bounds(value: float, power: float) -> None:
    assert_allclose(anchoring_power(np.full((9, 9), value, np.float32), 0.5), power, rtol=1e-6)
