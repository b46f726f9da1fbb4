"""What is really there: boxes, what of them is seen, and the plane around the vehicle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.frame import CLASS_NAMES, Boxes3D
from multimodal_perception.geometry import poses
from multimodal_perception.perception import OccupancyGrid
from multimodal_perception.simulation.sensors.camera import View
from multimodal_perception.simulation.sensors.lidar import SweepTruth
from multimodal_perception.simulation.world.materials import DRIVABLE, SEMANTIC_NAMES
from multimodal_perception.simulation.world.scene import Scene

BOX_RANGE = 100.0  # objects further from the ego are left out
SAMPLES = 40  # places on an object that are asked for visibility
# What is higher stands in nobody's way.
CLEARANCE = 2.5
FACE_HEIGHTS = (0.3, 0.8, 1.3, 1.8, 2.3)
DRIVABLE_CLASSES = np.array([name in DRIVABLE for name in SEMANTIC_NAMES])


@dataclass(frozen=True)
class GridLayout:
    """The plane that occupancy is told of: a square of 2 * extent metres about base_link."""

    extent: float = field(default=40.0, metadata={"min": 1.0, "max": 200.0, "unit": "m"})
    resolution: float = field(default=0.25, metadata={"min": 0.05, "max": 5.0, "unit": "m"})

    @property
    def cells(self) -> int:
        """Cells to a side."""
        return round(2 * self.extent / self.resolution)


@dataclass(frozen=True)
class FrameTruth:
    """All that is known of one frame.

    boxes: in base_link at the frame's stamp, with class, track, velocity and LiDAR points; `visibility`
    (N,) float32 is the share of each one's facing surface that the first LiDAR (else camera) has in
    sight. views: by camera and thermal camera. points: by LiDAR. occupancy: free and occupied are 0 or
    1, neither where no LiDAR (else camera) looks. semantic_grid: (rows, columns) uint8, index into
    SEMANTIC_NAMES of what lies in each cell below 2.5 m, seen or not. odom_from_base: pose (4, 4).
    echoes: true distance of each ultrasonic's nearest echo, metres, inf for none.
    """

    stamp_ns: int
    boxes: Boxes3D
    visibility: NDArray[np.float32]
    occupancy: OccupancyGrid
    semantic_grid: NDArray[np.uint8]
    odom_from_base: NDArray[np.float64]
    views: Mapping[str, View] = field(default_factory=dict)
    points: Mapping[str, SweepTruth] = field(default_factory=dict)
    echoes: Mapping[str, float] = field(default_factory=dict)


def true_boxes(
    scene: Scene,
    odom_from_base: NDArray[np.float64],
    eye: NDArray[np.float64],
    sweeps: Sequence[SweepTruth],
    stamp_ns: int,
    base_frame: str,
) -> tuple[Boxes3D, NDArray[np.float32]]:
    """Boxes about the ego and their visibility from `eye` (3,) in the scene's frame."""
    base = scene.sensor_pose(odom_from_base, np.eye(4))
    away = np.linalg.norm(scene.boxes[:, :2] - base[:2, 3], axis=1)
    near = np.flatnonzero(away <= BOX_RANGE)
    rows = scene.labelled[near]
    base_from_scene = poses.inverse(base)
    boxes = scene.boxes[near].copy()
    boxes[:, :3] = poses.transform_points(base_from_scene, boxes[:, :3])
    boxes[:, 6] = poses.wrap_angle(boxes[:, 6] + poses.yaw_of(base_from_scene))
    velocities = scene.velocities[near] @ base_from_scene[:2, :2].T
    tracks = scene.tracks[rows].astype(np.int64)
    visibility = _visibility(scene, rows, eye)
    told = Boxes3D(
        stamp_ns,
        base_frame,
        boxes.astype(np.float32),
        np.ones(len(near), np.float32),
        scene.semantics[rows].astype(np.int64),
        CLASS_NAMES,
        velocities.astype(np.float32),
        tracks,
        _count_points(tracks, sweeps),
        visibility,
    )
    return told, visibility


def _count_points(tracks: NDArray[np.int64], sweeps: Sequence[SweepTruth]) -> NDArray[np.int64]:
    counts = np.zeros(len(tracks), np.int64)
    for sweep in sweeps:
        seen, number = np.unique(sweep.instances, return_counts=True)
        count_of = dict(zip(seen.tolist(), number.tolist(), strict=True))
        counts += np.array([count_of.get(int(t), 0) for t in tracks], np.int64)
    return counts


def _visibility(
    scene: Scene, rows: NDArray[np.int64], eye: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Share of each object's places that face the eye and are the first thing on the way to them."""
    soup = scene.soup
    start = np.searchsorted(soup.object_of, rows, "left")
    stop = np.searchsorted(soup.object_of, rows, "right")
    steps = np.linspace(0.0, 1.0, SAMPLES, endpoint=False)
    chosen = (start[:, None] + (stop - start)[:, None] * steps).astype(np.int64).ravel()
    corner = soup.corners[chosen].astype(np.float64)
    place = corner.mean(axis=1)
    normal = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    way = place - eye
    length = np.maximum(np.linalg.norm(way, axis=1, keepdims=True), 1e-6)
    facing = np.einsum("ij,ij->i", normal, way) < 0
    rays = np.hstack([np.broadcast_to(eye, place.shape), way / length]).astype(np.float32)
    hits = scene.cast(rays)
    first = scene.seen_objects(hits) == np.repeat(rows, SAMPLES)
    shape = len(rows), SAMPLES
    asked = facing.reshape(shape).sum(axis=1)
    seen = (facing & first).reshape(shape).sum(axis=1)
    return (seen / np.maximum(asked, 1)).astype(np.float32)


def true_grid(
    scene: Scene,
    odom_from_base: NDArray[np.float64],
    eyes: Sequence[NDArray[np.float64]],
    layout: GridLayout,
    stamp_ns: int,
    base_frame: str,
) -> tuple[OccupancyGrid, NDArray[np.uint8]]:
    """The plane around the ego: occupancy as far as `eyes` (3,) see it, and what lies where."""
    n = layout.cells
    middles = (np.arange(n) + 0.5) * layout.resolution - n * layout.resolution / 2
    x, y = np.meshgrid(middles, middles)
    base = scene.sensor_pose(odom_from_base, np.eye(4))
    target = np.empty((n * n, 3), np.float32)
    target[:, 0] = (base[0, 0] * x + base[0, 1] * y + base[0, 3]).ravel()
    target[:, 1] = (base[1, 0] * x + base[1, 1] * y + base[1, 3]).ravel()
    rays = np.zeros((n * n, 6), np.float32)
    rays[:, :2] = target[:, :2]
    rays[:, 2] = CLEARANCE
    rays[:, 5] = -1.0
    hits = scene.cast(rays)
    found = scene.seen_objects(hits)
    semantic = np.where(found >= 0, scene.semantics[np.maximum(found, 0)], np.uint8(0))
    drivable = DRIVABLE_CLASSES[semantic].reshape(n, n)
    seen = np.zeros(n * n, np.bool_)
    top = CLEARANCE - np.where(np.isfinite(hits.distance), hits.distance, CLEARANCE)
    target[:, 2] = top + 0.08
    for eye in eyes:
        rays[:, :3] = eye
        rays[:, 3:] = target - rays[:, :3]
        seen |= ~scene.hidden(rays, 0.0, 1.0)
    seen_free = seen.reshape(n, n) & drivable
    edge = ~drivable & _widened(drivable)
    faces = np.zeros((n, n), np.bool_)
    faces[edge] = _faces_seen(scene, eyes, target[edge.ravel(), :2], layout.resolution)
    occupied = ~drivable & (_widened(seen_free) | seen.reshape(n, n) | faces)
    half = n * layout.resolution / 2
    grid = OccupancyGrid(
        stamp_ns,
        base_frame,
        layout.resolution,
        (-half, -half),
        seen_free.astype(np.float32),
        occupied.astype(np.float32),
    )
    return grid, semantic.reshape(n, n)


def _widened(cells: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Cells (rows, columns) and those beside them."""
    wide = cv2.dilate(cells.astype(np.uint8), np.ones((3, 3), np.uint8))
    return np.asarray(wide, np.bool_)


def _faces_seen(
    scene: Scene,
    eyes: Sequence[NDArray[np.float64]],
    middles: NDArray[np.float32],
    resolution: float,
) -> NDArray[np.bool_]:
    """Whether an eye sees what stands in cells (N,) at some height, if only over a car's roof.

    A ray down into a house meets its floor, so it is asked for the first thing on the way to the cell.
    """
    seen = np.zeros(len(middles), np.bool_)
    rays = np.empty((len(middles), 6), np.float32)
    for eye in eyes:
        rays[:, :3] = eye
        for height in FACE_HEIGHTS:
            way = np.column_stack([middles, np.full(len(middles), height)]) - eye
            length = np.maximum(np.linalg.norm(way, axis=1), 1e-6)
            rays[:, 3:] = way / length[:, None]
            hits = scene.cast(rays)
            owner = scene.seen_objects(hits)
            solid = (owner >= 0) & ~DRIVABLE_CLASSES[scene.semantics[np.maximum(owner, 0)]]
            seen |= solid & (np.abs(hits.distance - length) < resolution)
    return seen
