"""Averages of the probabilities of several runs of segmentation networks for one image.

The mean probability of an ensemble of networks (Lakshminarayanan et al. 2017), or of an image and its
mirror image, is a better confidence than that of a single run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Smallest probability whose logarithm is computed; smaller ones are set to it.
SMALLEST = np.float32(1e-9)


def mirror_columns(array: NDArray[Any], columns: int) -> NDArray[Any]:
    """The array (..., W) with its first `columns` columns in reverse order; the others are padding."""
    result = array.copy()
    result[..., :columns] = array[..., :columns][..., ::-1]
    return result


def mirrored_inputs(
    arrays: Mapping[str, NDArray[np.float32]], columns: int
) -> dict[str, NDArray[np.float32]]:
    """The inputs (..., W) of a network with mirrored images.

    columns: width of the image in the inputs, pixels; the columns to the right of it are padding.
    """
    return {name: mirror_columns(values, columns) for name, values in arrays.items()}


def mean_logits(runs: Sequence[NDArray[np.floating]]) -> NDArray[np.float32]:
    """Logarithm (..., classes) float32 of the mean softmax over the runs; for one run, its logits.

    runs: logits (..., classes) of equal shape.
    """
    if len(runs) == 1:
        return np.asarray(runs[0], np.float32)
    total = np.zeros(runs[0].shape, np.float32)
    for logits in runs:
        weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
        total += weights / weights.sum(axis=-1, keepdims=True)
    return np.asarray(np.log(np.maximum(total / np.float32(len(runs)), SMALLEST)), np.float32)
