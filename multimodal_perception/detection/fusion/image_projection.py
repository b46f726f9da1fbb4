"""Projection of points into stacked image feature maps, and of image rays into the BEV grid.

The feature maps of all images of one modality are stacked below each other, so that one grid_sample call
samples all of them. Normalised coordinates (u, v) run from -1 to 1 from edge to edge of the stack, as
torch.nn.functional.grid_sample defines them with align_corners=False.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.detection.bev_fusion.image_view import (
    ImageView,
)
from multimodal_perception.geometry import poses
from multimodal_perception.pointcloud.ground_segmentation import GroundModel

# Samples along the ray of a feature map cell: number, distance of the first and of the last in metres.
RAY_SAMPLES, RAY_MIN_DISTANCE, RAY_MAX_DISTANCE = 12, 2.0, 70.0


def project_to_feature_map(
    points: NDArray[np.floating],
    views: Sequence[ImageView | None],
    size: tuple[int, int],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Normalised coordinates of points in a stack of images, and their visibility.

    points: (N, 3) in base_link. views: one per image of the stack, None for a missing image. size:
    height and width of each image. Returns uv (N, 2) float32, x then y, and visible (N,) float32, 1
    where at least one image contains the point, else 0. If several images contain a point, the one in
    which it is closest to the image centre is used.
    """
    uv = np.zeros((len(points), 2), np.float32)
    centre_distance = np.full(len(points), np.inf)
    height, width = size
    for k, view in enumerate(views):
        if view is None or not len(points):
            continue
        local = poses.transform_points(poses.inverse(view.base_from_optical), points)
        pixels, in_image = view.model.project(local)
        rows = np.flatnonzero(in_image)
        u, v = pixels[rows].T
        distance = np.hypot(u / view.model.width - 0.5, v / view.model.height - 0.5)
        closer = distance < centre_distance[rows]
        rows, u, v = rows[closer], u[closer], v[closer]
        centre_distance[rows] = distance[closer]
        uv[rows, 0] = (u + 0.5) / width * 2 - 1
        uv[rows, 1] = (k + (v + 0.5) / height) / len(views) * 2 - 1
    return uv, np.isfinite(centre_distance).astype(np.float32)


def project_rays_to_bev(
    views: Sequence[ImageView | None],
    size: tuple[int, int],
    stride: int,
    half_extent: float,
    heights: tuple[float, float],
    grid_from_base: NDArray[np.float64] | None = None,
    ground: GroundModel | None = None,
) -> NDArray[np.float32]:
    """BEV positions along the ray of each feature map cell: (N * h * w, RAY_SAMPLES, 2) float32.

    Positions are normalised, -1 to 1 from edge to edge of a square of half side `half_extent`
    metres, x then y. Samples are set to 2 (outside the square) if they are not within `heights`
    (metres above the ground), if the cell has no ray, or if the image is missing. Order: image
    after image, row after row.

    size: height and width of each image. stride: pixels per cell. grid_from_base: (4, 4), transform of
    the augmented BEV grid. ground: surface that heights are measured from; None for z = 0.
    """
    rows, columns = size[0] // stride, size[1] // stride
    samples = np.full((len(views), rows * columns, RAY_SAMPLES, 2), 2.0, np.float32)
    v, u = np.divmod(np.arange(rows * columns), columns)
    pixels = (np.column_stack([u, v]) + 0.5) * stride - 0.5
    distances = np.geomspace(RAY_MIN_DISTANCE, RAY_MAX_DISTANCE, RAY_SAMPLES)
    for k, view in enumerate(views):
        if view is None:
            continue
        rays = view.model.unproject(pixels) @ view.base_from_optical[:3, :3].T
        with np.errstate(invalid="ignore", divide="ignore"):
            rays /= np.hypot(rays[:, 0], rays[:, 1])[:, None]
            points = view.base_from_optical[:3, 3] + distances[:, None] * rays[:, None]
            height = points[..., 2]
            if ground is not None:
                x, y = points[..., :2].reshape(-1, 2).T
                height = height - ground.at(x, y).reshape(height.shape)
            valid = (height >= heights[0]) & (height < heights[1])
        in_image = (pixels < [view.model.width, view.model.height]).all(axis=1)
        valid &= np.asarray(in_image)[:, None]
        positions: NDArray[np.floating] = points[valid]
        if grid_from_base is not None:
            positions = poses.transform_points(grid_from_base, positions)
        samples[k][valid] = positions[:, :2] / half_extent
    # Clipped because large values overflow to infinity in half precision.
    return np.clip(samples.reshape(-1, RAY_SAMPLES, 2), -2.0, 2.0)
