"""A small synthetic street with one LiDAR and one camera, and exact labels.

It serves demonstrations and tests on machines without recorded data. Every ray is intersected with a
flat ground, upright boxes and poles. The same seed gives the same frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.datasets.dataset import Dataset
from multimodal_perception.frame import (
    CLASS_NAMES,
    Boxes3D,
    CameraImage,
    LidarSweep,
    SensorFrame,
)
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.boxes import count_points_in_boxes
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.kernels import njit
from multimodal_perception.resources import share_path
from multimodal_perception.rig import load_rig
from multimodal_perception.sensor_calibration import BODY_FROM_OPTICAL

FIRST_STAMP_NS = 1_700_000_000_000_000_000
PERIOD_NS = 100_000_000
EGO_SPEED = 5.0  # m/s
BASE_FROM_LIDAR = poses.from_xyz_rpy((0.0, 0.0, 1.8))
BASE_FROM_CAMERA = poses.from_xyz_rpy((0.4, 0.0, 1.6)) @ BODY_FROM_OPTICAL
CAMERA = CameraModel.pinhole(960, 400, 620.0)
SKY = (0.62, 0.74, 0.88)


@dataclass(frozen=True)
class _Solid:
    """An upright box on the ground.

    box: x, y, z, length, width, height, yaw. speed: along its heading, m/s.
    """

    box: tuple[float, float, float, float, float, float, float]
    colour: tuple[float, float, float]
    label: str | None = None
    speed: float = 0.0


class SyntheticDataset(Dataset):
    """Frames of a drive along a street with parked and moving cars, pedestrians, walls and poles."""

    name = "synthetic street"

    def __init__(
        self, frames: int = 10, seed: int = 0, rings: int = 64, columns: int = 1800
    ) -> None:
        self.rig = load_rig(share_path("config", "rigs", "synthetic.yaml"))
        self._frames = frames
        self._seed = seed
        self._solids = _street(np.random.default_rng(seed))
        azimuth = np.linspace(-np.pi, np.pi, columns, endpoint=False)
        elevation = np.radians(np.linspace(-24.8, 2.0, rings))
        a, e = (v.ravel() for v in np.meshgrid(azimuth, elevation))
        self._rays = np.column_stack([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)])
        self._ring = np.repeat(np.arange(rings, dtype=np.uint16), columns)
        v, u = np.mgrid[0 : CAMERA.height, 0 : CAMERA.width]
        pixels = CAMERA.unproject(np.column_stack([u.ravel(), v.ravel()]))
        self._pixel_rays = pixels @ BASE_FROM_CAMERA[:3, :3].T

    def __len__(self) -> int:
        return self._frames

    def __getitem__(self, index: int) -> SensorFrame:
        """Render one frame. Raises IndexError."""
        index = range(self._frames)[index]
        stamp_ns = FIRST_STAMP_NS + index * PERIOD_NS
        seconds = index * PERIOD_NS / 1e9
        solids = [_moved(s, seconds) for s in self._solids]
        rng = np.random.default_rng((self._seed, index))
        sweep = self._sweep(solids, stamp_ns, rng)
        labelled = [s for s in solids if s.label is not None]
        boxes = np.array([s.box for s in labelled], np.float32).reshape(-1, 7)
        labels = np.array([CLASS_NAMES.index(s.label or "unknown") for s in labelled], np.int64)
        in_base = poses.transform_points(BASE_FROM_LIDAR, sweep.points[:, :3])
        truth = Boxes3D(
            stamp_ns,
            "base_link",
            boxes,
            np.ones(len(boxes), np.float32),
            labels,
            # A margin, because measured points scatter around the faces.
            num_points=count_points_in_boxes(in_base, boxes, 0.05),
        )
        return SensorFrame(
            stamp_ns,
            lidars={"lidar": sweep},
            cameras={"camera": self._image(solids, stamp_ns)},
            base_from_sensor={"lidar": BASE_FROM_LIDAR, "camera": BASE_FROM_CAMERA},
            intrinsics={"camera": CAMERA},
            expected=frozenset(self.rig.sensors),
            labels=truth,
        )

    def _sweep(self, solids: list[_Solid], stamp_ns: int, rng: np.random.Generator) -> LidarSweep:
        distance, hit = _cast(BASE_FROM_LIDAR[:3, 3], self._rays, solids)
        in_range = distance < 90.0
        measured = distance[in_range] + rng.normal(0.0, 0.015, int(in_range.sum()))
        points = np.empty((len(measured), 4), np.float32)
        points[:, :3] = self._rays[in_range] * measured[:, None]
        brightness = np.array([0.2, *(float(np.mean(s.colour)) for s in solids)])
        points[:, 3] = brightness[hit[in_range]]
        return LidarSweep("lidar", stamp_ns, "lidar", points, rings=self._ring[in_range])

    def _image(self, solids: list[_Solid], stamp_ns: int) -> CameraImage:
        origin = BASE_FROM_CAMERA[:3, 3]
        distance, hit = _cast(origin, self._pixel_rays, solids)
        point = origin + self._pixel_rays * np.minimum(distance, 1e3)[:, None]
        colours = np.array([(0.36, 0.37, 0.39), *(s.colour for s in solids)])
        shade = 0.75 + 0.25 * np.sin(point[:, 0] * 3.1 + point[:, 1] * 2.3 + point[:, 2] * 5.0) ** 2
        rgb = colours[hit] * shade[:, None]
        lane = (hit == 0) & (np.abs(np.abs(point[:, 1]) - 3.5) < 0.08)
        rgb[lane] = 0.85
        haze = 1.0 - np.exp(-np.minimum(distance, 1e3) / 120.0)
        rgb += haze[:, None] * (np.array(SKY) - rgb)
        rgb[~np.isfinite(distance)] = SKY
        pixels = (255 * np.clip(rgb, 0, 1)).astype(np.uint8)
        return CameraImage(
            "camera", stamp_ns, "camera_optical", pixels.reshape(CAMERA.height, CAMERA.width, 3)
        )


def _street(rng: np.random.Generator) -> list[_Solid]:
    """The solids of the street, in base_link at the first frame."""
    solids = []
    paints = ((0.75, 0.15, 0.15), (0.2, 0.3, 0.65), (0.8, 0.8, 0.82), (0.15, 0.15, 0.17))
    for k, x in enumerate((9.0, 17.5, 27.0, 36.0, -9.0)):
        length, width, height = (
            rng.uniform(3.9, 4.6),
            rng.uniform(1.65, 1.85),
            rng.uniform(1.45, 1.6),
        )
        yaw = float(rng.normal(0, 0.03)) + (np.pi if k % 2 else 0.0)
        side = -5.2 if k % 2 else 5.2
        box = (x, side, height / 2, length, width, height, yaw)
        solids.append(_Solid(box, paints[k % len(paints)], "car"))
    solids.append(_Solid((32.0, 1.8, 0.75, 4.3, 1.8, 1.5, np.pi), paints[1], "car", speed=7.0))
    solids.append(
        _Solid((14.0, -1.2, 0.76, 4.2, 1.7, 1.52, 0.0), paints[2], "car", speed=EGO_SPEED)
    )
    for x, y, yaw in ((12.0, 7.6, 0.0), (20.0, -7.8, np.pi), (7.0, -4.0, np.pi / 2)):
        solids.append(
            _Solid((x, y, 0.87, 0.5, 0.6, 1.74, yaw), (0.85, 0.5, 0.3), "pedestrian", 1.3)
        )
    solids.append(
        _Solid((22.0, 2.9, 0.85, 1.75, 0.55, 1.7, np.pi), (0.2, 0.6, 0.4), "cyclist", 4.0)
    )
    for side in (-1, 1):
        for x in np.arange(-30.0, 75.0, 22.0):
            height = float(rng.uniform(5.0, 9.0))
            wall = (float(x), side * 13.0, height / 2, 17.0, 4.0, height, 0.0)
            solids.append(_Solid(wall, tuple(rng.uniform(0.4, 0.7, 3))))
        for x in np.arange(-20.0, 70.0, 15.0):
            pole = (float(x) + 3.0, side * 6.8, 3.0, 0.18, 0.18, 6.0, 0.0)
            solids.append(_Solid(pole, (0.45, 0.45, 0.45)))
    return solids


def _moved(solid: _Solid, seconds: float) -> _Solid:
    x, y, *rest = solid.box
    yaw = rest[-1]
    x += seconds * (solid.speed * float(np.cos(yaw)) - EGO_SPEED)
    y += seconds * solid.speed * float(np.sin(yaw))
    return _Solid((x, y, *rest), solid.colour, solid.label)  # type: ignore[arg-type]


def _cast(
    origin: NDArray[np.float64], rays: NDArray[np.float64], solids: list[_Solid]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Distance (N,) along unit rays (N, 3) and the object hit (N,).

    The distance is inf without a hit. The object is 0 for the ground and 1 + i for solid i.
    """
    return _cast_boxes(origin, rays, np.array([s.box for s in solids]))


@njit(nogil=True)
def _cast_boxes(origin, rays, boxes):  # type: ignore[no-untyped-def]
    distance = np.full(len(rays), np.inf)
    hit = np.zeros(len(rays), np.int64)
    for i in range(len(rays)):
        if rays[i, 2] < 0:
            distance[i] = -origin[2] / rays[i, 2]
    for k in range(len(boxes)):
        c, s = np.cos(boxes[k, 6]), np.sin(boxes[k, 6])
        x, y = origin[0] - boxes[k, 0], origin[1] - boxes[k, 1]
        start = (c * x + s * y, c * y - s * x, origin[2] - boxes[k, 2])
        radius = np.hypot(boxes[k, 3], boxes[k, 4]) / 2
        for i in range(len(rays)):
            # Skip rays that miss the circle around the footprint of the box.
            side = x * rays[i, 1] - y * rays[i, 0]
            flat = rays[i, 0] ** 2 + rays[i, 1] ** 2
            if side * side > radius * radius * flat:
                continue
            direction = (
                c * rays[i, 0] + s * rays[i, 1],
                c * rays[i, 1] - s * rays[i, 0],
                rays[i, 2],
            )
            enter, leave = 0.0, np.inf
            for axis in range(3):
                half, speed = boxes[k, 3 + axis] / 2, direction[axis]
                if abs(speed) < 1e-12:
                    if abs(start[axis]) > half:
                        leave = -1.0
                    continue
                first, second = (-half - start[axis]) / speed, (half - start[axis]) / speed
                enter = max(enter, min(first, second))
                leave = min(leave, max(first, second))
            if 0.0 < enter <= leave and enter < distance[i]:
                distance[i], hit[i] = enter, k + 1
    return distance, hit
