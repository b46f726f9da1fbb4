"""Where points lie in the images of a rig, as networks look things up there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.geometry import poses
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.pointcloud.ground_segmentation import GroundModel

# Places along the ray of an image's cell: so many, from the nearest to the furthest, metres.
RAY_PLACES, NEAREST, FURTHEST = 12, 2.0, 70.0


@dataclass(frozen=True)
class ImageView:
    """One image of an atlas: the model of its fitted pixels, and base_from_optical (4, 4)."""

    model: CameraModel
    base_from_optical: NDArray[np.float64]


def atlas_places(
    points: NDArray[np.floating],
    views: Sequence[ImageView | None],
    size: tuple[int, int],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Places (N, 2) float32 of points (N, 3) in base_link, and (N,) float32, 1 for those that are seen.

    The atlas holds the images, each of size (height, width), one below the other; places are -1 to 1
    from edge to edge, x then y, as grid_sample takes them. None is an image that is missing. A
    point that several images see is looked up where it lies nearest to the middle.
    """
    places = np.zeros((len(points), 2), np.float32)
    best = np.full(len(points), np.inf)
    height, width = size
    for k, view in enumerate(views):
        if view is None or not len(points):
            continue
        local = poses.transform_points(poses.inverse(view.base_from_optical), points)
        pixels, seen = view.model.project(local)
        rows = np.flatnonzero(seen)
        u, v = pixels[rows].T
        away = np.hypot(u / view.model.width - 0.5, v / view.model.height - 0.5)
        nearer = away < best[rows]
        rows, u, v = rows[nearer], u[nearer], v[nearer]
        best[rows] = away[nearer]
        places[rows, 0] = (u + 0.5) / width * 2 - 1
        places[rows, 1] = (k + (v + 0.5) / height) / len(views) * 2 - 1
    return places, np.isfinite(best).astype(np.float32)


def atlas_rays(
    views: Sequence[ImageView | None],
    size: tuple[int, int],
    stride: int,
    extent: float,
    heights: tuple[float, float],
    grid_from_base: NDArray[np.float64] | None = None,
    ground: GroundModel | None = None,
) -> NDArray[np.float32]:
    """What lies in the BEV along the ray of each cell of an atlas: places (N * h * w, RAY_PLACES, 2).

    -1 to 1 from edge to edge of a square of half side `extent`, x then y; 2, beyond it, where the ray is
    outside of `heights`, where the cell has no ray and where an image is missing. Cells are `stride`
    pixels wide, row after row, image after image. grid_from_base: (4, 4), where the grid was turned.
    ground: what heights are measured from; None for base_link's own plane.
    """
    rows, columns = size[0] // stride, size[1] // stride
    places = np.full((len(views), rows * columns, RAY_PLACES, 2), 2.0, np.float32)
    v, u = np.divmod(np.arange(rows * columns), columns)
    pixels = (np.column_stack([u, v]) + 0.5) * stride - 0.5
    away = np.geomspace(NEAREST, FURTHEST, RAY_PLACES)
    for k, view in enumerate(views):
        if view is None:
            continue
        rays = view.model.unproject(pixels) @ view.base_from_optical[:3, :3].T
        with np.errstate(invalid="ignore", divide="ignore"):
            rays /= np.hypot(rays[:, 0], rays[:, 1])[:, None]
            points = view.base_from_optical[:3, 3] + away[:, None] * rays[:, None]
            height = points[..., 2]
            if ground is not None:
                x, y = points[..., :2].reshape(-1, 2).T
                height = height - ground.at(x, y).reshape(height.shape)
            usable = (height >= heights[0]) & (height < heights[1])
        within = (pixels < [view.model.width, view.model.height]).all(axis=1)
        usable &= np.asarray(within)[:, None]
        inside: NDArray[np.floating] = points[usable]
        if grid_from_base is not None:
            inside = poses.transform_points(grid_from_base, inside)
        places[k][usable] = inside[:, :2] / extent
    # Without bound, a place far off would be no number in half precision.
    return np.clip(places.reshape(-1, RAY_PLACES, 2), -2.0, 2.0)
