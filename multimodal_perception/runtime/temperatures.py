"""Temperatures by class of a model card, which correct the confidences of a network.

Temperature scaling (Guo et al. 2017, eq. 9) with one temperature for each predicted class: the most
probable class stays the same.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.configuration import UserError
from multimodal_perception.runtime.card import ModelCard

SETTING = "temperatures"
# Scores of exactly 0 and 1 have no finite logit.
SMALLEST_SCORE = 1e-6


def read_temperatures(card: ModelCard) -> NDArray[np.float32] | None:
    """Temperatures (classes,) from settings.temperatures, a mapping from class to a positive number.

    Classes that it does not list have the temperature 1. None without the setting. Raises UserError.
    """
    values = card.settings.get(SETTING)
    if values is None:
        return None
    key = f"{card.source}: settings.{SETTING}"
    if not isinstance(values, Mapping):
        raise UserError(f"{key}: expected a mapping from class to temperature")
    result = np.ones(len(card.classes), np.float32)
    for name, value in values.items():
        if name not in card.classes:
            raise UserError(f"{key}: {name!r}: allowed: {', '.join(card.classes)}")
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not np.isfinite(value) or value <= 0:
            raise UserError(f"{key}.{name}: expected a positive number; got {value!r}")
        result[card.classes.index(name)] = value
    return result


def softmax_confidence(
    logits: NDArray[np.floating],
    labels: NDArray[np.integer],
    temperatures: NDArray[np.floating] | None = None,
) -> NDArray[np.float32]:
    """Probability (N,) float32 of the predicted classes `labels` (N,) by logits (N, classes)."""
    z = np.asarray(logits, np.float32)
    if temperatures is not None:
        z = z / np.asarray(temperatures, np.float32)[labels][:, None]
    z = np.exp(z - z.max(axis=1, keepdims=True))
    chosen = np.take_along_axis(z, np.asarray(labels, np.int64)[:, None], axis=1)[:, 0]
    return np.asarray(chosen / z.sum(axis=1), np.float32)


def scaled_scores(
    scores: NDArray[np.floating],
    labels: NDArray[np.integer],
    temperatures: NDArray[np.floating] | None,
) -> NDArray[np.float32]:
    """Scores (N,) float32 in [0, 1] of boxes with classes `labels` (N,), after temperature scaling."""
    p = np.asarray(scores, np.float32)
    if temperatures is None:
        return p
    p = np.clip(p.astype(np.float64), SMALLEST_SCORE, 1.0 - SMALLEST_SCORE)
    logit = np.log(p) - np.log1p(-p)
    return np.asarray(1.0 / (1.0 + np.exp(-logit / temperatures[labels])), np.float32)
