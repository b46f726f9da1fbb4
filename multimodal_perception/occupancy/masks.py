"""Occupancy from images: the ground that a mask calls drivable is free.

Each cell's middle, at the ground's height, is projected into the image by the exact camera model, so
distortion and slopes need no rectified bird's-eye view. Distance makes the place of a pixel on the
ground unsure; the mass falls with it.
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
from multimodal_perception.occupancy.cells import Cells
from multimodal_perception.perception import SegmentationMask
from multimodal_perception.pointcloud.ground_segmentation import Cloud

Layer = NDArray[np.float32]
Window = tuple[int, int, int, int]


@dataclass(frozen=True)
class MaskConfig:
    """Inverse model of segmented images, visible and thermal.

    free: mass of a drivable pixel right below the camera. blocked: the same, occupied, where what
    is drivable ends along the line of sight. drivable: names of the classes on which nothing
    stands. max_range: beyond which masks say nothing. pitch_error: how well the camera's pitch over
    the ground is known. tolerance: misplacement on the ground at which the mass has fallen to a
    half.
    """

    free: float = field(default=0.6, metadata={"min": 0.0, "max": 0.99})
    blocked: float = field(default=0.2, metadata={"min": 0.0, "max": 0.99})
    drivable: tuple[str, ...] = (
        "drivable", "road", "lane", "marking", "sidewalk", "kerb", "terrain",
    )  # fmt: skip
    max_range: float = field(default=25.0, metadata={"min": 1.0, "max": 100.0, "unit": "m"})
    pitch_error: float = field(default=0.01, metadata={"min": 0.0, "max": 0.2, "unit": "rad"})
    tolerance: float = field(default=0.5, metadata={"min": 0.01, "max": 10.0, "unit": "m"})


class MaskModel:
    """Segmentation masks to masses. counts: masks not used, by reason."""

    def __init__(self, config: MaskConfig | None = None) -> None:
        self.config = config or MaskConfig()
        self.counts: Counter[str] = Counter()

    def evidence(
        self,
        frame: SensorFrame,
        masks: Mapping[str, SegmentationMask],
        cells: Cells,
        cloud: Cloud | None = None,
        reliability: Callable[[str], float] = lambda _: 1.0,
    ) -> list[tuple[Layer, Layer, Window]]:
        """Free and occupied masses (size, size) float32 of each usable mask, and where they lie.

        masks: by camera or thermal sensor. cloud: gives the ground's height; flat at 0 without.
        reliability: factor on the masses of a sensor by name.
        """
        result = []
        for name, mask in masks.items():
            reason = self._fault(frame, name, mask)
            if reason is not None:
                self.counts[reason] += 1
                continue
            camera = frame.intrinsics[name]
            rows, columns = mask.labels.shape
            # Networks may work on a smaller image.
            camera = camera.scaled(columns / camera.width, rows / camera.height)
            pose = frame.reference_from_sensor(name)
            drivable = np.array([n in self.config.drivable for n in mask.class_names])
            image = drivable[mask.labels]
            result.append(self._project(image, camera, pose, cells, cloud, reliability(name)))
        return result

    def _fault(self, frame: SensorFrame, name: str, mask: SegmentationMask) -> str | None:
        if name not in frame.intrinsics or name not in frame.base_from_sensor:
            return "no_calibration"
        if not poses.is_rigid(frame.reference_from_sensor(name)):
            return "bad_pose"
        labels = mask.labels
        if labels.ndim != 2 or not labels.size or int(labels.max()) >= len(mask.class_names):
            return "bad_mask"
        if not set(self.config.drivable) & set(mask.class_names):
            return "no_drivable_class"
        return None

    def _project(
        self,
        image: NDArray[np.bool_],
        camera: CameraModel,
        pose: NDArray[np.float64],
        cells: Cells,
        cloud: Cloud | None,
        weight: float,
    ) -> tuple[Layer, Layer, Window]:
        c = self.config
        free, occupied = (np.zeros((cells.size, cells.size), np.float32) for _ in range(2))
        window = cells.window(float(pose[0, 3]), float(pose[1, 3]), c.max_range)
        rows, columns = (v.ravel() for v in np.mgrid[window[0] : window[1], window[2] : window[3]])
        x, y = cells.middles(rows, columns)
        distance = np.hypot(x - pose[0, 3], y - pose[1, 3])
        near = distance <= c.max_range
        x, y, distance, rows, columns = (v[near] for v in (x, y, distance, rows, columns))
        z = _ground(cloud, x, y)
        ground = np.column_stack([x, y, z])
        label, seen = _look_up(image, camera, pose, ground)
        masses = weight * self._certainty(distance, pose[2, 3] - z)
        good = seen & label
        free[rows[good], columns[good]] = c.free * masses[good]
        if c.blocked > 0:
            # One cell nearer along the line of sight still drivable: here it ends.
            dark = np.flatnonzero(seen & ~label & (distance > cells.resolution))
            share = cells.resolution / distance[dark, None]
            nearer = ground[dark] + share * (np.append(pose[:2, 3], 0.0) - ground[dark])
            nearer[:, 2] = _ground(cloud, nearer[:, 0], nearer[:, 1])
            label, seen = _look_up(image, camera, pose, nearer)
            edge = dark[label & seen]
            occupied[rows[edge], columns[edge]] = c.blocked * masses[edge]
        return free, occupied, window

    def _certainty(
        self, distance: NDArray[np.float64], height: NDArray[np.floating]
    ) -> NDArray[np.float64]:
        """Share (N,) of the mass that is left at a distance from a camera so high over the ground.

        With d = h / tan(a), an error da of the pitch misplaces the ground by (d^2 + h^2) / h da.
        """
        height = np.maximum(height, 0.1)
        misplaced = (distance**2 + height**2) / height * self.config.pitch_error
        return 1.0 / (1.0 + (misplaced / self.config.tolerance) ** 2)


def _ground(
    cloud: Cloud | None, x: NDArray[np.float64], y: NDArray[np.float64]
) -> NDArray[np.floating]:
    if cloud is None or not len(cloud.points):
        return np.zeros(len(x))
    return cloud.ground.at(x, y)


def _look_up(
    image: NDArray[np.bool_],
    camera: CameraModel,
    base_from_camera: NDArray[np.float64],
    points: NDArray[np.float64],
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """What the image says (N,) at points (N, 3) of base_link, and which of them it holds (N,)."""
    pixels, seen = camera.project(poses.transform_points(poses.inverse(base_from_camera), points))
    seen &= np.isfinite(pixels).all(axis=1)
    at = np.rint(np.where(seen[:, None], pixels, 0.0)).astype(np.int64)
    return image[at[:, 1], at[:, 0]] & seen, seen
