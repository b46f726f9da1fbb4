"""Repetition of samples with rare classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.training.bev_fusion.sample_files import (
    read_sample,
)


def repeat_rare_classes(
    paths: Sequence[Path],
    threshold: float,
    seed: int,
    class_table: NDArray[np.int64],
) -> list[Path]:
    """Paths of samples, in which samples with rare classes are repeated.

    class_table: class of the detector for each index into CLASS_NAMES, -1 for others.

    A sample occurs sqrt(threshold / fraction of samples with its rarest class) times, at least once; the
    fractional part is rounded at random (repeat factor sampling, Gupta et al. 2019, section 4.2).
    """
    contains = np.zeros((len(paths), int(class_table.max()) + 1), np.bool_)
    for k, path in enumerate(paths):
        sample = read_sample(path, ("labels", "num_points"))
        labels = class_table[sample["labels"]][sample["num_points"] > 0]
        contains[k, labels[labels >= 0]] = True
    repeat_factor = np.sqrt(threshold / np.maximum(contains.mean(axis=0), 1e-9))
    times = np.where(contains, repeat_factor, 1.0).max(axis=1, initial=1.0)
    times += np.random.default_rng(seed).random(len(paths))
    return [path for path, count in zip(paths, times, strict=True) for _ in range(int(count))]
