"""Weights on disk: whole, and readable by whom a file usually is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import nn

from multimodal_perception.cli.main import main
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


def test_the_mean_of_weights_keeps_what_the_last_has_alone(tmp_path: Path) -> None:
    first = {"a": torch.tensor([1.0, 2.0]), "head": torch.ones(2), "count": torch.tensor(3)}
    last = {"a": torch.tensor([3.0, 6.0]), "head": torch.zeros(3), "count": torch.tensor(5)}
    paths = [tmp_path / "1.safetensors", tmp_path / "2.safetensors"]
    for weights, path in zip((first, last), paths, strict=True):
        checkpoint.write_weights(weights, path)
    out = tmp_path / "mean.safetensors"
    assert main(["train", "average", *map(str, paths), "--out", str(out)]) == 0
    mean = checkpoint.read_weights(out)
    assert mean["a"].tolist() == [2.0, 4.0]
    assert mean["head"].tolist() == [0.0, 0.0, 0.0] and mean["count"].item() == 5
    checkpoint.write_weights({"b": torch.ones(1)}, paths[1])
    with pytest.raises(UserError, match="no weights in common"):
        checkpoint.mean_of(paths)
    with pytest.raises(UserError, match="No such file"):
        checkpoint.write_weights(mean, tmp_path / "absent" / "w.safetensors")


def test_a_layer_that_takes_more_than_its_weights_knew_begins_as_it_was(tmp_path: Path) -> None:
    before, after = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 4)), nn.Sequential(nn.Linear(5, 2))
    checkpoint.save_weights(before, tmp_path / "w.safetensors")
    checkpoint.begin_from(after, tmp_path / "w.safetensors")
    x = torch.randn(4, 5)
    torch.testing.assert_close(after(x), before[0](x[:, :3]))
    with pytest.raises(UserError, match="no weights of Conv2d"):
        checkpoint.begin_from(nn.Conv2d(1, 1, 1), tmp_path / "w.safetensors")
    with pytest.raises(UserError, match="not weights"):
        checkpoint.begin_from(after, tmp_path / "missing")


def test_a_models_name_stands_for_its_weights_and_those_of_its_image_networks() -> None:
    whole = checkpoint.read_weights(Path("detector"))
    parts = {k: checkpoint.read_weights(Path(f"detector_{k}")) for k in ("camera", "thermal")}
    for kind, part in parts.items():
        assert part and all(torch.equal(whole[f"{kind}_{n}"], t) for n, t in part.items())
    assert "head.heat.bias" in whole
    with pytest.raises(UserError, match="no such model; shipped: detector"):
        checkpoint.read_weights(Path("detectr"))
