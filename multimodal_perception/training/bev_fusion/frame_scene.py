"""Conversion of a sample to a training frame: heights above ground, pasted objects, changed points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.detection.bev_fusion.network_config import CLASSES
from multimodal_perception.detection.bev_fusion.sweep_pillars import PastSweep
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.boxes import count_points_in_boxes
from multimodal_perception.pointcloud.ground_segmentation import GroundModel, estimate_ground
from multimodal_perception.training.bev_fusion.augmentation import (
    AugmentationConfig,
    drop_beams,
    perturb_points,
    scale_object_intensities,
)
from multimodal_perception.training.bev_fusion.object_sampling import ObjectSampling
from multimodal_perception.training.bev_fusion.pasted_motion import (
    add_past_points,
    draw_velocities,
)
from multimodal_perception.training.bev_fusion.sample_files import (
    POINT_STEP,
    Arrays,
    lidar_position,
    sample_points,
)
from multimodal_perception.training.bev_fusion.samples import class_indices

# Class of the detector for each index into frame.CLASS_NAMES, -1 for classes that it does not have.
DETECTOR_LABELS = class_indices(CLASSES)
# Errors of the odometry between two sweeps in training: standard deviations in metres and radians.
ODOMETRY_SHIFT, ODOMETRY_ROTATION = 0.01, 0.001
# Beams are not dropped where a smaller fraction of the points would remain: all beams of a LiDAR of 16
# or 32 beams may lie between those that are kept.
MIN_KEPT_FRACTION = 0.08


@dataclass
class FrameScene:
    """The points and objects of a frame in base_link, with heights above the ground.

    sample: arrays of the sample. points: (N, 4). past: past sweeps. boxes (K, 7), labels (K,) indices
    into CLASSES or -1, velocities (K, 2), num_points (K,): of the objects. ground: surface below; None
    without LiDAR, where heights are those in base_link. pasted: number of pasted objects, which are the
    last ones. masked_boxes: see ImageSet.
    """

    sample: Arrays
    points: NDArray[np.float32]
    past: list[PastSweep]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    velocities: NDArray[np.float32]
    num_points: NDArray[np.int64]
    ground: GroundModel | None
    pasted: int = 0
    masked_boxes: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 7), np.float32))


def open_scene(sample: Arrays, past: Sequence[PastSweep], lidar: bool) -> FrameScene:
    """The scene of an unchanged sample. lidar: whether it has points."""
    boxes, ground = sample["boxes"], None
    points = np.zeros((0, 4), np.float32)
    if lidar:
        points = sample_points(sample)
        ground, height = estimate_ground(points)
        points[:, 2] = height
        boxes = boxes.copy()
        boxes[:, 2] -= ground.at(boxes[:, 0], boxes[:, 1])
    return FrameScene(
        sample,
        points,
        list(past) if lidar else [],
        boxes,
        DETECTOR_LABELS[sample["labels"]],
        sample["velocities"],
        sample["num_points"].astype(np.int64),
        ground,
    )


def paste_objects(
    scene: FrameScene, sampling: ObjectSampling, masked: bool, rng: np.random.Generator
) -> None:
    """Paste objects into a scene with LiDAR. masked: whether they are masked in the images."""
    limits = np.iinfo(np.int16)
    height = np.clip(np.rint(scene.points[:, 2] / POINT_STEP), limits.min, limits.max)
    flat = dict(scene.sample)
    flat["points"] = flat["points"].copy()
    flat["points"][:, 2] = height
    flat["boxes"] = scene.boxes
    pasted = sampling.paste(flat, rng)
    names = [CLASSES[k] for k in pasted.labels]
    velocities = draw_velocities(pasted.boxes, names, rng)
    scene.past = add_past_points(scene.past, pasted.points, pasted.boxes, velocities)
    scene.points, scene.pasted = pasted.points, len(pasted.boxes)
    counts = count_points_in_boxes(pasted.points, pasted.boxes, 0.1)
    scene.num_points = np.concatenate([scene.num_points - pasted.occluded_points, counts])
    scene.boxes = np.concatenate([scene.boxes, pasted.boxes])
    scene.labels = np.concatenate([scene.labels, pasted.labels])
    scene.velocities = np.concatenate([scene.velocities, velocities])
    if masked:
        scene.masked_boxes = pasted.masked_boxes


def augment_points(scene: FrameScene, config: AugmentationConfig, rng: np.random.Generator) -> None:
    """Fewer beams, fewer points and other intensities; errors of the odometry."""
    count, beam_seed = len(scene.points), rng.integers(1 << 62)
    position = lidar_position(scene.sample)

    def thin(points: NDArray[np.float32]) -> NDArray[np.float32]:
        # The same beams are dropped in all sweeps.
        return drop_beams(points, position, config, np.random.default_rng(beam_seed))

    points, past = thin(scene.points), [thin(s.points) for s in scene.past]
    if len(points) < MIN_KEPT_FRACTION * count:
        points, past = scene.points, [s.points for s in scene.past]
    scene.past = [
        PastSweep(perturb_alignment(moved, k + 1, rng), s.age_s)
        for k, (s, moved) in enumerate(zip(scene.past, past, strict=True))
    ]
    if len(points) < count:
        scene.num_points = count_points_in_boxes(points, scene.boxes, 0.1)
    points = perturb_points(points, config, rng)
    scene.points = scale_object_intensities(points, scene.boxes, config, rng)


def perturb_alignment(
    points: NDArray[np.float32], steps: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Points (N, 3) of a past sweep with an error of the odometry over `steps` sweeps."""
    x, y, yaw = rng.normal(0.0, (ODOMETRY_SHIFT, ODOMETRY_SHIFT, ODOMETRY_ROTATION)) * steps
    return move_points(points, poses.from_xyz_rpy((x, y, 0.0), (0.0, 0.0, yaw)))


def move_points(points: NDArray[np.float32], transform: NDArray[np.float64]) -> NDArray[np.float32]:
    """Points (N, 3) transformed by a matrix (4, 4), in float32."""
    rotation, shift = transform[:3, :3].astype(np.float32), transform[:3, 3].astype(np.float32)
    return points @ rotation.T + shift
