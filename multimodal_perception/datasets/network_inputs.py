"""Network inputs from recorded data, for int8 calibration and benchmarks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from multimodal_perception.configuration import UserError
from multimodal_perception.datasets.open_dataset import open_dataset
from multimodal_perception.npz_reader import read_npz
from multimodal_perception.runtime.architectures import resolve
from multimodal_perception.runtime.card import ModelCard
from multimodal_perception.runtime.engine import Arrays, InputError, check_inputs


def recorded_inputs(path: Path, card: ModelCard, limit: int) -> Iterator[Arrays]:
    """Yield a network's inputs for up to `limit` frames, evenly spaced over a recording.

    path: a bag or dataset, whose frames the architecture's frame_inputs function converts; or .npz
    files (one file, or a folder of them), each with an array per input for one frame. The keys are
    the names of the card's inputs. Raises UserError for unreadable files and invalid inputs.
    """
    files = sorted(path.glob("*.npz")) if path.is_dir() else [path] if path.suffix == ".npz" else []
    frames: Any = files or open_dataset(path)  # paths or SensorFrames
    convert = _read_npz if files else resolve(card, "frame_inputs")(card)
    if not len(frames):
        raise UserError(f"{path}: no frames")
    for index in np.unique(np.linspace(0, len(frames) - 1, limit).astype(int)):
        arrays = convert(frames[int(index)])
        try:
            check_inputs(card.inputs, arrays)
        except InputError as error:
            raise UserError(f"{path}, frame {index}: {error}") from error
        yield arrays


def _read_npz(path: Path) -> Arrays:
    return read_npz(path)
