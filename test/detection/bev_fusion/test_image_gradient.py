"""Attacks with the gradient of the detector's torch networks."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from multimodal_perception.detection.bev_fusion.detector import BevFusionDetector
from multimodal_perception.detection.bev_fusion.fusion_config import FusionConfig
from multimodal_perception.evaluation.robustness.attacked_pixels import image_pixels, pixel_bound
from multimodal_perception.evaluation.robustness.image_gradient import (
    gradient_target,
    projected_gradient,
)
from multimodal_perception.pointcloud.ground_segmentation import segment_ground
from multimodal_perception.runtime.settings import RuntimeConfig
from test.detection.bev_fusion.small_frames import rig_frame


@pytest.fixture(scope="module")
def detector(small_model: Path) -> BevFusionDetector:
    config = FusionConfig(str(small_model), max_cameras=2)
    return BevFusionDetector(config, RuntimeConfig(order=("onnxruntime",), device="cpu"))


@pytest.mark.parametrize("lidar", [True, False])
@pytest.mark.parametrize("sensor", ["left", "thermal"])
def test_gradient_attack_lowers_the_scores_more_than_noise(
    sensor: str, lidar: bool, detector: BevFusionDetector
) -> None:
    frame = rig_frame()
    if not lidar:
        frame = dataclasses.replace(frame, lidars={})
    target = gradient_target(detector, frame, sensor, segment_ground(frame))
    assert target is not None
    _, maximum, level = image_pixels(frame, sensor)
    attacked = projected_gradient(target, 8, 3, maximum, seed=1)
    bound = pixel_bound(8, level)
    assert 0 < np.abs(attacked - target.pixels).max() <= bound
    signs = np.random.default_rng(0).choice([-1.0, 1.0], target.pixels.shape).astype(np.float32)
    noisy = np.clip(target.pixels + bound * signs, 0, maximum)
    clean, by_noise, by_attack = (
        float(target.objective(torch.from_numpy(p))) for p in (target.pixels, noisy, attacked)
    )
    assert by_attack > clean and by_attack - clean > 2 * (by_noise - clean)


def test_images_that_the_detector_does_not_use_have_no_gradient(
    detector: BevFusionDetector,
) -> None:
    frame = rig_frame()
    cloud = segment_ground(frame)
    # The third camera is beyond the limit.
    assert gradient_target(detector, frame, "rear", cloud) is None
    without = dataclasses.replace(frame, intrinsics={})
    assert gradient_target(detector, without, "left", cloud) is None
