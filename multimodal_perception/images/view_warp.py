"""Other sensors brought into a camera's view, so that a network finds them pixel by pixel.

A thermal camera sits elsewhere and sees another field. Without its depth a pixel cannot be placed
exactly; each is taken to be as far away as the ground plane there, and `far` where that is further or
the ray goes up. So roads, kerbs and feet fall on themselves, and of something upright the part at
height z, seen from height h at distance d, is off by focal * baseline * z / (h * d) pixels at most: 4
pixels at 320 pixels' width for a person's head at 10 m with a baseline of 0.2 m. Far things fall on
themselves. LiDAR points need no such assumption: they are projected, each onto its pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.frame import SensorFrame
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.cameras import CameraModel

FAR = 100.0
# Inverse depth of a LiDAR image is scaled so that this distance, metres, becomes one.
NEAREST = 2.0


@dataclass(frozen=True)
class Warp:
    """Where each pixel of a view lies in another camera's image, and which pixels it sees.

    columns, rows: (H, W) float32. seen: (H, W) bool.
    """

    columns: NDArray[np.float32]
    rows: NDArray[np.float32]
    seen: NDArray[np.bool_]

    def apply(self, image: NDArray) -> NDArray:
        """An image of the other camera in this view (H, W), same dtype; unseen pixels hold zero."""
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
    """The warp that brings `source`'s image into `view`, by the ground plane and `far` (metres).

    ground_z: height of the ground in base_link. Poses (4, 4) are of the optical frames. distance:
    (H, W), metres along each pixel's ray where that is known, NaN elsewhere.
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
    pixels, seen = source.project(poses.transform_points(poses.inverse(base_from_source), points))
    seen &= np.isfinite(pixels).all(axis=1)
    pixels[~seen] = -10.0
    shape = view.height, view.width
    columns, rows = (pixels[:, i].astype(np.float32).reshape(shape) for i in (0, 1))
    return Warp(columns, rows, seen.reshape(shape))


def lidar_image(
    frame: SensorFrame, view: CameraModel, reference_from_view: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Inverse depth (H, W) float32 in [0, 1] of a frame's LiDAR points in a view, and where it is.

    A point covers the 3x3 pixels about it; of several, the nearest counts.
    """
    points = frame.points_in_base()[:, :3]
    inside = poses.transform_points(poses.inverse(reference_from_view), points)
    pixels, seen = view.project(inside)
    inverse = np.zeros((view.height, view.width), np.float32)
    at = np.rint(pixels[seen]).astype(np.int64)
    near = NEAREST / np.maximum(inside[seen, 2], NEAREST)
    np.maximum.at(inverse, (at[:, 1], at[:, 0]), near.astype(np.float32))
    inverse = cv2.dilate(inverse, np.ones((3, 3), np.uint8))
    return inverse, inverse > 0
