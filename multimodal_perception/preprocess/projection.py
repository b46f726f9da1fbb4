"""Where points lie in the images of a rig, as networks look things up there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.geometry import poses
from multimodal_perception.geometry.cameras import CameraModel


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
        with np.errstate(invalid="ignore"):
            away = np.hypot(
                pixels[:, 0] / view.model.width - 0.5, pixels[:, 1] / view.model.height - 0.5
            )
        rows = np.flatnonzero(seen & (away < best))
        best[rows] = away[rows]
        places[rows, 0] = (pixels[rows, 0] + 0.5) / width * 2 - 1
        places[rows, 1] = (k + (pixels[rows, 1] + 0.5) / height) / len(views) * 2 - 1
    return places, np.isfinite(best).astype(np.float32)
