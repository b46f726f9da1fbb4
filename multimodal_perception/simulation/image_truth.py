"""Ground truth of the objects in an image: 2D boxes, visible pixels and visible fraction."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.geometry import poses
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.simulation.sensors.camera import ImageTruth
from multimodal_perception.simulation.world.scene import Scene

SAMPLES = 60  # points on an object at which its visibility is sampled


@dataclass(frozen=True)
class ImageObjects:
    """The objects with at least one visible pixel in an image.

    track_ids: (K,) int64, as in the 3D boxes. boxes: (K, 4) float32, left, top, right and bottom edge of
    the visible part in pixels. pixels: (K,) int64, number of visible pixels. visibility: (K,) float32,
    fraction of the surface facing the camera that is neither occluded nor outside of the image.
    """

    track_ids: NDArray[np.int64]
    boxes: NDArray[np.float32]
    pixels: NDArray[np.int64]
    visibility: NDArray[np.float32]


def image_objects(
    scene: Scene, view: ImageTruth, model: CameraModel, pose: NDArray[np.float64]
) -> ImageObjects:
    """The objects in an image. pose: (4, 4) of the camera in the scene's frame."""
    rows, columns = np.nonzero(view.instances)
    tracks, index, pixels = np.unique(
        view.instances[rows, columns], return_inverse=True, return_counts=True
    )
    boxes = np.empty((len(tracks), 4), np.float32)
    for axis, values in ((0, columns), (1, rows)):
        low, high = np.full(len(tracks), np.inf), np.full(len(tracks), -np.inf)
        np.minimum.at(low, index, values)
        np.maximum.at(high, index, values)
        # Pixel coordinate (0, 0) is the centre of a pixel.
        boxes[:, axis], boxes[:, axis + 2] = low - 0.5, high + 0.5
    order = np.argsort(scene.tracks, kind="stable")
    objects = order[np.searchsorted(scene.tracks[order], tracks)]
    visibility = _visible_fraction(scene, objects, model, pose)
    return ImageObjects(tracks.astype(np.int64), boxes, pixels.astype(np.int64), visibility)


def _visible_fraction(
    scene: Scene, rows: NDArray[np.int64], model: CameraModel, pose: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Visible fraction (K,) of objects, weighted by the solid angle of the sampled triangles."""
    triangles = scene.triangles
    start = np.searchsorted(triangles.object_index, rows, "left")
    stop = np.searchsorted(triangles.object_index, rows, "right")
    steps = np.linspace(0.0, 1.0, SAMPLES, endpoint=False)
    sample = (start[:, None] + (stop - start)[:, None] * steps).astype(np.int64).ravel()
    corner = triangles.corners[sample].astype(np.float64)
    normal = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    direction = corner.mean(axis=1) - pose[:3, 3]
    length = np.maximum(np.linalg.norm(direction, axis=1), 1e-6)
    unit = direction / length[:, None]
    weight = np.maximum(-np.einsum("ij,ij->i", normal, unit), 0.0) / length**2
    rays = np.hstack([np.broadcast_to(pose[:3, 3], unit.shape), unit]).astype(np.float32)
    is_visible = scene.hit_objects(scene.cast_rays(rays)) == np.repeat(rows, SAMPLES)
    in_camera = poses.transform_points(poses.inverse(pose), corner.mean(axis=1))
    is_visible &= model.project(in_camera)[1]
    shape = len(rows), SAMPLES
    total = np.maximum(weight.reshape(shape).sum(axis=1), 1e-12)
    return ((weight * is_visible).reshape(shape).sum(axis=1) / total).astype(np.float32)
