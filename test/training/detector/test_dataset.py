"""Training frames of the detector: augmentation, targets, stored features, damaged files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from multimodal_perception.geometry.boxes import count_points_in_boxes
from multimodal_perception.networks.fusion_detector import ProposalNetwork
from multimodal_perception.training.bev_fusion.augmentation import AugmentationConfig
from multimodal_perception.training.bev_fusion.sample_files import (
    SampleError,
    read_sample,
    sample_paths,
    write_sample,
)
from multimodal_perception.training.detector.available_sensors import DropoutConfig
from multimodal_perception.training.detector.dataset import (
    DetectorDataset,
    collate,
    feature_path,
    store_features,
)
from multimodal_perception.training.detector.losses import proposal_losses
from multimodal_perception.training.detector.train import (
    load_image_backbones,
)
from test.networks.detectors import SMALL
from test.training.detector.tiny_samples import samples as samples


def test_features_of_other_image_backbones_are_computed_again(
    samples: Path, tmp_path: Path
) -> None:
    path = tmp_path / "0.npz"
    path.write_bytes((samples / "0.npz").read_bytes())
    imagenet, segmenting = load_image_backbones("imagenet"), load_image_backbones("segmentation")
    assert store_features([path], *imagenet) == 1 and store_features([path], *imagenet) == 0
    before = read_sample(feature_path(path))
    assert store_features([path], *segmenting) == 1
    after = read_sample(feature_path(path))
    assert not np.array_equal(before["thermal0.coarse"], after["thermal0.coarse"])
    feature_path(path).write_bytes(b"cut off")
    assert store_features([path], *segmenting) == 1
    np.testing.assert_array_equal(
        read_sample(feature_path(path))["camera0.fine"], after["camera0.fine"]
    )


def test_labels_without_points_after_beam_dropout_are_removed(samples: Path) -> None:
    lidar_only = DropoutConfig(1.0, 0.0, 0.0, 0.0, 0.0)
    paths = sample_paths(samples)
    few = AugmentationConfig(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, beam_dropout=1.0)
    for seed in range(4):
        frame = DetectorDataset(paths, SMALL, few, lidar_only, seed, stored_features=False)[0]
        assert len(frame.points) < 0.7 * len(read_sample(paths[0])["points"])
        assert (count_points_in_boxes(frame.points, frame.boxes, 0.1) > 0).all()


def test_heights_are_relative_to_a_sloped_ground(samples: Path, tmp_path: Path) -> None:
    """As in the detector; projections into images use the original heights."""
    plain = read_sample(sample_paths(samples)[0])
    sloped = dict(plain)
    sloped["points"], sloped["boxes"] = plain["points"].copy(), plain["boxes"].copy()
    sloped["points"][:, 2] += np.rint(0.05 * plain["points"][:, 0]).astype(np.int16)
    sloped["boxes"][:, 2] += 0.05 * plain["boxes"][:, 0]
    frames = []
    for name, arrays in (("plain", plain), ("sloped", sloped)):
        write_sample(tmp_path / f"{name}.npz", arrays)
        frames.append(
            DetectorDataset([tmp_path / f"{name}.npz"], SMALL, None, None, stored_features=False)[0]
        )
    level, slope = frames
    np.testing.assert_allclose(slope.boxes, level.boxes, atol=0.12)
    np.testing.assert_allclose(
        slope.boxes[:, [0, 1, 3, 4, 5, 6]], level.boxes[:, [0, 1, 3, 4, 5, 6]]
    )
    assert np.median(np.abs(slope.points[:, 2] - level.points[:, 2])) < 0.03
    assert np.abs(sloped["boxes"][:, 2] - plain["boxes"][:, 2]).max() > 0.3
    lifted = slope.boxes[:, 2] + slope.views.ground.at(*slope.boxes[:, :2].T)
    np.testing.assert_allclose(np.sort(lifted), np.sort(sloped["boxes"][:, 2]), atol=1e-3)


def test_a_frame_depends_on_seed_epoch_and_index_only(samples: Path) -> None:
    datasets = [
        DetectorDataset(
            sample_paths(samples),
            SMALL,
            AugmentationConfig(),
            DropoutConfig(),
            5,
            stored_features=False,
        )[3]
        for _ in range(2)
    ]
    for name, values in datasets[0].arrays.items():
        np.testing.assert_array_equal(values, datasets[1].arrays[name])


def test_without_lidar_weight_scales_the_loss_of_a_frame(samples: Path) -> None:
    def losses_of(lidar: float, weight: float) -> dict[str, float]:
        # The first of two frames has a LiDAR; the second has none if lidar is 1.
        frames = [
            DetectorDataset(sample_paths(samples), SMALL, None, dropout, stored_features=False)[k]
            for k, dropout in enumerate(
                (None, DropoutConfig(0.0, lidar, 0.0, 0.0, 0.0, without_lidar_weight=weight))
            )
        ]
        torch.manual_seed(0)
        network = ProposalNetwork(SMALL, pretrained=False).eval()
        losses = proposal_losses(network, collate(frames), 0.0)
        return {name: float(value.detach()) for name, value in losses.items()}

    with_lidar, full_weight, zero_weight = (
        losses_of(0.0, 0.0),
        losses_of(1.0, 1.0),
        losses_of(1.0, 0.0),
    )
    assert losses_of(0.0, 1.0) == with_lidar  # frames with a LiDAR have the weight 1
    assert len({round(losses["heat"], 6) for losses in (with_lidar, full_weight, zero_weight)}) == 3
    half = losses_of(1.0, 0.5)
    assert (
        min(zero_weight["heat"], full_weight["heat"])
        < half["heat"]
        < max(zero_weight["heat"], full_weight["heat"])
    )


def test_errors_name_a_damaged_sample(tmp_path: Path) -> None:
    with pytest.raises(SampleError, match="no samples"):
        sample_paths(tmp_path)
    (tmp_path / "a.npz").write_bytes(b"PK broken")
    data = DetectorDataset(sample_paths(tmp_path), SMALL, None, None)
    with pytest.raises(SampleError, match=r"a\.npz"):
        data[0]
