"""A synthetic frame with every sensor of a rig, for warm-up, time measurements and engine comparisons.

A street with cars and pedestrians: LiDAR rays hit a flat ground and boxes; images show the boxes in
front of road and sky with noise. The same arguments give the same frame. The values are not those of
real sensors.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.frame import (
    CameraImage,
    LidarSweep,
    Modality,
    SensorFrame,
    ThermalImage,
    UltrasonicReading,
)
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.boxes import corners
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.rig import Rig, Sensor

RINGS, COLUMNS = 64, 1800
ELEVATION_DEG = (-24.8, 2.0)
MAX_DISTANCE_M = 80.0
FRAME_PERIOD_NS = 100_000_000
EGO_SPEED = 5.0  # m/s
# Image size and pose of a sensor whose calibration is not in the rig file.
DEFAULT_SIZE = (1280, 720)
TEXTURE_SCALES = (1, 4, 16, 64)  # pixels
# x, y, z, length, width, height, yaw of the objects, and their brightness.
BOXES = np.array(
    [
        (9.0, 0.3, 0.75, 4.3, 1.8, 1.5, 0.0),
        (14.0, 3.6, 0.8, 4.5, 1.9, 1.6, 3.1),
        (22.0, -3.4, 0.75, 4.2, 1.8, 1.5, 0.1),
        (33.0, 3.4, 1.4, 8.5, 2.5, 2.8, 0.0),
        (-12.0, 3.2, 0.75, 4.4, 1.8, 1.5, 0.0),
        (7.0, -5.5, 0.85, 0.5, 0.6, 1.7, 0.0),
        (12.0, -6.2, 0.9, 0.5, 0.6, 1.8, 1.0),
        (18.0, 6.4, 0.85, 0.5, 0.6, 1.7, 0.5),
        (26.0, 12.0, 3.0, 40.0, 2.0, 6.0, 0.0),
        (26.0, -12.0, 3.0, 40.0, 2.0, 6.0, 0.0),
    ]
)


def sample_frame(rig: Rig, step: int = 0) -> SensorFrame:
    """Return frame `step` of the street: the vehicle drives 0.5 m per step, and the noise changes.

    A sensor without extrinsics in the rig file is placed in the middle of the roof, facing forward; an
    image sensor without intrinsics gets DEFAULT_SIZE and a field of view of 90 degrees.
    """
    rng = np.random.default_rng(step)
    stamp_ns = step * FRAME_PERIOD_NS
    boxes = BOXES.copy()
    boxes[:, 0] -= step * EGO_SPEED * 1e-9 * FRAME_PERIOD_NS
    reading: Any
    by_modality: dict[Modality, dict[str, Any]] = {modality: {} for modality in Modality}
    base_from_sensor, intrinsics = {}, {}
    for name, sensor in rig.sensors.items():
        pose = base_from_sensor[name] = _pose(sensor)
        if sensor.modality in (Modality.CAMERA, Modality.THERMAL):
            intrinsics[name] = _camera_model(sensor)
            grey = _draw(boxes, intrinsics[name], pose, rng)
            reading = _image(sensor, stamp_ns, grey)
        elif sensor.modality is Modality.LIDAR:
            reading = _sweep(sensor, stamp_ns, pose, boxes, rng)
        else:
            near, far = 0.15, 5.0
            if sensor.limits is not None:
                near, far = sensor.limits.min_range, sensor.limits.max_range
            reading = UltrasonicReading(name, stamp_ns, sensor.frame_id, far / 2, near, far, 1.0)
        by_modality[sensor.modality][name] = reading
    return SensorFrame(
        stamp_ns,
        rig.base_frame,
        lidars=by_modality[Modality.LIDAR],
        cameras=by_modality[Modality.CAMERA],
        thermals=by_modality[Modality.THERMAL],
        ultrasonics=by_modality[Modality.ULTRASONIC],
        base_from_sensor=base_from_sensor,
        intrinsics=intrinsics,
        odom_from_base=poses.from_xyz_rpy((BOXES[0, 0] - boxes[0, 0], 0.0, 0.0)),
        expected=frozenset(rig.sensors),
        vehicle_footprint=rig.vehicle_footprint,
        ground_z=rig.ground_z,
    )


def _pose(sensor: Sensor) -> NDArray[np.float64]:
    pose = sensor.base_from_sensor()
    if pose is not None:
        return pose
    from multimodal_perception.sensor_calibration import BODY_FROM_OPTICAL

    height = poses.from_xyz_rpy((0.0, 0.0, 1.7))
    is_image = sensor.modality in (Modality.CAMERA, Modality.THERMAL)
    return height @ BODY_FROM_OPTICAL if is_image else height


def _camera_model(sensor: Sensor) -> CameraModel:
    if sensor.intrinsics is not None:
        return sensor.intrinsics.camera_model()
    return CameraModel.pinhole(*DEFAULT_SIZE, DEFAULT_SIZE[0] / 2)


def _sweep(
    sensor: Sensor, stamp_ns: int, pose: NDArray, boxes: NDArray, rng: np.random.Generator
) -> LidarSweep:
    azimuth = np.linspace(-np.pi, np.pi, COLUMNS, endpoint=False)
    elevation = np.radians(np.linspace(*ELEVATION_DEG, RINGS))
    a, e = (values.ravel() for values in np.meshgrid(azimuth, elevation))
    rays = np.column_stack([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)])
    origin, directions = pose[:3, 3], rays @ pose[:3, :3].T
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = np.where(directions[:, 2] < 0, -origin[2] / directions[:, 2], np.inf)
        for box in boxes:
            distance = np.minimum(distance, _box_distance(origin, directions, box))
    hit = np.flatnonzero((distance > 0.5) & (distance < MAX_DISTANCE_M))
    points = np.empty((len(hit), 4), np.float32)
    measured = distance[hit] + rng.normal(0.0, 0.02, len(hit))
    points[:, :3] = rays[hit] * measured[:, None]
    points[:, 3] = rng.uniform(0.1, 0.6, len(hit))
    return LidarSweep(sensor.name, stamp_ns, sensor.frame_id, points)


def _box_distance(origin: NDArray, directions: NDArray, box: NDArray) -> NDArray[np.float64]:
    """Distance along each ray to an upright box; infinite where the ray misses it."""
    cos, sin = np.cos(box[6]), np.sin(box[6])
    box_from_base = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
    start, rays = box_from_base @ (origin - box[:3]), directions @ box_from_base.T
    planes = np.stack([(-box[3:6] / 2 - start) / rays, (box[3:6] / 2 - start) / rays])
    near, far = planes.min(axis=0).max(axis=1), planes.max(axis=0).min(axis=1)
    return np.where((near <= far) & (near > 0), near, np.inf)


def _draw(
    boxes: NDArray, camera: CameraModel, pose: NDArray, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """A grey image (H, W): sky, road, and the convex hull of each box, with texture and noise.

    Without texture the networks' activations are small, and rounding errors look larger than in images
    of a real camera.
    """
    shape = camera.height, camera.width
    image = np.full(shape, 80.0, np.float32)
    image[: camera.height // 2] = np.linspace(235, 170, camera.height // 2)[:, None]
    camera_from_base = poses.inverse(pose)
    order = np.argsort(-np.hypot(boxes[:, 0], boxes[:, 1]))
    for index in order:
        points = poses.transform_points(camera_from_base, corners(boxes[index : index + 1])[0])
        pixels, visible = camera.project(points)
        if visible.all():
            hull = cv2.convexHull(np.round(pixels).astype(np.int32))
            cv2.fillConvexPoly(image, hull, float(25 + 160 * (index * 7 % 10) / 10))
            cv2.polylines(image, [hull], True, 15.0, max(camera.width // 320, 1))
    for scale in TEXTURE_SCALES:
        coarse = rng.normal(0.0, 14.0, (shape[0] // scale + 2, shape[1] // scale + 2))
        image += cv2.resize(coarse.astype(np.float32), shape[::-1], interpolation=cv2.INTER_LINEAR)
    return np.clip(image, 0, 255).astype(np.uint8)


def _image(sensor: Sensor, stamp_ns: int, grey: NDArray[np.uint8]) -> CameraImage | ThermalImage:
    if sensor.modality is Modality.CAMERA:
        colour = np.stack([grey, grey, (0.9 * grey).astype(np.uint8)], axis=2)
        return CameraImage(sensor.name, stamp_ns, sensor.frame_id, colour)
    return ThermalImage(sensor.name, stamp_ns, sensor.frame_id, grey)
