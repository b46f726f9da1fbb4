"""Training on recorded data by the README's commands; what is not labelled is not learnt."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
import yaml

from multimodal_perception.cli.main import main
from multimodal_perception.detection.fusion.network_config import DetectorConfig
from multimodal_perception.detection.fusion.pillars import PillarConfig
from multimodal_perception.training.detector.augmentation import AugmentationConfig, DropoutConfig
from multimodal_perception.training.detector.dataset import DetectorData, Item
from multimodal_perception.training.detector.proposal_selection import judged
from multimodal_perception.training.detector.samples import (
    read_sample,
    sample_of,
    sample_paths,
    write_sample,
)
from multimodal_perception.training.detector.targets_and_losses import UNLABELLED, heat_loss
from test.networks.detectors import SMALL
from test.training.detector.test_train import frame_of

TINY = DetectorConfig(
    pillars=PillarConfig(extent=25.6, cell=0.8, most=2000),
    channels=16,
    widths=(16, 16, 16),
    depths=(0, 0, 0),
    neck_channels=16,
    proposals=16,
    refined=8,
)


def item_of(folder: Path, in_view: bool, dropped: bool = False) -> Item:
    write_sample(folder / "a.npz", sample_of(frame_of(0), {}, labels_in_view=in_view))
    dropout = DropoutConfig(1.0, 0.0, 0.0, 0.0, 0.0) if dropped else None
    config = dataclasses.replace(SMALL, camera_size=(288, 512), thermal_size=(256, 320))
    augment = AugmentationConfig(thin=0.0, fade=0.0)
    return DetectorData([folder / "a.npz"], config, augment, dropout, stored=False)[0]


def test_what_no_camera_sees_is_neither_right_nor_wrong(tmp_path: Path) -> None:
    whole, part = item_of(tmp_path, False), item_of(tmp_path, True)
    assert whole.labelled is None and part.labelled is not None
    # The camera looks ahead with 80 degrees: about a quarter of the square.
    assert 0.1 < part.labelled.mean() < 0.35
    dark = item_of(tmp_path, True, dropped=True)
    assert dark.labelled is not None and 0.1 < dark.labelled.mean() < 0.35
    for name, values in whole.arrays.items():
        if name != "heat":
            np.testing.assert_array_equal(values, part.arrays[name])
    heat, plain = part.arrays["heat"], whole.arrays["heat"]
    np.testing.assert_array_equal(heat[:, part.labelled], plain[:, part.labelled])
    assert (heat[:, ~part.labelled] >= np.float32(UNLABELLED)).all()
    assert (heat == 1.0).sum() == (plain == 1.0).sum() == 1
    target = torch.from_numpy(heat)[None]
    logits = torch.zeros_like(target, requires_grad=True)
    heat_loss(logits, target, torch.ones(len(target))).backward()
    assert logits.grad is not None
    gradient = logits.grad[0].abs().numpy()
    assert gradient[:, ~part.labelled].max() < 1e-9 * gradient.max()
    assert (gradient[:, part.labelled].max(axis=0) > 0).all()


def test_proposals_outside_of_the_view_are_judged_on_labels_alone() -> None:
    labelled = np.zeros((8, 8), np.bool_)
    labelled[:, 4:] = True  # x above 0
    boxes = np.zeros((4, 7), np.float32)
    boxes[:, 0] = [3.0, -3.0, -3.0, 99.0]
    found = np.array([0.0, 1.0, 0.0, 0.0], np.float32)
    assert judged(boxes, found, labelled, 4.0).tolist() == [1.0, 1.0, 0.0, 1.0]
    assert judged(boxes, found, None, 4.0).tolist() == [1.0] * 4


def configuration(folder: Path, batch: int) -> Path:
    network = {
        k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(TINY).items()
    }
    loop = {"steps": 2, "batch": batch, "workers": 0, "precision": "fp32"}
    (folder / "t.yaml").write_text(yaml.safe_dump({"network": network, "loop": loop}))
    return folder / "t.yaml"


def train(root: Path, folder: Path, batch: int = 1) -> None:
    """Samples and the first stage of training by their commands."""
    data, out = folder / "data", folder / "p"
    assert main(["train", "samples", "--root", str(root), "--out", str(data)]) == 0
    config = configuration(folder, batch)
    command = ["train", "detector", "--data", str(data), "--config", str(config), "--out", str(out)]
    assert main([*command, "--threads", "1"]) == 0
    assert (out / "proposals.safetensors").exists()


def test_kitti_trains(shared_data: Path, tmp_path: Path) -> None:
    train(shared_data / "kitti" / "training", tmp_path, batch=2)
    sample = read_sample(sample_paths(tmp_path / "data")[0])
    assert bool(sample["labels_in_view"]) and sample["lidar"][2] > 1.5


def test_nuscenes_trains(shared_data: Path, tmp_path: Path) -> None:
    train(shared_data / "nuscenes_frame", tmp_path)
    sample = read_sample(sample_paths(tmp_path / "data")[0])
    assert "labels_in_view" not in sample and "camera5.pixels" in sample


def test_a_bag_with_ground_truth_trains(shared_data: Path, tmp_path: Path) -> None:
    bag = tmp_path / "bag"
    root = shared_data / "kitti" / "training"
    assert main(["convert", "--dataset", "kitti", "--root", str(root), "--out", str(bag)]) == 0
    train(bag, tmp_path)
    sample = read_sample(sample_paths(tmp_path / "data")[0])
    assert len(sample["boxes"]) and "labels_in_view" not in sample
