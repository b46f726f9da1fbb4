"""Input tensors of the BEV fusion detector for one frame; used for training and on the vehicle.

Names of the inputs of the first stage: see network_config.stage1_inputs; of the second stage:
`stage2_inputs` below.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.detection.bev_fusion.image_bev import (
    ImageSet,
    lift_images,
    sample_images,
)
from multimodal_perception.detection.bev_fusion.network_config import (
    VARIANCES,
    BevFusionNetworkConfig,
    stage1_inputs,
)
from multimodal_perception.detection.bev_fusion.pillars import Pillars
from multimodal_perception.detection.bev_fusion.roi_features import (
    EXTENT_FEATURES,
    GRID,
    MIN_SIZE,
    PROFILE_FEATURES,
    PointIndex,
    compute_roi_features,
)
from multimodal_perception.detection.bev_fusion.sweep_pillars import (
    PastSweep,
    build_sweep_pillars,
)
from multimodal_perception.detection.bev_fusion.ultrasonic_channels import (
    rasterise_ultrasonic_ranges,
)

Arrays = dict[str, NDArray]
# Features of a proposal after its class scores: log size (3), range, height, extents of its points, and
# velocity (2) and log variances of the first stage.
PROPOSAL_FEATURES = 5 + EXTENT_FEATURES + 2 + VARIANCES
# Divisors of the velocity (m/s) and of the log variances in the proposal features.
VELOCITY_SCALE, LOG_VARIANCE_SCALE = 10.0, 4.0


def point_arrays(
    points: NDArray[np.float32],
    past: Sequence[PastSweep],
    painting: NDArray[np.float32] | None,
    ultrasonics: NDArray[np.float32],
    config: BevFusionNetworkConfig,
) -> tuple[Arrays, Pillars]:
    """Inputs of the first stage that do not depend on image networks, and the pillars.

    points: (N, 4) float32 in the grid's frame, z above the ground. past, painting: see
    build_sweep_pillars. ultrasonics: (U, 8) in the grid's frame, see rasterise_ultrasonic_ranges. The
    arrays have no batch dimension.
    """
    p = config.pillars
    pillars = build_sweep_pillars(points, past, painting, config)
    count = len(pillars.cells)
    arrays: Arrays = {
        "pillars": np.zeros((p.max_pillars, config.pillar_channels), np.float32),
        # Unused rows point to a cell beyond the last one, which the network discards.
        "pillar_cells": np.full(p.max_pillars, p.size**2, np.int64),
        "ultrasonic_grid": rasterise_ultrasonic_ranges(ultrasonics, p.half_extent, p.cell),
    }
    arrays["pillars"][:count] = pillars.features
    arrays["pillar_cells"][:count] = pillars.cells
    return arrays, pillars


def image_arrays(
    images: ImageSet,
    pillars: Pillars,
    config: BevFusionNetworkConfig,
    executor: Executor | None = None,
) -> Arrays:
    """Inputs of the first stage from the outputs of the image networks, without batch dimension.

    pillars: of the same frame. executor: threads of the kernels.
    """
    arrays: Arrays = {}
    if config.pillar_images:
        shape = stage1_inputs(config)["pillar_images"][0][1:]
        arrays["pillar_images"] = np.zeros(shape, np.float32)
        sampled = sample_images(pillars.centroids, images, config, executor)
        arrays["pillar_images"][: len(sampled)] = sampled
    if config.lift:
        arrays["image_bev"] = lift_images(images, config, executor)
    return arrays


def refinement_arrays(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    labels: NDArray[np.int64],
    velocities: NDArray[np.float32],
    log_variances: NDArray[np.float32],
    classes: int,
    index: PointIndex,
    images: ImageSet,
    config: BevFusionNetworkConfig,
    executor: Executor | None = None,
) -> Arrays:
    """Inputs of the refinement network for R proposals, except the BEV map; no batch dimension.

    boxes: (R, 7), z above the ground. scores: (R,). labels: (R,), 0 to classes - 1. velocities: (R, 2),
    m/s over ground. log_variances: (R, VARIANCES) in the units of the network (see BevFusionHead).
    index: points of the frame, z above the ground. executor: threads of the kernels.

    Names: boxes; proposal_features (R, classes + PROPOSAL_FEATURES); roi_bev (R, 36, 2), normalised BEV
    positions of the grid columns; roi_grid (R, 216, 7); roi_images (R, 216, 2 * sample_channels), see
    sample_images; roi_profile (R, PROFILE_FEATURES).
    """
    grid, positions, extents, profile = compute_roi_features(boxes, index)
    count = len(boxes)
    features = np.zeros((count, classes + PROPOSAL_FEATURES), np.float32)
    features[np.arange(count), labels] = scores
    own = features[:, classes:]
    own[:, :3] = np.log(np.maximum(boxes[:, 3:6], MIN_SIZE))
    own[:, 3] = np.hypot(boxes[:, 0], boxes[:, 1]) / config.pillars.half_extent
    own[:, 4] = boxes[:, 2]
    own[:, 5 : 5 + EXTENT_FEATURES] = extents
    own[:, 5 + EXTENT_FEATURES : 7 + EXTENT_FEATURES] = velocities / VELOCITY_SCALE
    own[:, 7 + EXTENT_FEATURES :] = log_variances / LOG_VARIANCE_SCALE
    arrays = {
        "boxes": boxes.astype(np.float32),
        "velocities": velocities.astype(np.float32),
        "proposal_features": features,
        # All grid points of a column have the same x and y; the height index is the innermost one.
        "roi_bev": (positions[:, ::GRID, :2] / np.float32(config.pillars.half_extent)).astype(
            np.float32
        ),
        "roi_grid": grid,
        "roi_profile": profile,
    }
    if config.local_fusion:
        sampled = sample_images(positions.reshape(-1, 3), images, config, executor)
        arrays["roi_images"] = sampled.reshape(count, GRID**3, -1)
    return arrays


def stage2_inputs(
    config: BevFusionNetworkConfig, classes: int
) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and dtype by name of the inputs of the refinement network for one frame."""
    c, rois = config, config.refined_proposals
    shapes: dict[str, tuple[int, ...]] = {
        "bev_features": (1, c.neck_channels, c.lift_size, c.lift_size),
        "boxes": (1, rois, 7),
        "velocities": (1, rois, 2),
        "proposal_features": (1, rois, classes + PROPOSAL_FEATURES),
        "roi_bev": (1, rois, GRID**2, 2),
        "roi_grid": (1, rois, GRID**3, 7),
        "roi_profile": (1, rois, PROFILE_FEATURES),
    }
    if c.local_fusion:
        shapes["roi_images"] = (1, rois, GRID**3, 2 * c.sample_channels)
    return {name: (shape, "float32") for name, shape in shapes.items()}
