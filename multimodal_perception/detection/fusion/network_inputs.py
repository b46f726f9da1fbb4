"""Input tensors of the fusion detector for one frame; used for training and on the vehicle.

Tensor names (see also networks.fusion_detector): `<modality>_uv` are normalised coordinates in the
stacked feature map `<modality>_feature_map`; `<modality>_valid` is 1 where an image contains the
point; `<modality>_rays` are BEV positions along the image rays. The modality is camera or thermal. Names
with the prefix `roi_` belong to the refinement network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.configuration import UserError
from multimodal_perception.detection.bev_fusion.image_view import ImageView
from multimodal_perception.detection.bev_fusion.pillars import (
    HEIGHT_BIN,
    HEIGHT_BINS,
    MIN_HEIGHT,
    PILLAR_CHANNELS,
    RANGE_CHANNEL,
    PillarConfig,
    Pillars,
    build_pillars,
)
from multimodal_perception.detection.bev_fusion.roi_features import (
    EXTENT_FEATURES,
    GRID,
    MIN_SIZE,
    PointIndex,
    compute_roi_features,
)
from multimodal_perception.detection.bev_fusion.ultrasonic_channels import (
    rasterise_ultrasonic_ranges,
)
from multimodal_perception.detection.fusion.image_projection import (
    project_rays_to_bev,
    project_to_feature_map,
)
from multimodal_perception.frame import SensorFrame
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.boxes import points_in_box
from multimodal_perception.images.resize import fit_image, fitted_model
from multimodal_perception.images.thermal_normalization import ThermalNormaliser
from multimodal_perception.pointcloud.ground_segmentation import GroundModel
from multimodal_perception.runtime.card import ModelCard

Arrays = dict[str, NDArray]
# Without LiDAR points, pillars are placed in all cells up to this distance, at the height of a car's
# bonnet, and get their features from the images only. Metres.
WITHOUT_LIDAR_RANGE, WITHOUT_LIDAR_HEIGHT = 40.0, 0.8
# Image pixels per feature map cell.
FEATURE_STRIDE = 4
# Heights above the ground that pillars cover, metres.
PILLAR_HEIGHTS = (MIN_HEIGHT, MIN_HEIGHT + HEIGHT_BIN * HEIGHT_BINS)


@dataclass(frozen=True)
class ImageViews:
    """Geometry of all images of one frame.

    cameras, thermals: one entry per image of the stacked feature map, None for a missing image.
    camera_size, thermal_size: height and width of the scaled images. masked_boxes: (H, 7) boxes within
    which points are marked invalid: objects that training pasted into the point cloud are not in the
    images. ground: surface that the heights of points and boxes are measured from; None for z = 0.
    """

    cameras: Sequence[ImageView | None]
    thermals: Sequence[ImageView | None]
    camera_size: tuple[int, int]
    thermal_size: tuple[int, int]
    masked_boxes: NDArray[np.float32] | None = None
    ground: GroundModel | None = None

    @property
    def count(self) -> int:
        """Number of images that are not missing."""
        return sum(v is not None for v in (*self.cameras, *self.thermals))

    def project(self, points: NDArray[np.floating], prefix: str = "") -> Arrays:
        """Coordinates and visibility of points in both stacked feature maps, by tensor name.

        points: (N, 3), x, y and height above the ground, in base_link.
        """
        in_base = points
        if self.ground is not None:
            in_base = points.copy()
            in_base[:, 2] += self.ground.at(points[:, 0], points[:, 1])
        camera_uv, camera_valid = project_to_feature_map(in_base, self.cameras, self.camera_size)
        thermal_uv, thermal_valid = project_to_feature_map(
            in_base, self.thermals, self.thermal_size
        )
        for box in () if self.masked_boxes is None else self.masked_boxes:
            rows = points_in_box(points, box)
            camera_valid[rows], thermal_valid[rows] = 0.0, 0.0
        return {
            f"{prefix}camera_uv": camera_uv,
            f"{prefix}camera_valid": camera_valid,
            f"{prefix}thermal_uv": thermal_uv,
            f"{prefix}thermal_valid": thermal_valid,
        }

    def project_rays(
        self, half_extent: float, base_from_grid: NDArray[np.float64] | None = None
    ) -> Arrays:
        """BEV positions along the rays of all cells of both feature maps, by tensor name."""
        grid_from_base = None
        if base_from_grid is not None:
            grid_from_base = np.linalg.inv(base_from_grid).astype(np.float64)
        return {
            f"{modality}_rays": project_rays_to_bev(
                views,
                size,
                FEATURE_STRIDE,
                half_extent,
                PILLAR_HEIGHTS,
                grid_from_base,
                self.ground,
            )
            for modality, views, size in (
                ("camera", self.cameras, self.camera_size),
                ("thermal", self.thermals, self.thermal_size),
            )
        }


def proposal_inputs(
    points: NDArray[np.float32],
    views: ImageViews,
    ultrasonics: NDArray[np.float32],
    config: PillarConfig,
    base_from_grid: NDArray[np.float64] | None = None,
    ray_samples: bool = False,
) -> tuple[Arrays, int]:
    """Inputs of the proposal network except the feature maps, and the number of dropped pillars.

    points: (N, 4) float32 in the grid's frame, z above the ground. ultrasonics: (U, 8) in the grid's
    frame, see rasterise_ultrasonic_ranges. base_from_grid: (4, 4), transform of the augmented grid (may
    mirror and scale); None for the identity. ray_samples: whether to add the inputs `<modality>_rays`,
    which DetectorConfig.bev_to_image_attention needs.
    """
    pillars = build_pillars(points, config)
    if not len(pillars.cells) and views.count:
        pillars = _pillars_without_lidar(config)
    positions: NDArray[np.floating] = pillars.centroids.astype(np.float64)
    if base_from_grid is not None:
        positions = poses.transform_points(base_from_grid, positions)
    projected = views.project(positions)
    if len(pillars.cells) and not len(points):
        valid = projected["camera_valid"] + projected["thermal_valid"]
        keep = np.flatnonzero(valid > 0)
        distance = np.hypot(*pillars.centroids[keep, :2].T)
        nearest = np.argsort(distance, kind="stable")[: config.max_pillars]
        keep = np.sort(keep[nearest])
        overflow = max(0, len(distance) - config.max_pillars)
        pillars = Pillars(
            pillars.features[keep], pillars.cells[keep], pillars.centroids[keep], overflow
        )
        projected = {name: values[keep] for name, values in projected.items()}
    size, count = config.max_pillars, len(pillars.cells)
    arrays: Arrays = {
        "pillars": np.zeros((size, PILLAR_CHANNELS), np.float32),
        # Unused rows point to a cell beyond the last one, which the network discards.
        "pillar_cells": np.full(size, config.size**2, np.int64),
        "ultrasonic_grid": rasterise_ultrasonic_ranges(
            ultrasonics, config.half_extent, config.cell
        ),
    }
    arrays["pillars"][:count] = pillars.features
    arrays["pillar_cells"][:count] = pillars.cells
    for name, values in projected.items():
        arrays[name] = np.zeros((size, *values.shape[1:]), np.float32)
        arrays[name][:count] = values
    if ray_samples:
        arrays |= views.project_rays(config.half_extent, base_from_grid)
    return arrays, pillars.overflow


def _pillars_without_lidar(config: PillarConfig) -> Pillars:
    centres = (np.arange(config.size) + 0.5) * config.cell - config.half_extent
    x, y = np.meshgrid(centres, centres)
    cells = np.flatnonzero(np.hypot(x, y).ravel() < WITHOUT_LIDAR_RANGE)
    heights = np.full(len(cells), WITHOUT_LIDAR_HEIGHT)
    positions = np.column_stack([x.ravel()[cells], y.ravel()[cells], heights])
    return empty_pillars(positions.astype(np.float32), cells.astype(np.int32), config)


def refinement_inputs(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    labels: NDArray[np.int64],
    classes: int,
    index: PointIndex,
    views: ImageViews,
    half_extent: float,
    base_from_grid: NDArray[np.float64] | None = None,
) -> Arrays:
    """Inputs of the refinement network for R proposals, except the feature maps and the BEV map.

    boxes: (R, 7), z above the ground. scores: (R,). labels: (R,), 0 to classes - 1. index: points of
    the frame, z above the ground. base_from_grid: see proposal_inputs.

    `proposal_features` (R, classes + 11): score in the column of the class, log of length, width and
    height, distance as a fraction of half_extent, z of the centre, and the extent features of
    compute_roi_features. `roi_bev` (R, 36, 2): normalised BEV positions of the grid columns.
    """
    grid, positions, extents, profile = compute_roi_features(boxes, index)
    in_base: NDArray[np.floating] = positions.reshape(-1, 3).astype(np.float64)
    if base_from_grid is not None:
        in_base = poses.transform_points(base_from_grid, in_base)
    projected = views.project(in_base, "roi_")
    count = len(boxes)
    features = np.zeros((count, classes + 5 + EXTENT_FEATURES), np.float32)
    features[np.arange(count), labels] = scores
    features[:, classes : classes + 3] = np.log(np.maximum(boxes[:, 3:6], MIN_SIZE))
    features[:, classes + 3] = np.hypot(boxes[:, 0], boxes[:, 1]) / half_extent
    features[:, classes + 4] = boxes[:, 2]
    features[:, classes + 5 :] = extents
    return {
        "boxes": boxes.astype(np.float32),
        "proposal_features": features,
        # All grid points of a column have the same x and y; the height index is the innermost one.
        "roi_bev": (positions[:, ::GRID, :2] / np.float32(half_extent)).astype(np.float32),
        "roi_grid": grid,
        "roi_camera_uv": projected["roi_camera_uv"].reshape(count, -1, 2),
        "roi_camera_valid": projected["roi_camera_valid"].reshape(count, -1),
        "roi_thermal_uv": projected["roi_thermal_uv"].reshape(count, -1, 2),
        "roi_thermal_valid": projected["roi_thermal_valid"].reshape(count, -1),
        "roi_profile": profile,
    }


@dataclass
class ImagePreprocessor:
    """Selects and scales the images of a frame.

    cameras, thermal_cameras: maximum numbers of images. camera_size, thermal_size: height and width.
    Keeps the contrast normalisation of each thermal camera from frame to frame.
    """

    cameras: int
    thermal_cameras: int
    camera_size: tuple[int, int]
    thermal_size: tuple[int, int]
    _normalisers: dict[str, ThermalNormaliser] = field(default_factory=dict)

    def process(self, frame: SensorFrame) -> tuple[ImageViews, Arrays]:
        """Views and pixels of a frame's images.

        Pixels: `cameras` (N, h, w, 3) and `thermals` (N, h, w) uint8, zeros for missing images.
        """
        pixels: Arrays = {
            "cameras": np.zeros((self.cameras, *self.camera_size, 3), np.uint8),
            "thermals": np.zeros((self.thermal_cameras, *self.thermal_size), np.uint8),
        }
        cameras: list[ImageView | None] = [None] * self.cameras
        thermals: list[ImageView | None] = [None] * self.thermal_cameras
        for k, (name, image) in enumerate(_calibrated(frame, frame.cameras, self.cameras)):
            pixels["cameras"][k] = fit_image(image.rgb(), self.camera_size)
            cameras[k] = self._view(frame, name, self.camera_size)
        for k, (name, thermal) in enumerate(
            _calibrated(frame, frame.thermals, self.thermal_cameras)
        ):
            normaliser = self._normalisers.setdefault(name, ThermalNormaliser())
            normalised = normaliser.normalise(thermal.filled_pixels(), thermal.stamp_ns)
            pixels["thermals"][k] = fit_image(
                np.rint(255 * normalised).astype(np.uint8), self.thermal_size
            )
            thermals[k] = self._view(frame, name, self.thermal_size)
        return ImageViews(cameras, thermals, self.camera_size, self.thermal_size), pixels

    @staticmethod
    def _view(frame: SensorFrame, name: str, size: tuple[int, int]) -> ImageView:
        model = fitted_model(frame.intrinsics[name], size)
        return ImageView(model, frame.reference_from_sensor(name))


def image_inputs(card: ModelCard) -> Callable[[SensorFrame], Arrays]:
    """Function from a recorded frame to the inputs of an image network, for int8 calibration.

    The function raises UserError for a frame without an image of the network's modality.
    """
    modality = str(card.settings.get("image"))
    height, width = card.inputs["pixels"].shape[1:3]
    preprocessor = ImagePreprocessor(1, 1, (height, width), (height, width))

    def convert(frame: SensorFrame) -> Arrays:
        views, pixels = preprocessor.process(frame)
        images = {"camera": views.cameras, "thermal": views.thermals}.get(modality, ())
        if not any(images):
            raise UserError(f"the frame has no {modality} image")
        return {"pixels": pixels[f"{modality}s"]}

    return convert


def _calibrated(frame: SensorFrame, images: Mapping, count: int) -> list[tuple]:
    """The first `count` images that have intrinsics and extrinsics."""
    usable = [
        (n, i) for n, i in images.items() if n in frame.intrinsics and n in frame.base_from_sensor
    ]
    return usable[:count]


def empty_pillars(
    positions: NDArray[np.float32], cells: NDArray[np.int32], config: PillarConfig
) -> Pillars:
    """Pillars without points at positions (M, 3); their features come from images only."""
    features = np.zeros((len(cells), PILLAR_CHANNELS), np.float32)
    distance = np.hypot(positions[:, 0], positions[:, 1])
    features[:, RANGE_CHANNEL] = distance / np.float32(config.half_extent)
    return Pillars(features, cells, positions)
