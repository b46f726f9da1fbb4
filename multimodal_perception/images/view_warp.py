"""Alignment of other sensors with a camera's view, so that a network gets registered pixels.

A thermal camera is mounted at another position and has another field of view. As the depth of a pixel is
unknown, each pixel is assumed to lie on the ground plane, or at the distance `far` where the ground is
further or the ray points upwards. Roads, kerbs and feet are aligned exactly, and so are distant objects.
The part of an upright object at height z, in the view of a camera at height h and at distance d, is
displaced by at most focal * baseline * z / (h * d) pixels: 4 pixels in an image 320 pixels wide for a
person's head at 10 m with a baseline of 0.2 m. LiDAR points need no such assumption: each point is
projected onto its pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.frame import SensorFrame
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.cameras import CameraModel

# Assumed distance of pixels that do not lie on the ground, m.
FAR = 100.0
# Distance at which the scaled inverse depth of a LiDAR image is one, m. Closer points are clipped to it.
MIN_DEPTH = 2.0


@dataclass(frozen=True)
class Warp:
    """Map from the pixels of a view to those of another camera's image.

    columns, rows: (H, W) float32, position in the other image, px. valid: (H, W) bool, pixels inside
    the other camera's field of view.
    """

    columns: NDArray[np.float32]
    rows: NDArray[np.float32]
    valid: NDArray[np.bool_]

    def apply(self, image: NDArray) -> NDArray:
        """Warp an image of the other camera into this view (H, W), same dtype; invalid pixels are 0."""
        return cv2.remap(image, self.columns, self.rows, cv2.INTER_LINEAR)


def warp_between(
    view: CameraModel,
    base_from_view: NDArray[np.float64],
    source: CameraModel,
    base_from_source: NDArray[np.float64],
    ground_z: float = 0.0,
    far: float = FAR,
    distance: NDArray[np.floating] | None = None,
) -> Warp:
    """Compute the warp of the image of camera `source` into the view of camera `view`.

    base_from_view, base_from_source: poses (4, 4) of the optical frames. ground_z: height of the ground
    in base_link, m. far: distance of pixels that do not lie on the ground, m. distance: (H, W), known
    distance along each pixel's ray, m; NaN where it is unknown.
    """
    v, u = np.mgrid[0 : view.height, 0 : view.width]
    rays = view.unproject(np.column_stack([u.ravel(), v.ravel()])) @ base_from_view[:3, :3].T
    centre = base_from_view[:3, 3]
    with np.errstate(divide="ignore", invalid="ignore"):
        ground = (ground_z - centre[2]) / rays[:, 2]
        along = np.where((ground > 0) & (ground < far), ground, far)
        if distance is not None:
            known = distance.ravel()
            along = np.where(np.isfinite(known), known, along)
        points = centre + along[:, None] * rays
    pixels, valid = source.project(poses.transform_points(poses.inverse(base_from_source), points))
    valid &= np.isfinite(pixels).all(axis=1)
    pixels[~valid] = -10.0
    shape = view.height, view.width
    columns, rows = (pixels[:, i].astype(np.float32).reshape(shape) for i in (0, 1))
    return Warp(columns, rows, valid.reshape(shape))


def render_inverse_depth(
    frame: SensorFrame, view: CameraModel, reference_from_view: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Inverse depth (H, W) float32 in [0, 1] of a frame's LiDAR points in a view, and its mask (H, W).

    Each point covers 3x3 pixels; where points overlap, the nearest one is used.
    """
    points = frame.points_in_base()[:, :3]
    local = poses.transform_points(poses.inverse(reference_from_view), points)
    pixels, valid = view.project(local)
    inverse = np.zeros((view.height, view.width), np.float32)
    at = np.rint(pixels[valid]).astype(np.int64)
    values = MIN_DEPTH / np.maximum(local[valid, 2], MIN_DEPTH)
    np.maximum.at(inverse, (at[:, 1], at[:, 0]), values.astype(np.float32))
    inverse = cv2.dilate(inverse, np.ones((3, 3), np.uint8))
    return inverse, inverse > 0
