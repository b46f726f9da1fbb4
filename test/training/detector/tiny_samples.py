"""Small frames, samples and configurations for the tests of the detector's training."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from multimodal_perception.frame import (
    Boxes3D,
    CameraImage,
    LidarSweep,
    SensorFrame,
    ThermalImage,
)
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.sensor_calibration import BODY_FROM_OPTICAL
from multimodal_perception.training.bev_fusion.sample_files import write_sample
from multimodal_perception.training.detector.samples import build_sample
from multimodal_perception.training.detector.train import (
    DetectorTraining,
)
from multimodal_perception.training.loop import LoopConfig
from test.networks.detectors import SMALL


def frame_of(seed: int) -> SensorFrame:
    """A frame with a car of random points in front of the vehicle, a camera and a thermal camera."""
    rng = np.random.default_rng(seed)
    box = np.array([rng.uniform(4, 9), rng.uniform(-3, 3), 0.8, 4.2, 1.8, 1.6, 0.3], np.float32)
    car = rng.uniform(-0.5, 0.5, (300, 3)) * box[3:6]
    car = car @ poses.from_xyz_rpy((0, 0, 0), (0, 0, 0.3))[:3, :3].T + box[:3]
    ground = np.column_stack([rng.uniform(-12, 12, (600, 2)), rng.normal(0, 0.02, 600)])
    points = np.column_stack([np.concatenate([car, ground]), rng.random(900)]).astype(np.float32)
    pose = poses.from_xyz_rpy((0, 0, 1.5)) @ BODY_FROM_OPTICAL
    labels = Boxes3D(0, "base_link", box[None], np.ones(1, np.float32), np.ones(1, np.int64))
    return SensorFrame(
        0,
        lidars={"lidar": LidarSweep("lidar", 0, "lidar", points)},
        cameras={
            "front": CameraImage("front", 0, "f", rng.integers(0, 255, (60, 100, 3), np.uint8))
        },
        thermals={"heat": ThermalImage("heat", 0, "h", rng.integers(0, 9999, (64, 80), np.uint16))},
        base_from_sensor={"lidar": np.eye(4), "front": pose, "heat": pose},
        intrinsics={
            "front": CameraModel.pinhole(100, 60, 60.0),
            "heat": CameraModel.pinhole(80, 64, 60.0),
        },
        labels=labels,
    )


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with six samples."""
    folder = tmp_path_factory.mktemp("samples")
    for k in range(6):
        small = build_sample(frame_of(k), {"k": k})
        for key, (h, w) in (("camera0", SMALL.camera_size), ("thermal0", SMALL.thermal_size)):
            # Samples have the image size of the shipped network: crop them to that of the small one.
            small[f"{key}.pixels"] = np.ascontiguousarray(small[f"{key}.pixels"][:h, :w])
            small[f"{key}.semantics"] = small[f"{key}.semantics"][: h // 8, : w // 8]
        write_sample(folder / f"{k}.npz", small)
    return folder


def configured(stage: str, steps: int) -> DetectorTraining:
    """A configuration of a stage with a small network; `lidar` is the stage proposals without images."""
    loop = LoopConfig(steps=steps, batch_size=2, workers=0, save_every=2, precision="fp32")
    if stage == "lidar":
        lidar_only = dataclasses.replace(SMALL, global_fusion=False)
        return DetectorTraining("proposals", lidar_only, loop=loop)
    return DetectorTraining(stage, SMALL, loop=loop)  # type: ignore[arg-type]
