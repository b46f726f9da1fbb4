"""Runs a network on several images, in batches or in parallel where that is possible."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.runtime.engine import Arrays, Engine, EngineError, run_many

Outputs = dict[str, NDArray[Any]]


def batch_size(engine: Engine) -> int:
    """Number of images that the network processes in one run: the first size of its inputs."""
    return next(iter(engine.inputs.values())).shape[0]


def run_images(engine: Engine, inputs: Sequence[Arrays]) -> list[Outputs | None]:
    """Outputs of each image, with a batch size of 1; None for images whose run failed.

    Images are stacked if the network has a batch size above 1 (the last batch is filled with zeros), and
    else run in parallel where the engine can. inputs: of each image, by tensor name, with a batch size
    of 1.
    """
    size = batch_size(engine)
    if size > 1:
        return _run_batches(engine, inputs, size)
    try:
        return list(run_many(engine, inputs))
    except EngineError:
        if len(inputs) < 2:
            return [None] * len(inputs)
    # Only the images whose own run fails are lost.
    results: list[Outputs | None] = []
    for arrays in inputs:
        try:
            results.append(engine.run(arrays))
        except EngineError:
            results.append(None)
    return results


def _run_batches(engine: Engine, inputs: Sequence[Arrays], size: int) -> list[Outputs | None]:
    results: list[Outputs | None] = []
    for start in range(0, len(inputs), size):
        chunk = inputs[start : start + size]
        try:
            outputs = engine.run(_stack(engine, chunk))
        except EngineError:
            results += [None] * len(chunk)
            continue
        results += [
            {name: values[i : i + 1] for name, values in outputs.items()} for i in range(len(chunk))
        ]
    return results


def _stack(engine: Engine, chunk: Sequence[Arrays]) -> Arrays:
    batch = {}
    for name, spec in engine.inputs.items():
        batch[name] = np.zeros(spec.shape, spec.dtype)
        for i, arrays in enumerate(chunk):
            batch[name][i] = arrays[name][0]
    return batch
