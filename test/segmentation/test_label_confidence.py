"""Probabilities of the labels of a mask, from logits in a lower resolution."""

from __future__ import annotations

import numpy as np
import pytest

from multimodal_perception.perception import SegmentationMask
from multimodal_perception.segmentation.confidence import label_confidence, sampled_logits
from multimodal_perception.segmentation.rgb_thermal import argmax_of_upsampled_logits

CLASSES = ("road", "car", "sky")


def mask(logits: np.ndarray, temperatures: np.ndarray | None = None) -> SegmentationMask:
    """A mask (24, 40) of logits (12, 20, 3)."""
    labels = np.empty((24, 40), np.uint8)
    argmax_of_upsampled_logits(logits, 0.5, labels)
    return SegmentationMask("camera", 0, labels, CLASSES, logits, temperatures)


def test_interpolated_logits_have_the_labels_of_the_mask() -> None:
    given = mask(np.random.default_rng(0).normal(0, 3, (12, 20, 3)).astype(np.float32))
    for step in (1, 4):
        logits = sampled_logits(given, step)
        assert logits is not None
        assert (logits.argmax(axis=2) == given.labels[::step, ::step]).mean() > 0.995


def test_confidence_is_the_softmax_with_the_temperature_of_the_label() -> None:
    logits = np.zeros((12, 20, 3), np.float32)
    logits[..., 1] = np.log(8.0)
    confidence = label_confidence(mask(logits), 4)
    assert confidence is not None and confidence.shape == (6, 10)
    assert confidence == pytest.approx(np.full((6, 10), 0.8))
    temperatures = np.array([1.0, 3.0, 1.0], np.float32)
    softer = label_confidence(mask(logits, temperatures), 4)
    assert softer == pytest.approx(np.full((6, 10), 2 / 4))


def test_mask_without_logits_has_no_confidence() -> None:
    bare = SegmentationMask("camera", 0, np.zeros((4, 4), np.uint8), CLASSES)
    assert label_confidence(bare) is None and sampled_logits(bare) is None
