"""Features of boxes from a single sensor or modality, for opinions that do not depend on other sensors.

The boxes come from all sensors, but neither their scores nor the features of the detector's
bird's-eye view, which contain all modalities, are used. A source that cannot observe a box has no
features, so that its opinion is vacuous.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.detection.bev_fusion.image_bev import FrameImage, ImageSet, sample_images
from multimodal_perception.detection.bev_fusion.lidar_beams import BEHIND, INSIDE, count_beams
from multimodal_perception.detection.bev_fusion.network_config import (
    IMAGE_MODALITIES,
    PAINT_CHANNELS,
    BevFusionNetworkConfig,
)
from multimodal_perception.detection.bev_fusion.proposals import shift_heights
from multimodal_perception.detection.bev_fusion.roi_features import (
    EXTENT_FEATURES,
    GRID,
    PROFILE_FEATURES,
    PointIndex,
    compute_roi_features,
)
from multimodal_perception.frame import SensorFrame
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.stamps import NANOSECONDS_PER_SECOND
from multimodal_perception.pointcloud.ground_segmentation import Cloud

# Distance, log length, log width, log height, sine and cosine of the viewing angle.
CONTEXT_FEATURES = 6
LIDAR_FEATURES = GRID**3 + EXTENT_FEATURES + PROFILE_FEATURES + 3 + CONTEXT_FEATURES
# Number of images of each image modality that have an opinion about a box: those that show most of it.
MAX_VIEWS = 2
# Ultrasonic sensors of a box, and the features of each: residual, echo, coverage, age.
ULTRASONIC_SENSORS, ULTRASONIC_SENSOR_FEATURES = 3, 4
ULTRASONIC_FEATURES = ULTRASONIC_SENSORS * ULTRASONIC_SENSOR_FEATURES + CONTEXT_FEATURES
# A slot is the place of one opinion about a box in the network's output: one slot for all LiDARs, one
# for each view of a camera or thermal camera (the view that shows most of the box first), and one for
# all ultrasonic sensors.
SLOTS = ("lidar", *("camera",) * MAX_VIEWS, *("thermal",) * MAX_VIEWS, "ultrasonic")
FIRST_SLOT = {name: SLOTS.index(name) for name in dict.fromkeys(SLOTS)}
# An image has an opinion if at least this fraction of the points of a box is within it.
MIN_VISIBLE = 0.3
# Positions of the sampled points of a box along each axis, as fractions of its size.
SAMPLE_POSITIONS = (-1 / 3, 0.0, 1 / 3)
DISTANCE_SCALE, ULTRASONIC_SCALE, AGE_SCALE_S = 50.0, 0.3, 0.1
# Residuals of echoes are limited to this multiple of ULTRASONIC_SCALE.
MAX_RESIDUAL = 10.0
# Points along each side of a box's outline at which its distance from ultrasonic sensors is measured.
OUTLINE_POINTS = 8


@dataclass(frozen=True)
class OpinionNetworkConfig:
    """Architecture of the network of the sensors' opinions.

    Attributes:
        image_channels: Number of channels of the image networks' features. Set it to the value of the
            detector whose features are used.
        hidden: Number of units of each of the two hidden layers of a modality. Increase it when you
            train with more drives.
        dropout: Probability with which hidden units are dropped in training. Increase it when the
            validation figures are worse than those of the training.
        max_evidence: Largest evidence of a class. Decrease it when opinions are too certain.
    """

    image_channels: int = field(default=32, metadata={"min": 1, "max": 512})
    hidden: int = field(default=48, metadata={"min": 4, "max": 512})
    dropout: float = field(default=0.1, metadata={"min": 0.0, "max": 0.9})
    max_evidence: float = field(default=100.0, metadata={"min": 1.0, "max": 1e6})

    @property
    def image_features(self) -> int:
        """Features of one view: mean and maximum of the samples, visible fraction, size, context."""
        return 2 * (self.image_channels + PAINT_CHANNELS + 1) + 2 + CONTEXT_FEATURES


def opinion_inputs(config: OpinionNetworkConfig, boxes: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the network's inputs by name, which are modalities, for a number of boxes."""
    return {
        "lidar": (1, boxes, 1, LIDAR_FEATURES),
        "camera": (1, boxes, MAX_VIEWS, config.image_features),
        "thermal": (1, boxes, MAX_VIEWS, config.image_features),
        "ultrasonic": (1, boxes, 1, ULTRASONIC_FEATURES),
    }


@dataclass(frozen=True)
class Scene:
    """Inputs of the computation of a frame's features.

    index: points with heights above the ground. images: by sensor, with their features and painting.
    """

    frame: SensorFrame
    cloud: Cloud
    index: PointIndex
    images: Mapping[str, FrameImage]


@dataclass(frozen=True)
class OpinionFeatures:
    """Features of N boxes.

    values: inputs of the network by modality, (N, slots of the modality, features) float32. sources: (N,
    len(SLOTS)) int64, index into `names` of the source of each slot; -1 without one, whose features are
    zeros. names: of the sources; a modality, or a camera or thermal camera.
    """

    values: Mapping[str, NDArray[np.float32]]
    sources: NDArray[np.int64]
    names: tuple[str, ...]


def compute_features(
    boxes: NDArray[np.float32], scene: Scene, config: BevFusionNetworkConfig
) -> OpinionFeatures:
    """Features of boxes (N, 7) in base_link. config: of the detector, whose images are in the scene."""
    above_ground = shift_heights(boxes, scene.cloud.ground, -1.0)
    context = _context(boxes)
    names = ("lidar", "ultrasonic", *scene.images)
    sources = np.full((len(boxes), len(SLOTS)), -1, np.int64)
    values: dict[str, NDArray[np.float32]] = {}
    lidar, observed = _lidar_features(boxes, above_ground, scene)
    values["lidar"] = _join(lidar, context)
    sources[observed, FIRST_SLOT["lidar"]] = 0
    echoes, observed = _ultrasonic_features(boxes, scene.frame)
    values["ultrasonic"] = _join(echoes, context)
    sources[observed, FIRST_SLOT["ultrasonic"]] = 1
    for modality in IMAGE_MODALITIES:
        own = [k for k, name in enumerate(scene.images) if scene.images[name].modality == modality]
        first = FIRST_SLOT[modality]
        values[modality], chosen = _best_views(
            [
                _view_features(above_ground, list(scene.images.values())[k], scene, config)
                for k in own
            ],
            np.array(own, np.int64) + 2,
            context,
            2 * (config.channels + PAINT_CHANNELS + 1) + 2,
        )
        sources[:, first : first + MAX_VIEWS] = chosen
    for modality, first in FIRST_SLOT.items():
        count = values[modality].shape[1]
        values[modality] = np.where(
            (sources[:, first : first + count] >= 0)[..., None], values[modality], np.float32(0.0)
        )
    return OpinionFeatures(values, sources, names)


def _join(features: NDArray[np.float32], context: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.concatenate([features, context], axis=1)[:, None]


def _context(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Context features (N, CONTEXT_FEATURES) of boxes."""
    angle = boxes[:, 6] - np.arctan2(boxes[:, 1], boxes[:, 0])
    sizes = np.log(np.maximum(boxes[:, 3:6], 0.05))
    distance = np.hypot(boxes[:, 0], boxes[:, 1]) / DISTANCE_SCALE
    return np.column_stack([distance, sizes, np.sin(angle), np.cos(angle)]).astype(np.float32)


def _lidar_features(
    boxes: NDArray[np.float32], above_ground: NDArray[np.float32], scene: Scene
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """LiDAR features without context, and which boxes a LiDAR observes (N,).

    A box without returns is also observed if beams pass through it, because this is evidence that there
    is no object. A box is not observed if all beams towards it end in front of it.
    """
    grid, _, extents, profile = compute_roi_features(above_ground, scene.index)
    beams = count_beams(boxes, scene.cloud)
    in_range = np.hypot(boxes[:, 0], boxes[:, 1]) <= scene.index.half_extent
    has_returns = (grid[..., 3] > 0.0).any(axis=1)
    observed = has_returns | (beams[:, INSIDE] + beams[:, BEHIND] > 0)
    features = np.concatenate([grid[..., 3], extents, profile, np.log10(beams + 0.5)], axis=1)
    return features.astype(np.float32), observed & in_range & bool(scene.frame.lidars)


def _view_features(
    above_ground: NDArray[np.float32],
    image: FrameImage,
    scene: Scene,
    config: BevFusionNetworkConfig,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Features of boxes in one image without context, and the visible fraction (N,) of each box."""
    painted, with_paint = _with_painting(image, config)
    points = _sample_points(above_ground)
    images = ImageSet([painted], scene.cloud.ground)
    sampled = sample_images(points.reshape(-1, 3), images, with_paint)
    channels = with_paint.sample_channels
    first = IMAGE_MODALITIES.index(image.modality) * channels
    values = sampled[:, first : first + channels].reshape(*points.shape[:2], channels)
    shown = values[..., -1] > 0
    visible = shown.mean(axis=1).astype(np.float32)
    mean = values[..., :-1].sum(axis=1) / np.maximum(shown.sum(axis=1), 1)[:, None]
    largest = np.where(shown[..., None], values[..., :-1], -np.inf).max(axis=1)
    largest[visible == 0] = 0.0
    centre = above_ground[:, :3].copy()
    centre[:, 2] += scene.cloud.ground.at(centre[:, 0], centre[:, 1])
    distance = np.linalg.norm(centre - image.view.base_from_optical[:3, 3], axis=1)
    pixels = image.view.model.matrix[1, 1] * above_ground[:, 5] / np.maximum(distance, 0.1)
    features = np.column_stack([mean, largest, visible, np.log(np.maximum(pixels, 0.1))])
    return features.astype(np.float32), visible


def _with_painting(
    image: FrameImage, config: BevFusionNetworkConfig
) -> tuple[FrameImage, BevFusionNetworkConfig]:
    """The image with its painting as further channels of the features; zeros without painting."""
    rows, columns, _ = image.features.shape
    paint = np.zeros((rows, columns, PAINT_CHANNELS), np.float32)
    if image.paint is not None:
        paint[:] = np.repeat(np.repeat(image.paint, 2, axis=0), 2, axis=1)[:rows, :columns]
    features = np.concatenate([image.features, paint], axis=2)
    wider = replace(config, channels=config.channels + PAINT_CHANNELS)
    return replace(image, features=features, paint=None), wider


def _sample_points(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Points (N, 27, 3) in boxes, in their frame."""
    grid = np.stack(np.meshgrid(*[SAMPLE_POSITIONS] * 3, indexing="ij"), -1).reshape(-1, 3)
    local = grid[None] * boxes[:, None, 3:6]
    c, s = np.cos(boxes[:, 6])[:, None], np.sin(boxes[:, 6])[:, None]
    x = c * local[..., 0] - s * local[..., 1]
    y = s * local[..., 0] + c * local[..., 1]
    return (np.stack([x, y, local[..., 2]], -1) + boxes[:, None, :3]).astype(np.float32)


def _best_views(
    views: list[tuple[NDArray[np.float32], NDArray[np.float32]]],
    numbers: NDArray[np.int64],
    context: NDArray[np.float32],
    width: int,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Features (N, MAX_VIEWS, F) of the views that show most of each box, and their sources.

    views: features and visible fraction of each image. numbers: source of each image. width: number of
    features of a view without context.
    """
    count = len(context)
    result = np.zeros((count, MAX_VIEWS, width), np.float32)
    chosen = np.full((count, MAX_VIEWS), -1, np.int64)
    if views and count:
        features = np.stack([f for f, _ in views], 1)
        visible = np.stack([v for _, v in views], 1)
        # Among views that show the same fraction, the one in which the box is larger.
        rank = visible + 1e-3 * np.tanh(features[..., -1] / 10.0)
        order = np.argsort(-rank, axis=1, kind="stable")[:, :MAX_VIEWS]
        slots = order.shape[1]
        result[:, :slots] = np.take_along_axis(features, order[..., None], axis=1)
        usable = np.take_along_axis(visible, order, axis=1) >= MIN_VISIBLE
        chosen[:, :slots] = np.where(usable, numbers[order], -1)
    repeated = np.repeat(context[:, None], MAX_VIEWS, axis=1)
    return np.concatenate([result, repeated], axis=2), chosen


def _ultrasonic_features(
    boxes: NDArray[np.float32], frame: SensorFrame
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Echoes of the sensors whose cones contain most of each box, and which boxes have one (N,)."""
    rows = np.zeros((len(boxes), ULTRASONIC_SENSORS, ULTRASONIC_SENSOR_FEATURES), np.float32)
    coverage = np.zeros((len(boxes), ULTRASONIC_SENSORS))
    outline = _outlines(boxes)
    for name, reading in frame.ultrasonics.items():
        if name not in frame.base_from_sensor or not np.isfinite(reading.max_range):
            continue
        if np.isnan(reading.range_m):
            continue
        sensor_from_base = poses.inverse(frame.reference_from_sensor(name))
        local = np.asarray(poses.transform_points(sensor_from_base, outline.reshape(-1, 3)))
        local = local.reshape(*outline.shape[:2], 3)
        distance = np.hypot(local[..., 0], local[..., 1])
        within = np.abs(np.arctan2(local[..., 1], local[..., 0])) <= reading.field_of_view / 2
        within &= distance <= reading.max_range
        share = within.mean(axis=1)
        nearest = np.where(within, distance, np.inf).min(axis=1)
        measured = float(np.clip(reading.range_m, reading.min_range, reading.max_range))
        has_echo = reading.range_m < reading.max_range
        residual = (measured - np.where(share > 0, nearest, measured)) / ULTRASONIC_SCALE
        age_s = (frame.stamp_ns - reading.stamp_ns) / NANOSECONDS_PER_SECOND
        row = np.column_stack(
            [
                np.clip(residual, -MAX_RESIDUAL, MAX_RESIDUAL),
                np.full(len(boxes), has_echo),
                share,
                np.full(len(boxes), np.clip(age_s / AGE_SCALE_S, 0.0, 10.0)),
            ]
        ).astype(np.float32)
        weakest = coverage.argmin(axis=1)
        better = np.flatnonzero(share > coverage[np.arange(len(boxes)), weakest])
        rows[better, weakest[better]] = row[better]
        coverage[better, weakest[better]] = share[better]
    order = np.argsort(-coverage, axis=1, kind="stable")
    rows = np.take_along_axis(rows, order[..., None], axis=1)
    flat = rows.reshape(len(boxes), ULTRASONIC_SENSORS * ULTRASONIC_SENSOR_FEATURES)
    return flat, coverage.max(axis=1) > 0


def _outlines(boxes: NDArray[np.float32]) -> NDArray[np.float64]:
    """Points (N, 4 * OUTLINE_POINTS, 3) of the outlines of boxes at the height of their centres."""
    steps = (np.arange(OUTLINE_POINTS) + 0.5) / OUTLINE_POINTS - 0.5
    half = np.full(OUTLINE_POINTS, 0.5)
    x = np.concatenate([steps, steps, half, -half])
    y = np.concatenate([half, -half, steps, steps])
    c, s = np.cos(boxes[:, 6])[:, None], np.sin(boxes[:, 6])[:, None]
    along, across = x * boxes[:, 3:4], y * boxes[:, 4:5]
    points = np.stack(
        [c * along - s * across, s * along + c * across, np.zeros_like(along)], axis=-1
    )
    return np.asarray(points + boxes[:, None, :3], np.float64)
