"""Network inputs from recordings: evenly spaced frames, checked against the card."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from multimodal_perception.configuration import UserError
from multimodal_perception.datasets.network_inputs import recorded_inputs
from multimodal_perception.runtime.card import ModelCard, load_card
from test.runtime import small_models as models

FRAMES = [models.scatter_arrays(seed) for seed in range(6)]


@pytest.fixture
def card(tmp_path: Path) -> ModelCard:
    return models.save(tmp_path / "model", models.scatter_model())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "inputs"
    folder.mkdir()
    for k, arrays in enumerate(FRAMES):
        np.savez(folder / f"{k}.npz", **arrays)
    return folder


def frame_index(arrays: dict[str, np.ndarray]) -> int:
    first = arrays["image"][0, 0, 0, 0]
    return next(k for k, frame in enumerate(FRAMES) if frame["image"][0, 0, 0, 0] == first)


def test_frames_are_evenly_spaced(card: ModelCard, folder: Path) -> None:
    assert [frame_index(dict(a)) for a in recorded_inputs(folder, card, 3)] == [0, 2, 5]
    assert len(list(recorded_inputs(folder, card, 99))) == len(FRAMES)
    assert len(list(recorded_inputs(folder / "0.npz", card, 99))) == 1


def test_wrong_shape_raises_with_frame_and_input(card: ModelCard, folder: Path) -> None:
    np.savez(folder / "0.npz", **{**FRAMES[0], "image": np.zeros((1, 3, 16, 25), np.float32)})
    with pytest.raises(UserError, match=r"inputs, frame 0: input image: expected \[1, 3, 16, 24\]"):
        list(recorded_inputs(folder, card, 3))


def test_damaged_or_pickled_file_raises(card: ModelCard, folder: Path) -> None:
    (folder / "0.npz").write_bytes(b"PK not a zip")
    with pytest.raises(UserError, match=r"0\.npz: "):
        list(recorded_inputs(folder, card, 3))
    np.savez(folder / "0.npz", image=np.array([{}], object))
    with pytest.raises(UserError, match=r"0\.npz: .*pickle"):
        list(recorded_inputs(folder, card, 3))


def test_inputs_have_the_names_of_the_card_and_not_of_the_onnx_file() -> None:
    card = load_card("near_field")
    assert card.onnx_names
    drive = Path("simulated:parking_lot,frames=1,rig=near_field")
    (arrays,) = recorded_inputs(drive, card, 1)
    assert set(arrays) == set(card.inputs)


def test_unknown_architecture_raises(card: ModelCard) -> None:
    with pytest.raises(UserError, match="architecture: unknown value 'none'"):
        list(recorded_inputs(Path("synthetic"), card, 3))
