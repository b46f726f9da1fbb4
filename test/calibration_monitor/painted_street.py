"""Readings of a LiDAR, a camera and a thermal camera at the same position in a street of boards."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from multimodal_perception.calibration_monitor.sensor_pairs import Pair, rotated_pose
from multimodal_perception.frame import CameraImage, LidarSweep, SensorFrame, ThermalImage
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.sensor_calibration import BODY_FROM_OPTICAL

MODEL = CameraModel.pinhole(400, 260, 300.0)
POSE = poses.from_xyz_rpy((0.0, 0.0, 1.5)) @ BODY_FROM_OPTICAL

CAMERA = Pair("camera", "lidar", "camera-lidar")
THERMAL = Pair("thermal", "camera", "thermal-camera")


def texture(shape: tuple[int, int], seed: int = 0, count: int = 60) -> np.ndarray:
    """An image (H, W) uint8 of overlapping rectangles."""
    rng = np.random.default_rng(seed)
    image = np.full(shape, 128, np.uint8)
    for _ in range(count):
        x, y = rng.integers(0, shape[1]), rng.integers(0, shape[0])
        size = rng.integers(10, 50, 2)
        angle, grey = rng.uniform(0, 180), int(rng.integers(20, 235))
        corners = cv2.boxPoints(((float(x), float(y)), (float(size[0]), float(size[1])), angle))
        cv2.fillPoly(image, [np.rint(corners).astype(np.int32)], grey)
    return cv2.GaussianBlur(image, (0, 0), 0.8)


def street(seed: int = 0, stamp_ns: int = 0) -> SensorFrame:
    """Boards, each with one temperature and one grey value, at 8 to 40 m in front of a wall at 60 m."""
    rng = np.random.default_rng(seed)
    height, width = MODEL.height, MODEL.width
    depth = np.full((height, width), 60.0)
    owner = np.zeros((height, width), np.int64)
    for k, distance in enumerate(np.sort(rng.uniform(8.0, 40.0, 45))[::-1], 1):
        w, h = (int(v) for v in rng.uniform(1.0, 3.0, 2) * 300.0 / distance)
        x, y = rng.integers(-20, width), rng.integers(-20, height)
        part = slice(max(y, 0), max(y + h, 0)), slice(max(x, 0), max(x + w, 0))
        depth[part], owner[part] = distance, k
    greys, temperatures = rng.integers(20, 235, 46), rng.integers(29000, 30500, 46)
    grey = cv2.GaussianBlur(greys[owner].astype(np.uint8), (0, 0), 0.7)
    heat = cv2.GaussianBlur(temperatures[owner].astype(np.float32), (0, 0), 0.7).astype(np.uint16)
    v, u = np.mgrid[0:height:3, 0:width:2]
    rays = MODEL.unproject(np.column_stack([u.ravel(), v.ravel()]))
    local = rays / rays[:, 2:] * depth[v.ravel(), u.ravel(), None]
    points = np.zeros((len(local), 4), np.float32)
    points[:, :3] = poses.transform_points(BODY_FROM_OPTICAL, local)
    points[:, 3] = owner[v.ravel(), u.ravel()] * 37 % 100
    pose = poses.from_xyz_rpy((0.0, 0.0, 1.5))
    return SensorFrame(
        stamp_ns,
        lidars={"lidar": LidarSweep("lidar", stamp_ns, "lidar", points)},
        cameras={"camera": CameraImage("camera", stamp_ns, "", np.dstack([grey] * 3))},
        thermals={"thermal": ThermalImage("thermal", stamp_ns, "", heat)},
        base_from_sensor={"lidar": pose, "camera": POSE, "thermal": POSE},
        intrinsics={"camera": MODEL, "thermal": MODEL},
    )


def wrong(frame: SensorFrame, sensor: str, degrees: tuple[float, float, float]) -> SensorFrame:
    """The frame with wrong extrinsics: the measured rotation is `degrees` about x, y, z."""
    pose = rotated_pose(frame.base_from_sensor[sensor], -np.radians(degrees))
    return replace(frame, base_from_sensor={**frame.base_from_sensor, sensor: pose})
