"""Frames of a rig with pinhole, fisheye and thermal cameras, a LiDAR and an ultrasonic sensor."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.frame import (
    CameraImage,
    LidarSweep,
    SensorFrame,
    ThermalImage,
    UltrasonicReading,
)
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.perception import SegmentationMask
from multimodal_perception.stages import ImageResults
from test.detection.bev_fusion.small_images import FISHEYE, camera_pose

STEP_NS = 100_000_000
# Yaw of each camera. The size of the images is neither that nor the shape of the network's input.
YAWS = {"front": 0.0, "left": 1.6, "rear": 3.1}
SIZE = (160, 120)


def street_points(seed: int = 0, offset: float = 0.0) -> NDArray[np.float32]:
    """Flat ground and three blocks in base_link; the first block is moved by offset along x."""
    rng = np.random.default_rng(seed)
    ground = rng.uniform(-12, 12, (1500, 4)) * (1, 1, 0, 1) + (0, 0, 0.01, 0)
    blocks = [
        rng.uniform(-0.8, 0.8, (150, 4)) + np.array((x, y, 0.9, 1.0))
        for x, y in ((6.0 + offset, 0.5), (-5.0, 3.0), (3.0, -6.0))
    ]
    points = np.concatenate([ground, *blocks])
    points[:, 3] = np.abs(points[:, 3]) * 10
    return points.astype(np.float32)


def rig_frame(step: int = 0, speed: float = 0.0) -> SensorFrame:
    """The frame at step * STEP_NS, with odometry at a speed in m/s."""
    rng = np.random.default_rng(100 + step)
    stamp_ns = step * STEP_NS
    width, height = SIZE
    pinhole = CameraModel.pinhole(width, height, 80.0)
    fisheye = CameraModel(
        width, height, CameraModel.pinhole(width, height, 50).matrix, "equidistant", FISHEYE
    )  # type: ignore[arg-type]
    base_from_sensor = {name: camera_pose(yaw) for name, yaw in YAWS.items()}
    base_from_sensor |= {"thermal": camera_pose(0.1), "lidar": poses.from_xyz_rpy((0, 0, 1.7))}
    base_from_sensor["ultrasonic"] = poses.from_xyz_rpy((2.0, 0.0, 0.5))
    points = street_points(offset=0.5 * step)
    points[:, 2] -= 1.7
    images = {
        name: CameraImage(name, stamp_ns, name, _smooth(rng, (height, width, 3))) for name in YAWS
    }
    return SensorFrame(
        stamp_ns,
        lidars={"lidar": LidarSweep("lidar", stamp_ns, "lidar", points)},
        cameras=images,
        thermals={"thermal": ThermalImage("thermal", stamp_ns, "", _smooth(rng, (height, width)))},
        ultrasonics={"ultrasonic": UltrasonicReading("ultrasonic", stamp_ns, "", 3.0, 0.2, 5.0, 1.0)},
        base_from_sensor=base_from_sensor,
        intrinsics={
            "front": pinhole, "left": pinhole, "rear": fisheye, "thermal": pinhole,
        },
        odom_from_base=poses.from_xyz_rpy((speed * step * 0.1, 0.0, 0.0)),
        expected=frozenset(base_from_sensor),
    )  # fmt: skip


def only(frame: SensorFrame, *names: str) -> SensorFrame:
    """The frame with the readings of some sensors."""
    return dataclasses.replace(
        frame,
        **{
            group: {n: r for n, r in getattr(frame, group).items() if n in names}
            for group in ("lidars", "cameras", "thermals", "ultrasonics")
        },
    )


def masks(*names: str, label: int = 1) -> ImageResults:
    """Masks in which every pixel has one class of road and car."""
    labels = np.full(SIZE[::-1], label, np.uint8)
    return ImageResults(
        segmentations={n: SegmentationMask(n, 0, labels, ("road", "car")) for n in names}
    )


def _smooth(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    coarse = rng.integers(0, 255, (shape[0] // 20, shape[1] // 20, *shape[2:]))
    return np.asarray(np.kron(coarse, np.ones((20, 20, *[1] * (len(shape) - 2)))), np.uint8)
