"""Augmentation of training frames: geometry, beams, points and intensities."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.geometry import poses
from multimodal_perception.kernels import njit

# Distances in degrees between the beams that are kept: those of an HDL-32E and a VLP-16, and one between
# them and that of an HDL-64E. A band of BEAM_WIDTH_DEG around each is kept, which contains one beam of
# an HDL-64E.
BEAM_SPACINGS_DEG, BEAM_WIDTH_DEG = (2 / 3, 4 / 3, 2.0), 0.3


@dataclass(frozen=True)
class AugmentationConfig:
    """Random changes of training frames.

    Attributes:
        rotation: Largest rotation of a frame about z, in both directions. Decrease it when objects
            appear in typical directions only.
        mirror: Probability of mirroring a frame, for the x and the y axis each. Set it to 0 for
            left- or right-hand traffic only.
        scale: Largest change of the size of a frame, as a fraction. Decrease it when the dimensions of
            boxes must be accurate.
        z_shift: Largest shift of a frame in height. Increase it when the mounting height of the LiDAR
            is uncertain.
        point_dropout: Fraction of the frames in which up to half of the points are removed. Increase it
            for sparser LiDARs.
        intensity_scale: Largest relative change of all intensities of a frame by a common factor.
            Increase it when the intensities of LiDARs differ.
        intensity_gamma: Largest logarithm of the exponent that all intensities of a frame are raised
            to. Increase it when the intensities of LiDARs have other characteristics.
        object_intensity_scale: Largest relative change of the intensities of an object by a factor of
            its own. Increase it when objects of other colours are missed.
        beam_dropout: Fraction of the frames in which only beams at larger distances from each other are
            kept, to simulate LiDARs with 16 or 32 beams. Increase it to use the detector with such
            LiDARs.
    """

    rotation: float = field(default=0.8, metadata={"min": 0.0, "max": 3.1416, "unit": "rad"})
    mirror: float = field(default=0.5, metadata={"min": 0.0, "max": 1.0})
    scale: float = field(default=0.05, metadata={"min": 0.0, "max": 0.5})
    z_shift: float = field(default=0.12, metadata={"min": 0.0, "max": 1.0, "unit": "m"})
    point_dropout: float = field(default=0.3, metadata={"min": 0.0, "max": 1.0})
    intensity_scale: float = field(default=0.4, metadata={"min": 0.0, "max": 1.0})
    intensity_gamma: float = field(default=0.0, metadata={"min": 0.0, "max": 2.0})
    object_intensity_scale: float = field(default=0.0, metadata={"min": 0.0, "max": 1.0})
    beam_dropout: float = field(default=0.0, metadata={"min": 0.0, "max": 1.0})


def draw_transform(config: AugmentationConfig, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw grid_from_base (4, 4): rotation about z, mirroring, scale and shift along z."""
    transform = poses.from_xyz_rpy(
        (0.0, 0.0, rng.uniform(-config.z_shift, config.z_shift)),
        (0.0, 0.0, rng.uniform(-config.rotation, config.rotation)),
    )
    sides = [-1.0 if rng.random() < config.mirror else 1.0 for _ in range(2)]
    size = 1.0 + rng.uniform(-config.scale, config.scale)
    return transform @ np.diag([sides[0] * size, sides[1] * size, size, 1.0])


def transform_point_cloud(
    points: NDArray[np.float32], grid_from_base: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Transform points (N, 4); intensities are kept."""
    moved = points.copy()
    moved[:, :3] = poses.transform_points(grid_from_base, points[:, :3])
    return moved


def transform_boxes(
    boxes: NDArray[np.float32], grid_from_base: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Transform boxes (K, 7) by a rotation about z, mirroring and a uniform scale."""
    moved = boxes.copy()
    moved[:, :3] = poses.transform_points(grid_from_base, boxes[:, :3])
    heading = np.column_stack([np.cos(boxes[:, 6]), np.sin(boxes[:, 6])])
    heading = heading @ grid_from_base[:2, :2].T
    moved[:, 3:6] *= abs(np.linalg.det(grid_from_base[:3, :3])) ** (1 / 3)
    moved[:, 6] = np.arctan2(heading[:, 1], heading[:, 0])
    return moved


def transform_ultrasonics(
    rows: NDArray[np.float32], grid_from_base: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Transform ultrasonic readings (U, 8, see samples); ranges are scaled as well."""
    moved = rows.copy()
    if not len(rows):
        return moved
    as_boxes = np.ones((len(rows), 7), np.float32)
    as_boxes[:, :3], as_boxes[:, 6] = rows[:, :3], rows[:, 3]
    as_boxes = transform_boxes(as_boxes, grid_from_base)
    moved[:, :3], moved[:, 3] = as_boxes[:, :3], as_boxes[:, 6]
    moved[:, 4:7] *= as_boxes[0, 3]
    return moved


def drop_beams(
    points: NDArray[np.float32],
    lidar: NDArray[np.float32],
    config: AugmentationConfig,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """Points (N, 4) of a LiDAR at position (3,); in some frames only every few beams are kept."""
    if rng.random() >= config.beam_dropout:
        return points
    spacing = rng.choice(BEAM_SPACINGS_DEG)
    direction = points[:, :3] - lidar
    elevation = np.degrees(np.arctan2(direction[:, 2], np.hypot(direction[:, 0], direction[:, 1])))
    return points[(elevation + rng.uniform(0, spacing)) % spacing < BEAM_WIDTH_DEG]


def perturb_points(
    points: NDArray[np.float32], config: AugmentationConfig, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Points (N, 4) with other intensities; in some frames points are removed at random."""
    if rng.random() < config.point_dropout:
        points = points[rng.random(len(points)) < rng.uniform(0.5, 1.0)]
    points = points.copy()
    gain = 1.0 + rng.uniform(-config.intensity_scale, config.intensity_scale)
    gamma = config.intensity_gamma
    power = np.exp(rng.uniform(-gamma, gamma)) if gamma else 1.0
    points[:, 3] = np.clip(points[:, 3] ** np.float32(power) * np.float32(gain), 0.0, 1.0)
    return points


def scale_object_intensities(
    points: NDArray[np.float32],
    boxes: NDArray[np.float32],
    config: AugmentationConfig,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """Points (N, 4), whose intensities in each of the boxes (K, 7) are scaled by a random factor."""
    largest = config.object_intensity_scale
    if not largest or not len(boxes):
        return points
    points = points.copy()
    gains = (1.0 + rng.uniform(-largest, largest, len(boxes))).astype(np.float32)
    _scale_intensities(points, boxes.astype(np.float32), gains)
    return points


@njit()
def _scale_intensities(points, boxes, gains):  # type: ignore[no-untyped-def]
    for k in range(len(boxes)):
        b = boxes[k]
        c, s = np.cos(b[6]), np.sin(b[6])
        radius = 0.5 * np.sqrt(b[3] ** 2 + b[4] ** 2)
        for i in range(len(points)):
            x, y = points[i, 0] - b[0], points[i, 1] - b[1]
            if abs(x) > radius or abs(y) > radius or abs(points[i, 2] - b[2]) > b[5] / 2:
                continue
            if abs(c * x + s * y) < b[3] / 2 and abs(c * y - s * x) < b[4] / 2:
                points[i, 3] = min(points[i, 3] * gains[k], np.float32(1.0))
