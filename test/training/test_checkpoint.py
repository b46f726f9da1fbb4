"""Weights on disk: atomic, with the usual file mode, and checked when they are loaded."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import nn

from multimodal_perception.configuration import UserError
from multimodal_perception.networks.near_field import build_near_field
from multimodal_perception.runtime.card import load_card
from multimodal_perception.training import checkpoint


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_saved_weights_are_loaded_and_have_the_usual_file_mode(tmp_path: Path, mask: int) -> None:
    network, other = nn.Linear(3, 2), nn.Linear(3, 2)
    path = tmp_path / "model.safetensors"
    before = os.umask(mask)
    try:
        checkpoint.save_weights(network, path)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    checkpoint.load_weights(other, path)
    assert torch.equal(network.weight, other.weight)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    checkpoint.save_weights(nn.Linear(3, 2), tmp_path / "w.safetensors")
    with pytest.raises(UserError, match="not weights of Linear"):
        checkpoint.load_weights(nn.Linear(4, 2), tmp_path / "w.safetensors")
    (tmp_path / "cut").write_bytes((tmp_path / "w.safetensors").read_bytes()[:40])
    with pytest.raises(UserError, match="not a weights file"):
        checkpoint.load_weights(nn.Linear(3, 2), tmp_path / "cut")


def test_additional_inputs_of_a_linear_layer_start_with_zero_weights(tmp_path: Path) -> None:
    before, after = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 4)), nn.Sequential(nn.Linear(5, 2))
    checkpoint.save_weights(before, tmp_path / "w.safetensors")
    checkpoint.load_matching_weights(after, tmp_path / "w.safetensors")
    x = torch.randn(4, 5)
    torch.testing.assert_close(after(x), before[0](x[:, :3]))
    with pytest.raises(UserError, match="no weights of Conv2d"):
        checkpoint.load_matching_weights(nn.Conv2d(1, 1, 1), tmp_path / "w.safetensors")
    with pytest.raises(UserError, match="not a weights file"):
        checkpoint.load_matching_weights(after, tmp_path / "missing")


def test_weights_of_a_model_have_the_names_of_the_module() -> None:
    card = load_card("near_field")
    weights = checkpoint.read_weights(Path("near_field"))
    assert card.weight_prefixes
    assert weights.keys() == build_near_field(card.settings).state_dict().keys()
    with pytest.raises(UserError, match="detectr"):
        checkpoint.read_weights(Path("detectr"))
