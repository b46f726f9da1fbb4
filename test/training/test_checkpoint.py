"""Weights on disk: whole, and readable by whom a file usually is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import nn

from multimodal_perception.configuration import UserError
from multimodal_perception.training import checkpoint


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_weights_come_back_and_have_the_modes_of_other_files(tmp_path: Path, mask: int) -> None:
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
    with pytest.raises(UserError, match="not weights"):
        checkpoint.load_weights(nn.Linear(3, 2), tmp_path / "cut")
