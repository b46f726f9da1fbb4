"""A small frame with all modalities, and a straight drive of such frames."""

from __future__ import annotations

import numpy as np

from multimodal_perception.evaluation.robustness.corruption import FrameSource
from multimodal_perception.frame import (
    CameraImage,
    LidarSweep,
    SensorFrame,
    ThermalImage,
    UltrasonicReading,
)
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.cameras import CameraModel

PERIOD_NS, SPEED = 100_000_000, 10.0
OPTICAL = poses.from_xyz_rpy((0.5, 0.0, 1.5), (-np.pi / 2, 0.0, -np.pi / 2))
ULTRASONICS = {"left": 1.0, "middle": 2.0, "right": np.inf}


def street_frame(index: int = 20) -> SensorFrame:
    """Frame `index` of a drive at SPEED along x; every frame has other noise."""
    rng = np.random.default_rng(index)
    stamp = index * PERIOD_NS
    azimuth, ring = np.meshgrid(np.linspace(-np.pi, np.pi, 90, endpoint=False), np.arange(16))
    elevation = np.radians(2.0 * ring - 20.0)
    distance = 4.0 + 40.0 * rng.random(azimuth.shape)
    flat = np.cos(elevation) * distance
    points = [flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation) * distance]
    cloud = np.stack([*points, rng.random(azimuth.shape)], -1).reshape(-1, 4).astype(np.float32)
    sweep = LidarSweep("lidar", stamp, "lidar", cloud, rings=ring.ravel().astype(np.uint16))
    v, u = np.mgrid[0:72, 0:96]
    ramp = 40 + 100 * (v / 72) + 60 * ((u // 12 + v // 12) % 2)
    rgb = np.clip(ramp[..., None] + rng.normal(0, 4, (72, 96, 3)), 0, 255).astype(np.uint8)
    counts = (28_800 + 12 * v[:40, :48] + rng.normal(0, 5, (40, 48))).astype(np.uint16)
    thermal = ThermalImage("thermal", stamp, "thermal", counts, (0.01, 0.0))
    sensors = ("lidar", "camera", "thermal", *ULTRASONICS)
    extrinsics = {n: OPTICAL if n in ("camera", "thermal") else np.eye(4) for n in sensors}
    return SensorFrame(
        stamp,
        lidars={"lidar": sweep},
        cameras={"camera": CameraImage("camera", stamp, "camera", rgb)},
        thermals={"thermal": thermal},
        ultrasonics={
            n: UltrasonicReading(n, stamp, n, r + 0.01 * (index - 20), 0.15, 5.0, 1.0)
            for n, r in ULTRASONICS.items()
        },
        base_from_sensor=extrinsics,
        intrinsics={
            "camera": CameraModel.pinhole(96, 72, 60.0),
            "thermal": CameraModel.pinhole(48, 40, 45.0),
        },
        odom_from_base=poses.from_xyz_rpy((SPEED * stamp * 1e-9, 0.0, 0.0)),
        expected=frozenset(sensors),
    )


def street_source(index: int = 20, seed: int = 0, age: int = 0) -> FrameSource:
    """A frame with the frames before it, and a brighter image as its simulation with a patch."""
    frame = street_frame(index)

    def rendered(condition: str) -> SensorFrame:
        size = float(condition.removeprefix("adversarial_patch="))
        brighter = np.clip(frame.cameras["camera"].pixels + 20.0 * size, 0, 255).astype(np.uint8)
        image = CameraImage("camera", frame.stamp_ns, "camera", brighter)
        return SensorFrame(frame.stamp_ns, cameras={"camera": image})

    return FrameSource(frame, lambda k: street_frame(index - k), rendered, seed, age)
