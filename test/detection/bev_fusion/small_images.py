"""A small network configuration and images with random features for tests."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.detection.bev_fusion.image_bev import FrameImage
from multimodal_perception.detection.bev_fusion.image_view import ImageView
from multimodal_perception.detection.bev_fusion.network_config import (
    PAINT_CHANNELS,
    BevFusionNetworkConfig,
)
from multimodal_perception.detection.bev_fusion.pillars import PillarConfig
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.cameras import CameraModel

SMALL = BevFusionNetworkConfig(
    pillars=PillarConfig(half_extent=12.8, cell=0.4, max_pillars=600),
    camera_size=(64, 96),
    thermal_size=(64, 80),
    channels=8,
    range_bins=12,
    max_range=20.0,
    widths=(16, 16, 16),
    depths=(0, 0, 0),
    neck_channels=16,
    proposals=16,
    refined_proposals=8,
    roi_channels=16,
)
# Optical frame of a camera that looks along the x axis.
FORWARD = poses.from_xyz_rpy((0.0, 0.0, 0.0), (-np.pi / 2, 0.0, -np.pi / 2))
FISHEYE = (0.05, -0.01, 0.002, -0.0005)


def camera_model(
    modality: str = "camera", fisheye: bool = False, focal: float = 40.0
) -> CameraModel:
    """Camera model of the full size of the network's images."""
    height, width = SMALL.image_size(modality)
    if not fisheye:
        return CameraModel.pinhole(width, height, focal)
    matrix = CameraModel.pinhole(width, height, focal).matrix
    return CameraModel(width, height, matrix, "equidistant", FISHEYE)  # type: ignore[arg-type]


def camera_pose(yaw: float = 0.0, xyz: tuple[float, float, float] = (0.5, 0.1, 1.5)) -> NDArray:
    """base_from_optical of a camera with a yaw in radians."""
    return poses.from_xyz_rpy(xyz, (0.0, 0.0, yaw)) @ FORWARD


def random_image(
    seed: int,
    yaw: float = 0.0,
    modality: str = "camera",
    fisheye: bool = False,
    painted: bool = True,
) -> FrameImage:
    """An image with random features, ranges and painting."""
    rng = np.random.default_rng(seed)
    height, width = SMALL.image_size(modality)
    logits = rng.normal(0, 2, (height // 8, width // 8, SMALL.range_bins))
    ranges = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
    return FrameImage(
        modality,
        ImageView(camera_model(modality, fisheye), camera_pose(yaw)),
        rng.normal(size=(height // 4, width // 4, SMALL.channels)).astype(np.float32),
        ranges.astype(np.float32),
        rng.random((height // 8, width // 8, PAINT_CHANNELS), np.float32) if painted else None,
    )


def image_at_range(distance: float, yaw: float = 0.0, fisheye: bool = False) -> FrameImage:
    """An image whose pixels all show a surface at one range; each feature is 1."""
    image = random_image(0, yaw, fisheye=fisheye)
    ranges = np.zeros_like(image.ranges)
    ranges[..., SMALL.range_bin(np.array(distance))] = 1.0
    return FrameImage("camera", image.view, np.ones_like(image.features), ranges, None)
