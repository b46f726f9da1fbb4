"""Fit of temperatures by class on development drives.

A temperature is used only if it lowers the negative log-likelihood on the other half of the drives;
otherwise the class keeps the temperature 1.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

# Minimum number of results of a class for a temperature of its own; other classes get the temperature
# that is fitted to the results of all classes.
MIN_RESULTS = 200
# Range of the natural logarithm of a temperature.
LOG_RANGE = (-3.0, 3.0)

Loss = Callable[[float, NDArray[np.int64]], float]


def fit_softmax_temperatures(
    logits: NDArray[np.floating],
    truth: NDArray[np.integer],
    group: NDArray[np.integer] | None = None,
) -> NDArray[np.float64]:
    """Temperatures (C,) by predicted class of a softmax.

    logits: (N, C). truth: (N,) true classes. group: (N,) number of the drive of each result; even ones
    are used for the fit and odd ones to check whether a temperature is an improvement. Without it all
    results are used for the fit, and every temperature is used.
    """
    z, y = np.asarray(logits, np.float64), np.asarray(truth, np.int64)
    predicted = z.argmax(axis=1)

    def loss(temperature: float, rows: NDArray[np.int64]) -> float:
        scaled = z[rows] / temperature
        top = scaled.max(axis=1)
        log_sum = top + np.log(np.exp(scaled - top[:, None]).sum(axis=1))
        return float(np.mean(log_sum - scaled[np.arange(len(rows)), y[rows]]))

    return _fit_by_class(loss, predicted, z.shape[1], group)


def fit_score_temperatures(
    scores: NDArray[np.floating],
    labels: NDArray[np.integer],
    right: NDArray[np.bool_],
    classes: int,
    group: NDArray[np.integer] | None = None,
) -> NDArray[np.float64]:
    """Temperatures (classes,) of scores of boxes, which are sigmoids of logits.

    scores, labels, right: (N,) score, class, and whether the box matches a label. group: see
    fit_softmax_temperatures.
    """
    p = np.clip(np.asarray(scores, np.float64), 1e-6, 1.0 - 1e-6)
    z = np.log(p) - np.log1p(-p)
    sign = np.where(right, 1.0, -1.0)

    def loss(temperature: float, rows: NDArray[np.int64]) -> float:
        return float(np.mean(np.logaddexp(0.0, -sign[rows] * z[rows] / temperature)))

    return _fit_by_class(loss, np.asarray(labels, np.int64), classes, group)


def _fit_by_class(
    loss: Loss, labels: NDArray[np.int64], classes: int, group: NDArray[np.integer] | None
) -> NDArray[np.float64]:
    fitted = np.ones(len(labels), np.bool_) if group is None else np.asarray(group) % 2 == 0
    pooled = _fit(loss, np.flatnonzero(fitted))
    result = np.ones(classes)
    for k in range(classes):
        rows = np.flatnonzero(fitted & (labels == k))
        temperature = pooled if len(rows) < MIN_RESULTS else _fit(loss, rows)
        others = np.flatnonzero(~fitted & (labels == k))
        if group is None or (len(others) and loss(temperature, others) < loss(1.0, others)):
            result[k] = temperature
    return result


def _fit(loss: Loss, rows: NDArray[np.int64]) -> float:
    if not len(rows):
        return 1.0
    found = minimize_scalar(lambda t: loss(float(np.exp(t)), rows), bounds=LOG_RANGE)
    return float(np.exp(found.x))
