"""Training on recorded data with the commands; unlabelled regions are excluded from the loss."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
import yaml

from multimodal_perception.cli.main import main
from multimodal_perception.detection.bev_fusion.pillars import PillarConfig
from multimodal_perception.detection.fusion.network_config import DetectorConfig
from multimodal_perception.training.bev_fusion.augmentation import AugmentationConfig
from multimodal_perception.training.bev_fusion.box_losses import (
    UNLABELLED,
    heat_loss,
)
from multimodal_perception.training.bev_fusion.sample_files import (
    read_sample,
    sample_paths,
    write_sample,
)
from multimodal_perception.training.detector.available_sensors import DropoutConfig
from multimodal_perception.training.detector.dataset import DetectorDataset, TrainingFrame
from multimodal_perception.training.detector.refinement_targets import supervised_mask
from multimodal_perception.training.detector.samples import build_sample
from test.networks.detectors import SMALL
from test.training.detector.tiny_samples import frame_of

TINY = DetectorConfig(
    pillars=PillarConfig(half_extent=25.6, cell=0.8, max_pillars=2000),
    channels=16,
    widths=(16, 16, 16),
    depths=(0, 0, 0),
    neck_channels=16,
    proposals=16,
    refined_proposals=8,
)


def training_frame(folder: Path, in_view: bool, dropped: bool = False) -> TrainingFrame:
    write_sample(folder / "a.npz", build_sample(frame_of(0), {}, labels_in_view=in_view))
    dropout = DropoutConfig(1.0, 0.0, 0.0, 0.0, 0.0) if dropped else None
    config = dataclasses.replace(SMALL, camera_size=(288, 512), thermal_size=(256, 320))
    augment = AugmentationConfig(point_dropout=0.0, intensity_scale=0.0)
    return DetectorDataset([folder / "a.npz"], config, augment, dropout, stored_features=False)[0]


def test_cells_outside_the_field_of_view_are_excluded_from_the_loss(tmp_path: Path) -> None:
    full, part = training_frame(tmp_path, False), training_frame(tmp_path, True)
    assert full.labelled_cells is None and part.labelled_cells is not None
    # The camera has a field of view of 80 degrees: about a quarter of the grid.
    assert 0.1 < part.labelled_cells.mean() < 0.35
    without_images = training_frame(tmp_path, True, dropped=True)
    assert (
        without_images.labelled_cells is not None
        and 0.1 < without_images.labelled_cells.mean() < 0.35
    )
    for name, values in full.arrays.items():
        if name != "heat":
            np.testing.assert_array_equal(values, part.arrays[name])
    heat, plain = part.arrays["heat"], full.arrays["heat"]
    np.testing.assert_array_equal(heat[:, part.labelled_cells], plain[:, part.labelled_cells])
    assert (heat[:, ~part.labelled_cells] >= np.float32(UNLABELLED)).all()
    assert (heat == 1.0).sum() == (plain == 1.0).sum() == 1
    target = torch.from_numpy(heat)[None]
    logits = torch.zeros_like(target, requires_grad=True)
    heat_loss(logits, target, torch.ones(len(target))).backward()
    assert logits.grad is not None
    gradient = logits.grad[0].abs().numpy()
    assert gradient[:, ~part.labelled_cells].max() < 1e-9 * gradient.max()
    assert (gradient[:, part.labelled_cells].max(axis=0) > 0).all()


def test_scores_of_proposals_outside_the_field_of_view_are_supervised_on_labels_only() -> None:
    labelled = np.zeros((8, 8), np.bool_)
    labelled[:, 4:] = True  # x above 0
    boxes = np.zeros((4, 7), np.float32)
    boxes[:, 0] = [3.0, -3.0, -3.0, 99.0]
    positive = np.array([0.0, 1.0, 0.0, 0.0], np.float32)
    assert supervised_mask(boxes, positive, labelled, 4.0).tolist() == [1.0, 1.0, 0.0, 1.0]
    assert supervised_mask(boxes, positive, None, 4.0).tolist() == [1.0] * 4


def configuration(folder: Path, batch: int) -> Path:
    network = {
        k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(TINY).items()
    }
    loop = {"steps": 2, "batch_size": batch, "workers": 0, "precision": "fp32"}
    (folder / "t.yaml").write_text(yaml.safe_dump({"network": network, "loop": loop}))
    return folder / "t.yaml"


def train(root: Path, folder: Path, batch: int = 1) -> None:
    """Write samples and train the first stage with the commands."""
    data, out = folder / "data", folder / "p"
    assert main(["train", "samples", "--root", str(root), "--out", str(data)]) == 0
    config = configuration(folder, batch)
    command = ["train", "detector", "--data", str(data), "--config", str(config), "--out", str(out)]
    assert main([*command, "--threads", "1"]) == 0
    assert (out / "proposals.safetensors").exists()


def test_training_on_kitti(shared_data: Path, tmp_path: Path) -> None:
    train(shared_data / "kitti" / "training", tmp_path, batch=2)
    sample = read_sample(sample_paths(tmp_path / "data")[0])
    assert bool(sample["labels_in_view"]) and sample["lidar"][2] > 1.5


def test_training_on_nuscenes(shared_data: Path, tmp_path: Path) -> None:
    train(shared_data / "nuscenes_frame", tmp_path)
    sample = read_sample(sample_paths(tmp_path / "data")[0])
    assert "labels_in_view" not in sample and "camera5.pixels" in sample


def test_training_on_a_bag_with_ground_truth(shared_data: Path, tmp_path: Path) -> None:
    bag = tmp_path / "bag"
    root = shared_data / "kitti" / "training"
    assert main(["convert", "--dataset", "kitti", "--root", str(root), "--out", str(bag)]) == 0
    train(bag, tmp_path)
    sample = read_sample(sample_paths(tmp_path / "data")[0])
    # As in the folder: KITTI has labels in the camera's image only, and the stored rig is KITTI's.
    assert len(sample["boxes"]) and "labels_in_view" in sample
