"""Thermal images that are synthesised from labelled visible images."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from multimodal_perception.segmentation.classes import SEGMENTATION_CLASSES
from multimodal_perception.training.image_fusion.synthetic_thermal import (
    VARIANTS,
    labelled_samples,
    synthesise_thermal,
)
from multimodal_perception.training.real_images import RealImage, write_image

PERSON, SKY = (SEGMENTATION_CLASSES.index(n) for n in ("person", "sky"))


def labels() -> np.ndarray:
    """A person in front of a road, below the sky."""
    image = np.zeros((120, 200), np.uint8)
    image[:40] = SKY
    image[50:100, 80:110] = PERSON
    return image


def test_people_are_warmer_than_the_road_and_the_sky_is_cold() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (120, 200)).astype(np.uint8)
    for seed in range(10):
        thermal = synthesise_thermal(grey, labels(), np.random.default_rng(seed)).astype(float)
        person, road = thermal[60:90, 88:102].mean(), thermal[105:, :].mean()
        assert person > road + 10
        assert thermal[5:30].mean() < road


def test_each_image_gives_several_samples_with_its_foreground(tmp_path: Path) -> None:
    pixels = np.full((120, 200, 3), 100, np.uint8)
    none = np.zeros((0, 4), np.float32)
    write_image(tmp_path, RealImage("a", pixels, labels(), none, np.zeros(0, np.int64)))
    samples = labelled_samples(tmp_path)
    assert len(samples) == VARIANTS + 2
    first, second = samples[:2]
    assert not np.array_equal(first.thermal, second.thermal)
    fraction = (labels() == PERSON).mean()
    assert np.isclose((first.foreground == 255).mean(), fraction, atol=0.01)
    assert first.visible.shape == first.thermal.shape == first.foreground.shape
