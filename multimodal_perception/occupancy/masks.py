"""Occupancy from segmentation masks: ground with a drivable class is free.

The centre of each cell, at the height of the ground, is projected into the image with the exact camera
model. Distorted images and slopes therefore need no rectified bird's-eye view. The mass decreases with
distance, as the position of a pixel on the ground becomes uncertain.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.frame import SensorFrame
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.occupancy.cells import GridGeometry
from multimodal_perception.perception import SegmentationMask
from multimodal_perception.pointcloud.ground_segmentation import Cloud

Layer = NDArray[np.float32]
Window = tuple[int, int, int, int]


@dataclass(frozen=True)
class MaskConfig:
    """Inverse sensor model of segmentation masks of visible and thermal images.

    Attributes:
        free_mass: Free mass of a drivable pixel directly below the camera; it decreases with distance.
            Increase it if your segmentation model is reliable.
        boundary_mass: Occupied mass of the cell where the drivable area ends along the line of sight, as
            an obstacle may stand there. Set it to 0 if the boundary is often a marking or a change of
            the surface.
        drivable_classes: Names of the mask classes that count as free ground. Change them if your
            segmentation model has other class names, or to exclude sidewalks.
        max_range: Distance from the camera up to which masks are used. Decrease it for cameras that are
            mounted low or calibrated poorly.
        pitch_std_deg: Standard deviation of the camera's pitch relative to the ground; it determines how
            fast the mass decreases with distance. Increase it for vehicles with soft suspension.
        position_tolerance: Position error on the ground at which the mass has decreased to one half.
            Increase it to use distant pixels more.
    """

    free_mass: float = field(default=0.6, metadata={"min": 0.0, "max": 0.99})
    boundary_mass: float = field(default=0.2, metadata={"min": 0.0, "max": 0.99})
    drivable_classes: tuple[str, ...] = (
        "drivable", "road", "lane", "marking", "sidewalk", "kerb", "terrain",
    )  # fmt: skip
    max_range: float = field(default=25.0, metadata={"min": 1.0, "max": 100.0, "unit": "m"})
    pitch_std_deg: float = field(default=0.573, metadata={"min": 0.0, "max": 10.0, "unit": "deg"})
    position_tolerance: float = field(default=0.5, metadata={"min": 0.01, "max": 10.0, "unit": "m"})


class MaskModel:
    """Converts segmentation masks to masses. counts: rejected masks by reason."""

    def __init__(self, config: MaskConfig | None = None) -> None:
        self.config = config or MaskConfig()
        self.counts: Counter[str] = Counter()

    def evidence(
        self,
        frame: SensorFrame,
        masks: Mapping[str, SegmentationMask],
        cells: GridGeometry,
        cloud: Cloud | None = None,
        reliability: Callable[[str], float] = lambda _: 1.0,
    ) -> list[tuple[Layer, Layer, Window]]:
        """Free and occupied masses (size, size) float32 of each usable mask, and their window of cells.

        masks: by camera or thermal sensor. cloud: provides the height of the ground; without it the
        ground is flat at z = 0. reliability: factor on the masses of a sensor, by its name.
        """
        result = []
        for name, mask in masks.items():
            reason = self._rejection_reason(frame, name, mask)
            if reason is not None:
                self.counts[reason] += 1
                continue
            camera = frame.intrinsics[name]
            rows, columns = mask.labels.shape
            # The mask may be smaller than the image.
            camera = camera.scaled(columns / camera.width, rows / camera.height)
            pose = frame.reference_from_sensor(name)
            drivable = np.array([n in self.config.drivable_classes for n in mask.class_names])
            image = drivable[mask.labels]
            result.append(self._project(image, camera, pose, cells, cloud, reliability(name)))
        return result

    def _rejection_reason(
        self, frame: SensorFrame, name: str, mask: SegmentationMask
    ) -> str | None:
        if name not in frame.intrinsics or name not in frame.base_from_sensor:
            return "no_calibration"
        if not poses.is_rigid(frame.reference_from_sensor(name)):
            return "bad_pose"
        labels = mask.labels
        if labels.ndim != 2 or not labels.size or int(labels.max()) >= len(mask.class_names):
            return "bad_mask"
        if not set(self.config.drivable_classes) & set(mask.class_names):
            return "no_drivable_class"
        return None

    def _project(
        self,
        image: NDArray[np.bool_],
        camera: CameraModel,
        pose: NDArray[np.float64],
        cells: GridGeometry,
        cloud: Cloud | None,
        weight: float,
    ) -> tuple[Layer, Layer, Window]:
        c = self.config
        free, occupied = (
            np.zeros((cells.cells_per_side, cells.cells_per_side), np.float32) for _ in range(2)
        )
        window = cells.window(float(pose[0, 3]), float(pose[1, 3]), c.max_range)
        rows, columns = (v.ravel() for v in np.mgrid[window[0] : window[1], window[2] : window[3]])
        x, y = cells.centres(rows, columns)
        distance = np.hypot(x - pose[0, 3], y - pose[1, 3])
        near = distance <= c.max_range
        x, y, distance, rows, columns = (v[near] for v in (x, y, distance, rows, columns))
        z = _ground_height(cloud, x, y)
        ground = np.column_stack([x, y, z])
        drivable, visible = _sample_mask(image, camera, pose, ground)
        masses = weight * self._certainty(distance, pose[2, 3] - z)
        is_free = visible & drivable
        free[rows[is_free], columns[is_free]] = c.free_mass * masses[is_free]
        if c.boundary_mass > 0:
            # The drivable area ends where the point one cell closer to the camera is still drivable.
            other = np.flatnonzero(visible & ~drivable & (distance > cells.resolution))
            fraction = cells.resolution / distance[other, None]
            closer = ground[other] + fraction * (np.append(pose[:2, 3], 0.0) - ground[other])
            closer[:, 2] = _ground_height(cloud, closer[:, 0], closer[:, 1])
            drivable, visible = _sample_mask(image, camera, pose, closer)
            edge = other[drivable & visible]
            occupied[rows[edge], columns[edge]] = c.boundary_mass * masses[edge]
        return free, occupied, window

    def _certainty(
        self, distance: NDArray[np.float64], height: NDArray[np.floating]
    ) -> NDArray[np.float64]:
        """Factor (N,) on the mass at a distance from a camera at a height above the ground.

        With d = h / tan(a), a pitch error da displaces a point on the ground by (d^2 + h^2) / h da.
        """
        height = np.maximum(height, 0.1)
        error = (distance**2 + height**2) / height * np.radians(self.config.pitch_std_deg)
        return 1.0 / (1.0 + (error / self.config.position_tolerance) ** 2)


def _ground_height(
    cloud: Cloud | None, x: NDArray[np.float64], y: NDArray[np.float64]
) -> NDArray[np.floating]:
    if cloud is None or not len(cloud.points):
        return np.zeros(len(x))
    return cloud.ground.at(x, y)


def _sample_mask(
    image: NDArray[np.bool_],
    camera: CameraModel,
    base_from_camera: NDArray[np.float64],
    points: NDArray[np.float64],
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Mask values (N,) at points (N, 3) in base_link, and which points are inside the image (N,)."""
    pixels, visible = camera.project(
        poses.transform_points(poses.inverse(base_from_camera), points)
    )
    visible &= np.isfinite(pixels).all(axis=1)
    at = np.rint(np.where(visible[:, None], pixels, 0.0)).astype(np.int64)
    return image[at[:, 1], at[:, 0]] & visible, visible
