"""Temperatures are recovered from results that were drawn with known ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from multimodal_perception.configuration import UserError
from multimodal_perception.runtime.card import ModelCard, TensorSpec
from multimodal_perception.runtime.temperatures import (
    read_temperatures,
    scaled_scores,
    softmax_confidence,
)
from multimodal_perception.training.temperature_scaling import (
    fit_score_temperatures,
    fit_softmax_temperatures,
)


def drawn_classes(temperature: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits (N, 3) and classes drawn from their softmax with a temperature."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (30_000, 3))
    p = np.exp(logits / temperature)
    p /= p.sum(axis=1, keepdims=True)
    return logits, (rng.uniform(size=(30_000, 1)) > p.cumsum(axis=1)).sum(axis=1)


@pytest.mark.parametrize("temperature", [0.6, 1.0, 2.5])
def test_temperature_of_a_softmax_is_recovered(temperature: float) -> None:
    logits, truth = drawn_classes(temperature)
    assert fit_softmax_temperatures(logits, truth) == pytest.approx([temperature] * 3, rel=0.08)


def test_temperature_of_each_class_of_boxes_is_recovered() -> None:
    rng, temperatures = np.random.default_rng(1), np.array([0.5, 2.0])
    labels, z = rng.integers(0, 2, 40_000), rng.normal(0, 2, 40_000)
    right = rng.uniform(size=40_000) < 1 / (1 + np.exp(-z / temperatures[labels]))
    scores = 1 / (1 + np.exp(-z))
    fitted = fit_score_temperatures(scores, labels, right, 2)
    assert fitted == pytest.approx(temperatures, rel=0.08)
    scaled = scaled_scores(scores, labels, fitted)
    for k in (0, 1):
        high = (labels == k) & (scaled > 0.8)
        assert right[high].mean() == pytest.approx(scaled[high].mean(), abs=0.02)


def test_temperature_that_is_worse_on_the_other_drives_is_not_used() -> None:
    (first, truth), (second, other) = drawn_classes(2.5), drawn_classes(0.5, 1)
    logits, labels = np.concatenate([first, second]), np.concatenate([truth, other])
    group = np.repeat([0, 1], 30_000)
    assert fit_softmax_temperatures(logits, labels, group).tolist() == [1.0, 1.0, 1.0]


def test_confidence_of_a_class_is_its_probability_and_keeps_the_class() -> None:
    logits = np.log(np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]]))
    labels = logits.argmax(axis=1)
    assert softmax_confidence(logits, labels) == pytest.approx([0.7, 0.8])
    half = softmax_confidence(logits, labels, np.array([2.0, 1.0, 1.0]))
    root = np.sqrt([0.7, 0.2, 0.1])
    assert half == pytest.approx([root[0] / root.sum(), 0.8])


def card(temperatures: object) -> ModelCard:
    spec = {"x": TensorSpec((1, 3))}
    base = ModelCard("m", "a", spec, spec, "Apache-2.0", "t", classes=("car", "person"))
    return replace(base, settings={} if temperatures is None else {"temperatures": temperatures})


def test_temperatures_of_a_card() -> None:
    assert read_temperatures(card(None)) is None
    assert read_temperatures(card({"person": 1.5})).tolist() == [1.0, 1.5]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1.0], "expected a mapping"),
        ({"plane": 1.0}, "'plane': allowed: car, person"),
        ({"car": 0}, "expected a positive number"),
        ({"car": float("nan")}, "expected a positive number"),
        ({"car": "hot"}, "expected a positive number"),
        ({"car": True}, "expected a positive number"),
    ],
)
def test_invalid_temperatures_of_a_card_are_errors(value: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_temperatures(card(value))
