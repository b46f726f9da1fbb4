"""The first stage: batch normalisation with and without LiDAR, and learning of a few frames."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from multimodal_perception.configuration import UserError
from multimodal_perception.networks.bev_fusion import BevFusionNetwork
from multimodal_perception.training.bev_fusion.dataset import collate
from multimodal_perception.training.bev_fusion.drives import open_drive
from multimodal_perception.training.bev_fusion.sample_files import (
    sample_paths,
    write_sample,
)
from multimodal_perception.training.bev_fusion.samples import build_sample, has_lidar
from multimodal_perception.training.bev_fusion.stage_weights import load_encoders
from multimodal_perception.training.bev_fusion.train_images import ImageEncoders, image_losses
from multimodal_perception.training.bev_fusion.train_stage1 import (
    batch_losses,
    bev_outputs,
    open_frames,
)
from test.training.bev_fusion.tiny import SEED, TINY, configured, rendering


def running_statistics(network: torch.nn.Module) -> list[torch.Tensor]:
    return [b.clone() for n, b in network.named_buffers() if "running" in n]


def test_frames_without_lidar_do_not_change_the_statistics(
    tiny_samples: Path, trained: dict[str, Path]
) -> None:
    torch.manual_seed(0)
    config = configured("fusion")
    frames = open_frames(config, tiny_samples, load_encoders(TINY, list(trained.values())))
    batch = collate([frames[k] for k in range(3)])[0]
    network = BevFusionNetwork(TINY).train()
    before = running_statistics(network)
    without = bev_outputs(network, batch, torch.zeros(3, dtype=torch.bool))
    assert all(torch.equal(a, b) for a, b in zip(before, running_statistics(network), strict=True))
    # Without LiDAR, the outputs are those of the vehicle, and of each frame by itself.
    network.eval()
    alone = network.bev_outputs({n: t[1:2] for n, t in batch.items()})
    torch.testing.assert_close(without.heatmap[1:2], alone.heatmap, rtol=1e-4, atol=1e-5)
    network.train()
    mixed = bev_outputs(network, batch, torch.tensor([True, False, True]))
    assert network.training and mixed.code.requires_grad
    torch.testing.assert_close(mixed.heatmap[1:2], alone.heatmap, rtol=0.2, atol=0.1)
    assert not all(
        torch.equal(a, b) for a, b in zip(before, running_statistics(network), strict=True)
    )


def test_the_teacher_adds_its_losses(tiny_samples: Path, trained: dict[str, Path]) -> None:
    config = configured("fusion")
    dropout = dataclasses.replace(config.sensor_dropout, lidar=1.0, images=0.0)
    config = dataclasses.replace(config, sensor_dropout=dropout)
    frames = open_frames(config, tiny_samples, load_encoders(TINY, list(trained.values())))
    batch = collate([frames[k] for k in range(2)])
    torch.manual_seed(0)
    network = BevFusionNetwork(TINY).train()
    losses = batch_losses(network, (batch[0], dict(batch[1]), batch[2]), 1.0)
    plain = batch_losses(network, (batch[0], dict(batch[1]), batch[2]), 0.0)
    assert "heat_teacher" in losses and "heat_teacher" not in plain
    expected = plain["total"] + 2 * losses["heat_teacher"] + losses["feature_teacher"]
    torch.testing.assert_close(losses["total"], expected)


@pytest.mark.parametrize("stage", ["lidar", "fusion"])
def test_a_network_learns_a_few_frames(
    stage: str, tiny_samples: Path, trained: dict[str, Path]
) -> None:
    """The loss falls, and the highest cell of the heatmap comes to lie on an object."""
    torch.manual_seed(0)
    encoders = load_encoders(TINY, list(trained.values())) if stage == "fusion" else None
    frames = open_frames(configured(stage), tiny_samples, encoders)  # type: ignore[arg-type]
    batch = collate([frames[k] for k in range(2)])
    network = BevFusionNetwork(dataclasses.replace(TINY, widths=(24, 24, 24), channels=8)).train()
    optimizer = torch.optim.AdamW(network.parameters(), 5e-3)
    totals = []
    for _ in range(60):
        losses = batch_losses(network, (batch[0], dict(batch[1]), batch[2]), 1.0)
        optimizer.zero_grad()
        losses["total"].backward()
        optimizer.step()
        totals.append(float(losses["total"].detach()))
    assert np.mean(totals[-5:]) < 0.5 * totals[0]
    outputs = bev_outputs(network, batch[0], torch.tensor([f.has_lidar for f in batch[2]]))
    best = outputs.heatmap[0, 0].detach().flatten().argmax()
    assert batch[0]["heat"][0, 0].flatten()[best] > 0.4, "a car"


def test_image_networks_learn_a_few_images(tiny_samples: Path) -> None:
    from multimodal_perception.training.bev_fusion.image_dataset import ImageDataset, collate_images

    torch.manual_seed(0)
    network = ImageEncoders(TINY, pretrained=False).train()
    images = ImageDataset(sample_paths(tiny_samples), TINY, None)
    batch = collate_images([images[k] for k in range(4)])
    assert set(batch) == {"camera", "thermal"} and len(images) == 6
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    first = None
    for _ in range(25):
        losses = image_losses(network, batch)
        optimizer.zero_grad()
        losses["total"].backward()
        optimizer.step()
        first = first or {n: float(v.detach()) for n, v in losses.items()}
    for name in ("camera_range", "camera_segment", "camera_properties", "thermal_range"):
        assert float(losses[name].detach()) < 0.75 * first[name], name


def test_samples_without_lidar_are_left_out_of_the_stage_lidar(tmp_path: Path) -> None:
    simulation = open_drive(SEED, rendering(1))
    sample = build_sample(simulation, rendering(1).indices(SEED)[0], TINY)
    without = {n: v for n, v in sample.items() if n != "lidar" and not n.startswith("past")}
    without["points"], without["intensity"] = without["points"][:0], without["intensity"][:0]
    write_sample(tmp_path / "a.npz", without)
    assert not has_lidar(tmp_path / "a.npz")
    with pytest.raises(UserError, match="no sample has a LiDAR"):
        open_frames(configured("lidar"), tmp_path, None)
    write_sample(tmp_path / "b.npz", sample)
    assert len(open_frames(configured("lidar"), tmp_path, None)) == 1
