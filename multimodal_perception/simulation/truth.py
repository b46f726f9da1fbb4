"""Ground truth of a frame: bounding boxes, their visibility, occupancy grid and semantic grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.frame import CLASS_NAMES, Boxes3D
from multimodal_perception.geometry import poses
from multimodal_perception.perception import OccupancyGrid
from multimodal_perception.simulation.image_truth import ImageObjects
from multimodal_perception.simulation.sensors.camera import ImageTruth
from multimodal_perception.simulation.sensors.lidar import SweepTruth
from multimodal_perception.simulation.world.materials import (
    CLASS_OF_SEMANTIC,
    DRIVABLE_CLASS_NAMES,
    SEMANTIC_NAMES,
)
from multimodal_perception.simulation.world.scene import Scene

BOX_RANGE = 100.0  # maximum distance of objects with a bounding box from the ego vehicle, metres
VISIBILITY_SAMPLES = 40  # points on an object at which its visibility is sampled
# Objects above this height do not occupy a grid cell, metres.
CLEARANCE_HEIGHT = 2.5
# Heights at which the visibility of vertical faces is tested, metres.
FACE_HEIGHTS = (0.3, 0.8, 1.3, 1.8, 2.3)
DRIVABLE_CLASSES = np.array([name in DRIVABLE_CLASS_NAMES for name in SEMANTIC_NAMES])


@dataclass(frozen=True)
class GridLayout:
    """Size of the ground-truth grids, which are squares centred on base_link.

    Attributes:
        half_extent: Half the side length of the grid. Increase it to cover more distant obstacles;
            memory and time grow with its square.
        resolution: Side length of a cell. Lower it for finer grids; memory and time grow with the
            inverse of its square.
    """

    half_extent: float = field(default=40.0, metadata={"min": 1.0, "max": 200.0, "unit": "m"})
    resolution: float = field(default=0.25, metadata={"min": 0.05, "max": 5.0, "unit": "m"})

    @property
    def cells(self) -> int:
        """Number of cells along each side."""
        return round(2 * self.half_extent / self.resolution)


@dataclass(frozen=True)
class FrameTruth:
    """Ground truth of one frame.

    boxes: bounding boxes in base_link at the frame's stamp, with class, track id, velocity and number of
    LiDAR points. visibility: (N,) float32, fraction of each box's surface facing the first LiDAR (or
    camera, without LiDARs) that is not occluded. occupancy: grid in base_link whose free and occupied
    values are 0 or 1, both 0 where no LiDAR (without LiDARs: no camera) has a line of sight.
    semantic_grid: (rows, columns) uint8, index into SEMANTIC_NAMES of the highest object below 2.5 m in
    each cell, visible or not. odom_from_base: pose (4, 4). views: by name of the camera or thermal
    camera. points: by name of the LiDAR. ultrasonic_ranges: true range of each ultrasonic sensor's
    nearest echo in metres, inf without one. objects_in_images: by name of the camera or thermal camera,
    empty for stored frames. box_pitch: (N,) pitch of each object relative to base_link, radians,
    positive upwards; the boxes are without pitch.
    """

    stamp_ns: int
    boxes: Boxes3D
    visibility: NDArray[np.float32]
    occupancy: OccupancyGrid
    semantic_grid: NDArray[np.uint8]
    odom_from_base: NDArray[np.float64]
    views: Mapping[str, ImageTruth] = field(default_factory=dict)
    points: Mapping[str, SweepTruth] = field(default_factory=dict)
    ultrasonic_ranges: Mapping[str, float] = field(default_factory=dict)
    objects_in_images: Mapping[str, ImageObjects] = field(default_factory=dict)
    box_pitch: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))


def ground_truth_boxes(
    scene: Scene,
    odom_from_base: NDArray[np.float64],
    viewpoint: NDArray[np.float64],
    sweeps: Sequence[SweepTruth],
    stamp_ns: int,
    base_frame: str,
) -> tuple[Boxes3D, NDArray[np.float32]]:
    """Bounding boxes within BOX_RANGE of the ego vehicle, in base_link, and their visibility (N,).

    viewpoint: (3,) position in the scene's frame from which the visibility is computed. sweeps: ground
    truth of the sweeps, for the number of points in each box.
    """
    base = scene.sensor_pose(odom_from_base, np.eye(4))
    distance = np.linalg.norm(scene.boxes[:, :2] - base[:2, 3], axis=1)
    nearby = np.flatnonzero(distance <= BOX_RANGE)
    rows = scene.labelled[nearby]
    base_from_scene = poses.inverse(base)
    boxes = scene.boxes[nearby].copy()
    boxes[:, :3] = poses.transform_points(base_from_scene, boxes[:, :3])
    if scene.road is None:
        boxes[:, 6] = poses.wrap_angle(boxes[:, 6] + poses.to_yaw(base_from_scene))
    else:
        forward = box_directions(scene, odom_from_base)[nearby]
        boxes[:, 6] = np.arctan2(forward[:, 1], forward[:, 0])
    velocities = scene.velocities[nearby] @ base_from_scene[:2, :2].T
    tracks = scene.tracks[rows].astype(np.int64)
    visibility = _visibility(scene, rows, viewpoint)
    result = Boxes3D(
        stamp_ns,
        base_frame,
        boxes.astype(np.float32),
        np.ones(len(nearby), np.float32),
        CLASS_OF_SEMANTIC[scene.semantics[rows]],
        CLASS_NAMES,
        velocities.astype(np.float32),
        tracks,
        _count_points(tracks, sweeps),
        visibility,
    )
    return result, visibility


def box_directions(scene: Scene, odom_from_base: NDArray[np.float64]) -> NDArray[np.float64]:
    """Unit vectors (N, 3) along the length of all objects with a bounding box, in base_link."""
    base_from_scene = poses.inverse(scene.sensor_pose(odom_from_base, np.eye(4)))
    yaw, pitch = scene.boxes[:, 6], scene.pitch
    forward = np.column_stack(
        [np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), np.sin(pitch)]
    )
    return np.asarray(forward @ base_from_scene[:3, :3].T)


def _ground_height(scene: Scene, xy: NDArray[np.floating]) -> NDArray[np.float32]:
    """z (N,) of the road's surface at points (N, 2) of the scene's frame; 0 on level roads."""
    if scene.road is None:
        return np.zeros(len(xy), np.float32)
    strip = scene.road.to_strip(xy.astype(np.float64) + scene.origin[:2])
    height = scene.road.height(strip[:, 0], strip[:, 1]) - scene.origin[2]
    return np.asarray(height, np.float32)


def _count_points(tracks: NDArray[np.int64], sweeps: Sequence[SweepTruth]) -> NDArray[np.int64]:
    """Number of points of each track (N,) in all sweeps together."""
    counts = np.zeros(len(tracks), np.int64)
    for sweep in sweeps:
        ids, numbers = np.unique(sweep.instances, return_counts=True)
        number_of_points = dict(zip(ids.tolist(), numbers.tolist(), strict=True))
        counts += np.array([number_of_points.get(int(t), 0) for t in tracks], np.int64)
    return counts


def _visibility(
    scene: Scene, rows: NDArray[np.int64], viewpoint: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Fraction of the sampled triangles facing the viewpoint that are not occluded, of each object.

    rows: (N,) indices into scene.objects.
    """
    triangles = scene.triangles
    start = np.searchsorted(triangles.object_index, rows, "left")
    stop = np.searchsorted(triangles.object_index, rows, "right")
    steps = np.linspace(0.0, 1.0, VISIBILITY_SAMPLES, endpoint=False)
    sample = (start[:, None] + (stop - start)[:, None] * steps).astype(np.int64).ravel()
    corner = triangles.corners[sample].astype(np.float64)
    centre = corner.mean(axis=1)
    normal = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    direction = centre - viewpoint
    length = np.maximum(np.linalg.norm(direction, axis=1, keepdims=True), 1e-6)
    facing = np.einsum("ij,ij->i", normal, direction) < 0
    origins = np.broadcast_to(viewpoint, centre.shape)
    rays = np.hstack([origins, direction / length]).astype(np.float32)
    hits = scene.cast_rays(rays)
    is_first_hit = scene.hit_objects(hits) == np.repeat(rows, VISIBILITY_SAMPLES)
    shape = len(rows), VISIBILITY_SAMPLES
    num_facing = facing.reshape(shape).sum(axis=1)
    visible = (facing & is_first_hit).reshape(shape).sum(axis=1)
    return (visible / np.maximum(num_facing, 1)).astype(np.float32)


def ground_truth_grid(
    scene: Scene,
    odom_from_base: NDArray[np.float64],
    viewpoints: Sequence[NDArray[np.float64]],
    layout: GridLayout,
    stamp_ns: int,
    base_frame: str,
) -> tuple[OccupancyGrid, NDArray[np.uint8]]:
    """Occupancy grid and semantic grid (rows, columns) uint8 around the ego vehicle, in base_link.

    viewpoints: (3,) positions of the sensors in the scene's frame. Drivable cells are free if their
    ground is visible. Other cells are occupied if they are visible from above the obstacle, next to a
    visible free cell, or if one of their vertical faces is visible.
    """
    n = layout.cells
    cell_centres = (np.arange(n) + 0.5) * layout.resolution - n * layout.resolution / 2
    x, y = np.meshgrid(cell_centres, cell_centres)
    base = scene.sensor_pose(odom_from_base, np.eye(4))
    target = np.empty((n * n, 3), np.float32)
    target[:, 0] = (base[0, 0] * x + base[0, 1] * y + base[0, 3]).ravel()
    target[:, 1] = (base[1, 0] * x + base[1, 1] * y + base[1, 3]).ravel()
    rays = np.zeros((n * n, 6), np.float32)
    rays[:, :2] = target[:, :2]
    ground = _ground_height(scene, target[:, :2])
    rays[:, 2] = CLEARANCE_HEIGHT + ground
    rays[:, 5] = -1.0
    hits = scene.cast_rays(rays)
    hit_object = scene.hit_objects(hits)
    semantic = np.where(hit_object >= 0, scene.semantics[np.maximum(hit_object, 0)], np.uint8(0))
    drivable = DRIVABLE_CLASSES[semantic].reshape(n, n)
    visible = np.zeros(n * n, np.bool_)
    depth = np.where(np.isfinite(hits.distance), hits.distance, CLEARANCE_HEIGHT)
    target[:, 2] = CLEARANCE_HEIGHT - depth + 0.08 + ground
    for viewpoint in viewpoints:
        rays[:, :3] = viewpoint
        rays[:, 3:] = target - rays[:, :3]
        visible |= ~scene.is_occluded(rays, 0.0, 1.0)
    visible_free = visible.reshape(n, n) & drivable
    boundary = ~drivable & _dilated(drivable)
    visible_faces = np.zeros((n, n), np.bool_)
    boundary_centres = target[boundary.ravel(), :2]
    visible_faces[boundary] = _are_faces_visible(
        scene, viewpoints, boundary_centres, layout.resolution
    )
    occupied = ~drivable & (_dilated(visible_free) | visible.reshape(n, n) | visible_faces)
    half_extent = n * layout.resolution / 2
    grid = OccupancyGrid(
        stamp_ns,
        base_frame,
        layout.resolution,
        (-half_extent, -half_extent),
        visible_free.astype(np.float32),
        occupied.astype(np.float32),
    )
    return grid, semantic.reshape(n, n)


def _dilated(cells: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The cells of a mask (rows, columns) and their eight neighbours."""
    dilated = cv2.dilate(cells.astype(np.uint8), np.ones((3, 3), np.uint8))
    return np.asarray(dilated, np.bool_)


def _are_faces_visible(
    scene: Scene,
    viewpoints: Sequence[NDArray[np.float64]],
    cell_centres: NDArray[np.float32],
    resolution: float,
) -> NDArray[np.bool_]:
    """Whether an object in each cell is visible from a viewpoint at one of FACE_HEIGHTS.

    cell_centres: (N, 2) in the scene's frame. A face is visible if the first hit of the ray towards the
    cell is not drivable ground and lies within the size of a cell.
    """
    visible = np.zeros(len(cell_centres), np.bool_)
    ground = _ground_height(scene, cell_centres)
    rays = np.empty((len(cell_centres), 6), np.float32)
    for viewpoint in viewpoints:
        rays[:, :3] = viewpoint
        for height in FACE_HEIGHTS:
            target = np.column_stack([cell_centres, height + ground.astype(np.float64)])
            direction = target - viewpoint
            length = np.maximum(np.linalg.norm(direction, axis=1), 1e-6)
            rays[:, 3:] = direction / length[:, None]
            hits = scene.cast_rays(rays)
            hit_object = scene.hit_objects(hits)
            semantic = scene.semantics[np.maximum(hit_object, 0)]
            is_obstacle = (hit_object >= 0) & ~DRIVABLE_CLASSES[semantic]
            visible |= is_obstacle & (np.abs(hits.distance - length) < resolution)
    return visible
