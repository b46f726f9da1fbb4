"""Fuse a point cloud and an image that are numpy arrays, without ROS and without a dataset.

    python examples/fuse_numpy_arrays.py

The arrays are made up here: flat ground and a car 10 m ahead. Replace `load_arrays` by your own
data. The fusion detector runs on the CPU or on a GPU. Its networks (two for images, first and
second stage) are loaded first, which takes some seconds.
"""

from __future__ import annotations

import numpy as np

from multimodal_perception.frame import CameraImage, LidarSweep, SensorFrame
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.pipeline_builder import PipelineConfig, build_pipeline
from multimodal_perception.sensor_calibration import BODY_FROM_OPTICAL

STAMP_NS = 1_700_000_000_000_000_000  # all readings of this example have the same time
BASE_FROM_LIDAR = poses.from_xyz_rpy((0.0, 0.0, 1.8))  # 1.8 m above the ground
BASE_FROM_CAMERA = poses.from_xyz_rpy((0.3, 0.0, 1.5)) @ BODY_FROM_OPTICAL  # z forward, y down


def load_arrays() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points (N, 4) x y z intensity in the LiDAR frame, pixels (H, W, 3), camera matrix (3, 3)."""
    azimuth = np.radians(np.arange(0, 360, 0.2))
    below = np.radians(np.linspace(2.0, 24.8, 54))  # angles of the beams that hit the ground
    a, b = (v.ravel() for v in np.meshgrid(azimuth, below))
    distance = 1.8 / np.tan(b)
    ground = np.column_stack([distance * np.cos(a), distance * np.sin(a), np.full(a.size, -1.8)])
    shadow = (ground[:, 0] > 7.9) & (np.abs(ground[:, 1]) < 0.114 * ground[:, 0])
    y, z = (v.ravel() for v in np.meshgrid(np.arange(-0.9, 0.9, 0.03), np.arange(-1.7, -0.3, 0.06)))
    rear = np.column_stack([np.full(y.size, 7.9), y, z])
    points = np.vstack([ground[~shadow], rear])
    points = np.column_stack([points, np.full(len(points), 0.3)]).astype(np.float32)
    pixels = np.full((480, 640, 3), 120, np.uint8)
    pixels[260:330, 280:360] = (180, 30, 30)
    matrix = np.array([[500.0, 0.0, 319.5], [0.0, 500.0, 239.5], [0.0, 0.0, 1.0]])
    return points, pixels, matrix


def main() -> None:
    points, pixels, matrix = load_arrays()
    frame = SensorFrame(
        STAMP_NS,
        lidars={"lidar": LidarSweep("lidar", STAMP_NS, "lidar", points)},
        cameras={"camera": CameraImage("camera", STAMP_NS, "camera_optical", pixels, "rgb8")},
        base_from_sensor={"lidar": BASE_FROM_LIDAR, "camera": BASE_FROM_CAMERA},
        intrinsics={"camera": CameraModel(640, 480, matrix)},
    )
    result = build_pipeline(PipelineConfig(detector="fusion")).process(frame)
    boxes, grid = result.boxes, result.occupancy
    for box, score, label in zip(boxes.boxes, boxes.scores, boxes.labels, strict=True):
        print(f"{boxes.class_names[label]} at ({box[0]:.1f}, {box[1]:.1f}) m: {score:.2f}")
    print(f"occupied cells: {(grid.occupied > 0.5).sum()} of {grid.occupied.size}")


if __name__ == "__main__":
    main()
