"""One frame as the arrays that the fusion detector takes; the same for training and on the vehicle."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.configuration import UserError
from multimodal_perception.detection.fusion.image_projection import (
    ImageView,
    atlas_places,
    atlas_rays,
)
from multimodal_perception.detection.fusion.pillars import (
    BIN,
    BINS,
    CHANNELS,
    LOW,
    PillarConfig,
    Pillars,
    empty_pillars,
    pillarise,
)
from multimodal_perception.detection.fusion.roi_features import (
    GRID,
    LEAST,
    REACH,
    PointIndex,
    proposal_grid,
)
from multimodal_perception.detection.fusion.ultrasonic_channels import draw_echoes
from multimodal_perception.frame import SensorFrame
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.boxes import inside
from multimodal_perception.images.resize import fit_image, fitted_model
from multimodal_perception.images.thermal_normalization import ThermalNormaliser
from multimodal_perception.pointcloud.ground_segmentation import GroundModel
from multimodal_perception.runtime.card import ModelCard

Arrays = dict[str, NDArray]
# Without LiDAR, cells up to so far are looked up in the images, at the height of a car's bonnet.
BLIND_REACH, BLIND_HEIGHT = 40.0, 0.8
# Pixels of a cell of the images' feature maps; heights that pillars cover, metres.
CELL_PIXELS, HEIGHTS = 4, (LOW, LOW + BIN * BINS)


@dataclass(frozen=True)
class Views:
    """The images of one frame by their places in the atlases; None where one is missing.

    hidden: (H, 7) boxes that no image sees into: what training put there, no image shows. ground: what
    the heights of points and boxes are measured from; None for base_link's own plane.
    """

    cameras: Sequence[ImageView | None]
    thermals: Sequence[ImageView | None]
    camera_size: tuple[int, int]
    thermal_size: tuple[int, int]
    hidden: NDArray[np.float32] | None = None
    ground: GroundModel | None = None

    @property
    def count(self) -> int:
        """How many images there are."""
        return sum(v is not None for v in (*self.cameras, *self.thermals))

    def look_up(self, points: NDArray[np.floating], prefix: str = "") -> Arrays:
        """Places and sight of points (N, 3), x y height above the ground, in both atlases, by the
        network's names."""
        at = points
        if self.ground is not None:
            at = points.copy()
            at[:, 2] += self.ground.at(points[:, 0], points[:, 1])
        camera, camera_seen = atlas_places(at, self.cameras, self.camera_size)
        thermal, thermal_seen = atlas_places(at, self.thermals, self.thermal_size)
        for box in () if self.hidden is None else self.hidden:
            rows = inside(points, box)
            camera_seen[rows], thermal_seen[rows] = 0.0, 0.0
        return {
            f"{prefix}camera_places": camera,
            f"{prefix}camera_seen": camera_seen,
            f"{prefix}thermal_places": thermal,
            f"{prefix}thermal_seen": thermal_seen,
        }

    def rays(self, extent: float, base_from_grid: NDArray[np.float64] | None = None) -> Arrays:
        """Where the rays of the cells of both atlases run in the BEV, by the network's names."""
        turned = None
        if base_from_grid is not None:
            turned = np.linalg.inv(base_from_grid).astype(np.float64)
        return {
            f"{kind}_rays": atlas_rays(
                views, size, CELL_PIXELS, extent, HEIGHTS, turned, self.ground
            )
            for kind, views, size in (
                ("camera", self.cameras, self.camera_size),
                ("thermal", self.thermals, self.thermal_size),
            )
        }


def proposal_inputs(
    points: NDArray[np.float32],
    views: Views,
    echoes: NDArray[np.float32],
    config: PillarConfig,
    base_from_grid: NDArray[np.float64] | None = None,
    exchange: bool = False,
) -> tuple[Arrays, int]:
    """The arrays without pixels, and how many pillars had no room.

    points: (N, 4) float32 in the grid's frame, z above the ground; echoes: (U, 8) as draw_echoes takes
    them, in it too.
    base_from_grid: (4, 4), where the grid was turned by augmentation (may mirror and scale).
    exchange: with the rays of the images' cells.
    """
    pillars = pillarise(points, config)
    if not len(pillars.cells) and views.count:
        pillars = _blind_pillars(config)
    places: NDArray[np.floating] = pillars.centroids.astype(np.float64)
    if base_from_grid is not None:
        places = poses.transform_points(base_from_grid, places)
    seen = views.look_up(places)
    if len(pillars.cells) and not len(points):
        keep = np.flatnonzero((seen["camera_seen"] + seen["thermal_seen"]) > 0)
        near = np.argsort(np.hypot(*pillars.centroids[keep, :2].T), kind="stable")[: config.most]
        keep = np.sort(keep[near])
        pillars = Pillars(pillars.features[keep], pillars.cells[keep], pillars.centroids[keep])
        seen = {name: values[keep] for name, values in seen.items()}
    most, count = config.most, len(pillars.cells)
    arrays: Arrays = {
        "pillars": np.zeros((most, CHANNELS), np.float32),
        "cells": np.full(most, config.size**2, np.int64),
        "ultrasonic": draw_echoes(echoes, config.extent, config.cell),
    }
    arrays["pillars"][:count] = pillars.features
    arrays["cells"][:count] = pillars.cells
    for name, values in seen.items():
        arrays[name] = np.zeros((most, *values.shape[1:]), np.float32)
        arrays[name][:count] = values
    if exchange:
        arrays |= views.rays(config.extent, base_from_grid)
    return arrays, pillars.overflow


def _blind_pillars(config: PillarConfig) -> Pillars:
    middles = (np.arange(config.size) + 0.5) * config.cell - config.extent
    x, y = np.meshgrid(middles, middles)
    cells = np.flatnonzero(np.hypot(x, y).ravel() < BLIND_REACH)
    places = np.column_stack(
        [x.ravel()[cells], y.ravel()[cells], np.full(len(cells), BLIND_HEIGHT)]
    )
    return empty_pillars(places.astype(np.float32), cells.astype(np.int32), config)


def refinement_inputs(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    labels: NDArray[np.int64],
    classes: int,
    index: PointIndex,
    views: Views,
    extent: float,
    base_from_grid: NDArray[np.float64] | None = None,
) -> Arrays:
    """The arrays of proposals (R, 7), scores (R,), labels (R,) from 0 that the refinement takes."""
    grid, places, reach, outline = proposal_grid(boxes, index)
    at: NDArray[np.floating] = places.reshape(-1, 3).astype(np.float64)
    if base_from_grid is not None:
        at = poses.transform_points(base_from_grid, at)
    seen = views.look_up(at, "roi_")
    count = len(boxes)
    told = np.zeros((count, classes + 5 + REACH), np.float32)
    told[np.arange(count), labels] = scores
    told[:, classes : classes + 3] = np.log(np.maximum(boxes[:, 3:6], LEAST))
    told[:, classes + 3] = np.hypot(boxes[:, 0], boxes[:, 1]) / extent
    told[:, classes + 4] = boxes[:, 2]
    told[:, classes + 5 :] = reach
    return {
        "boxes": boxes.astype(np.float32),
        "told": told,
        # Columns of the grid share their x and y: the innermost height is dropped.
        "roi_bev": (places[:, ::GRID, :2] / np.float32(extent)).astype(np.float32),
        "roi_grid": grid,
        "roi_camera": seen["roi_camera_places"].reshape(count, -1, 2),
        "roi_camera_seen": seen["roi_camera_seen"].reshape(count, -1),
        "roi_thermal": seen["roi_thermal_places"].reshape(count, -1, 2),
        "roi_thermal_seen": seen["roi_thermal_seen"].reshape(count, -1),
        "roi_outline": outline,
    }


@dataclass
class FrameImages:
    """Chooses and fits a frame's images; keeps each thermal camera's contrast steady over time."""

    cameras: int
    thermals: int
    camera_size: tuple[int, int]
    thermal_size: tuple[int, int]
    _normalisers: dict[str, ThermalNormaliser] = field(default_factory=dict)

    def of(self, frame: SensorFrame) -> tuple[Views, Arrays]:
        """Views and pixels: cameras (N, h, w, 3) and thermals (N, h, w) uint8, zeros where missing."""
        pixels: Arrays = {
            "cameras": np.zeros((self.cameras, *self.camera_size, 3), np.uint8),
            "thermals": np.zeros((self.thermals, *self.thermal_size), np.uint8),
        }
        cameras: list[ImageView | None] = [None] * self.cameras
        thermals: list[ImageView | None] = [None] * self.thermals
        for k, (name, image) in enumerate(_known(frame, frame.cameras, self.cameras)):
            pixels["cameras"][k] = fit_image(image.rgb(), self.camera_size)
            cameras[k] = self._view(frame, name, self.camera_size)
        for k, (name, thermal) in enumerate(_known(frame, frame.thermals, self.thermals)):
            steady = self._normalisers.setdefault(name, ThermalNormaliser())
            even = steady.normalise(thermal.pixels, thermal.stamp_ns)
            pixels["thermals"][k] = fit_image(
                np.rint(255 * even).astype(np.uint8), self.thermal_size
            )
            thermals[k] = self._view(frame, name, self.thermal_size)
        return Views(cameras, thermals, self.camera_size, self.thermal_size), pixels

    @staticmethod
    def _view(frame: SensorFrame, name: str, size: tuple[int, int]) -> ImageView:
        model = fitted_model(frame.intrinsics[name], size)
        return ImageView(model, frame.reference_from_sensor(name))


def image_inputs(card: ModelCard) -> Callable[[SensorFrame], Arrays]:
    """What calibration feeds an image network of recorded frames. The callable may raise UserError."""
    kind, (height, width) = str(card.settings.get("image")), card.inputs["pixels"].shape[1:3]
    frames = FrameImages(1, 1, (height, width), (height, width))

    def of(frame: SensorFrame) -> Arrays:
        views, pixels = frames.of(frame)
        seen = {"camera": views.cameras, "thermal": views.thermals}.get(kind, ())
        if not any(seen):
            raise UserError(f"the frame has no {kind} image")
        return {"pixels": pixels[f"{kind}s"]}

    return of


def _known(frame: SensorFrame, images: Mapping, most: int) -> list[tuple]:
    """The first images that have a calibration."""
    usable = [
        (n, i) for n, i in images.items() if n in frame.intrinsics and n in frame.base_from_sensor
    ]
    return usable[:most]


def echo_rows(frame: SensorFrame) -> NDArray[np.float32]:
    """A frame's ultrasonic readings (U, 8) as draw_echoes takes them."""
    rows = []
    for name, reading in frame.ultrasonics.items():
        if name not in frame.base_from_sensor:
            continue
        pose = frame.reference_from_sensor(name)
        limits = reading.range_m, reading.min_range, reading.max_range, reading.field_of_view
        rows.append((*pose[:3, 3], poses.yaw_of(pose), *limits))
    return np.array(rows, np.float32).reshape(-1, 8)
