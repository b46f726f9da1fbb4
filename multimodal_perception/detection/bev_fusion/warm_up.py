"""Compilation of the kernels before the first frame."""

from __future__ import annotations

import numpy as np

from multimodal_perception.detection.bev_fusion.image_bev import (
    FrameImage,
    ImageSet,
    lift_images,
    sample_images,
)
from multimodal_perception.detection.bev_fusion.image_view import ImageView
from multimodal_perception.detection.bev_fusion.network_config import (
    IMAGE_MODALITIES,
    PAINT_CHANNELS,
    PAINT_GROUPS,
    BevFusionNetworkConfig,
)
from multimodal_perception.detection.bev_fusion.painting import PaintedImage, paint_points
from multimodal_perception.detection.bev_fusion.sweep_pillars import PastSweep, build_sweep_pillars
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.pointcloud.ground_segmentation import GroundModel


def compile_kernels(config: BevFusionNetworkConfig) -> None:
    """Compile the numba kernels of the detector, or load them from numba's cache.

    Without this, the first frame with an image would be delayed by some seconds.
    """
    c = config
    points = np.array([[5.0, 0.0, 1.0, 0.5]], np.float32)
    past = [PastSweep(points[:, :3].copy(), 0.1)]
    painting = np.ones((1, PAINT_CHANNELS), np.float32)
    pillars = build_sweep_pillars(points, past, painting, c)
    pose = poses.from_xyz_rpy((0.0, 0.0, 1.5), (-np.pi / 2, 0.0, -np.pi / 2))
    images, painted = [], []
    for modality in IMAGE_MODALITIES:
        height, width = c.image_size(modality)
        view = ImageView(CameraModel.pinhole(width, height, width / 2), pose)
        cells = height // 8, width // 8
        images.append(
            FrameImage(
                modality,
                view,
                np.zeros((height // 4, width // 4, c.channels), np.float32),
                np.zeros((*cells, c.range_bins), np.float32),
                np.zeros((*cells, PAINT_CHANNELS), np.float32),
            )
        )
        painted.append(PaintedImage(view, np.zeros((*cells, len(PAINT_GROUPS)), np.float32)))
    image_set = ImageSet(images, GroundModel(np.zeros((8, 8), np.float32), 10.0))
    lift_images(image_set, c)
    sample_images(pillars.centroids, image_set, c)
    paint_points(points[:, :3], points[:, 2], painted)
