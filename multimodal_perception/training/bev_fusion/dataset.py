"""Training frames of the BEV fusion detector: augmented samples as batches of tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from multimodal_perception.detection.bev_fusion.image_bev import ImageSet
from multimodal_perception.detection.bev_fusion.image_view import ImageView
from multimodal_perception.detection.bev_fusion.network_config import (
    CLASSES,
    FEATURE_STRIDE,
    BevFusionNetworkConfig,
)
from multimodal_perception.detection.bev_fusion.network_inputs import image_arrays, point_arrays
from multimodal_perception.detection.bev_fusion.painting import (
    PaintedImage,
    paint_grid,
    paint_points,
)
from multimodal_perception.detection.bev_fusion.sweep_pillars import PastSweep
from multimodal_perception.geometry.boxes import points_in_box
from multimodal_perception.training.bev_fusion.augmentation import (
    AugmentationConfig,
    draw_transform,
    transform_boxes,
    transform_point_cloud,
    transform_ultrasonics,
)
from multimodal_perception.training.bev_fusion.frame_scene import (
    DETECTOR_LABELS,
    FrameScene,
    augment_points,
    move_points,
    open_scene,
    paste_objects,
)
from multimodal_perception.training.bev_fusion.image_features import read_images
from multimodal_perception.training.bev_fusion.object_sampling import ObjectSampling
from multimodal_perception.training.bev_fusion.painting import (
    PaintingConfig,
    image_scores,
    object_scores,
)
from multimodal_perception.training.bev_fusion.sample_files import (
    Arrays,
    image_views,
    read_sample,
)
from multimodal_perception.training.bev_fusion.samples import image_keys, past_sweeps
from multimodal_perception.training.bev_fusion.sensor_dropout import (
    FrameSensors,
    SensorDropoutConfig,
    draw_sensors,
)
from multimodal_perception.training.bev_fusion.targets import (
    FrameObjects,
    observability,
    stage1_targets,
)

# Weight of the velocity without past sweeps or without LiDAR, relative to that with them: from a single
# sweep, only the typical velocity of the class at this place can be predicted.
UNOBSERVED_VELOCITY_WEIGHT = 0.1


@dataclass(frozen=True)
class FrameOptions:
    """How frames are made of samples.

    augmentation, dropout: None for unchanged frames. painting: errors of the simulated 2D networks.
    images: whether the image features are read. sampling: pastes objects into frames with a LiDAR.
    teacher: whether frames whose LiDAR was dropped also have the inputs with all sensors.
    """

    augmentation: AugmentationConfig | None = None
    dropout: SensorDropoutConfig | None = None
    painting: PaintingConfig = field(default_factory=PaintingConfig)
    images: bool = True
    sampling: ObjectSampling | None = None
    teacher: bool = False


@dataclass(frozen=True)
class BevFusionFrame:
    """One augmented frame.

    arrays: inputs and targets of the first stage by name. teacher: inputs with all sensors, None where
    there is no teacher. points: (N, 4) in the frame of the grid, z above the ground. objects: labels in
    the same frame. images: for the refinement. has_lidar: whether the frame has a LiDAR.
    """

    arrays: Arrays
    teacher: Arrays | None
    points: NDArray[np.float32]
    objects: FrameObjects
    images: ImageSet
    has_lidar: bool


class BevFusionDataset(Dataset[BevFusionFrame]):
    """Training frames of samples. A frame depends on (seed, epoch, index) only."""

    def __init__(
        self,
        paths: Sequence[Path],
        config: BevFusionNetworkConfig,
        options: FrameOptions,
        seed: int = 0,
    ) -> None:
        self.paths, self.config, self.options, self.seed = list(paths), config, options, seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> BevFusionFrame:
        rng = np.random.default_rng((self.seed, self.epoch, index))
        path, options = self.paths[index], self.options
        sample = read_sample_without_pixels(path)
        keys = [k for m in ("camera", "thermal") for k in image_keys(sample, m)]
        past = past_sweeps(sample)
        has_lidar = len(sample["points"]) > 0
        sensors = FrameSensors(has_lidar, tuple(keys), True, len(past))
        if options.dropout is not None:
            # Without image features, the network has the LiDAR in every frame.
            shown = keys if options.images else ()
            sensors = draw_sensors(options.dropout, has_lidar, shown, len(past), rng)
        grid_from_base = np.eye(4)
        if options.augmentation is not None:
            grid_from_base = draw_transform(options.augmentation, rng)
        paint_seed = int(rng.integers(1 << 62))
        scene = open_scene(sample, past, sensors.lidar)
        if sensors.lidar and options.sampling is not None:
            paste_objects(scene, options.sampling, options.images, rng)
        if sensors.lidar and options.augmentation is not None:
            augment_points(scene, options.augmentation, rng)
        kept = keys if not options.images else list(sensors.images)
        arrays, images = self._inputs(path, scene, sensors, kept, grid_from_base, paint_seed)
        objects = self._objects(scene, sensors, kept, grid_from_base)
        observed = sensors.lidar and sensors.past_sweeps > 0
        weight = 1.0 if observed else UNOBSERVED_VELOCITY_WEIGHT
        arrays |= stage1_targets(objects, self.config, weight)
        frame_weight = 1.0
        if options.dropout is not None and not sensors.lidar:
            frame_weight = options.dropout.without_lidar_weight
        arrays["frame_weight"] = np.array(frame_weight, np.float32)
        teacher = None
        if options.teacher and has_lidar and not sensors.lidar:
            complete = FrameSensors(True, tuple(keys), True, len(past))
            unchanged = open_scene(sample, past, True)
            teacher, _ = self._inputs(path, unchanged, complete, keys, grid_from_base, paint_seed)
        points = transform_point_cloud(scene.points, grid_from_base)
        return BevFusionFrame(arrays, teacher, points, objects, images, sensors.lidar)

    def _inputs(
        self,
        path: Path,
        scene: FrameScene,
        sensors: FrameSensors,
        keys: Sequence[str],
        grid_from_base: NDArray[np.float64],
        paint_seed: int,
    ) -> tuple[Arrays, ImageSet]:
        """Inputs of the first stage, and the images. keys: of the images whose painting is available."""
        views = {
            key: view
            for modality in ("camera", "thermal")
            for key, view in zip(
                image_keys(scene.sample, modality), image_views(scene.sample, modality), strict=True
            )
            if key in keys
        }
        painted, object_rows = self._paint(scene, views, paint_seed)
        painting = None
        if self.config.painting and painted and len(scene.points):
            painting = self._point_painting(scene, views, painted, object_rows)
        base_from_grid = np.linalg.inv(grid_from_base).astype(np.float64)
        past = [
            PastSweep(move_points(s.points, grid_from_base), s.age_s)
            for s in scene.past[: sensors.past_sweeps]
        ]
        ultrasonic = scene.sample["ultrasonic"]
        arrays, pillars = point_arrays(
            transform_point_cloud(scene.points, grid_from_base),
            past,
            painting,
            transform_ultrasonics(
                ultrasonic if sensors.ultrasonics else ultrasonic[:0], grid_from_base
            ),
            self.config,
        )
        if not self.options.images:
            return arrays, ImageSet()
        paint = {
            key: paint_grid(
                scores,
                (views[key].model.width, views[key].model.height),
                self.config.image_size(key.rstrip("0123456789")),
            )
            for key, scores in painted.items()
        }
        images = ImageSet(
            read_images(path, views, paint) if views else [],
            scene.ground,
            scene.masked_boxes,
            base_from_grid,
        )
        return arrays | image_arrays(images, pillars, self.config), images

    def _paint(
        self, scene: FrameScene, views: Mapping[str, ImageView], seed: int
    ) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.float32]]:
        """Group scores of painted images by key, and the scores of all objects of the scene."""
        rng, config = np.random.default_rng(seed), self.options.painting
        pixels = np.zeros(len(scene.boxes))
        count = len(scene.sample["labels"])
        pixels[:count] = object_pixels(scene.sample, list(views))
        pixels[count:] = 400.0  # pasted objects have many points and are therefore near
        class_index = np.concatenate(
            [scene.sample["labels"], CLASS_INDEX[scene.labels[count:]]]
        ).astype(np.int64)
        rows = object_scores(class_index, pixels, config, rng)
        if not self.config.painting or rng.random() < config.missing_frames:
            return {}, rows
        painted = {}
        for key, view in views.items():
            if rng.random() < config.missing_images:
                continue
            height, width = (-(-n // FEATURE_STRIDE) for n in (view.model.height, view.model.width))
            painted[key] = image_scores(
                scene.sample[f"{key}.semantics"][:height, :width],
                scene.sample[f"{key}.objects"][:height, :width],
                rows[:count],
                config,
                rng,
            )
        return painted, rows

    def _point_painting(
        self,
        scene: FrameScene,
        views: Mapping[str, ImageView],
        painted: Mapping[str, NDArray[np.float32]],
        object_rows: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """Painting of the points. Pasted objects are painted as if the images showed them."""
        assert scene.ground is not None
        positions = scene.points[:, :3].copy()
        positions[:, 2] += scene.ground.at(positions[:, 0], positions[:, 1])
        images = [PaintedImage(views[key], scores) for key, scores in painted.items()]
        painting = paint_points(positions, scene.points[:, 2], images)
        for k in range(len(scene.boxes) - scene.pasted, len(scene.boxes)):
            rows = points_in_box(scene.points, scene.boxes[k]) & (painting[:, -1] > 0)
            painting[rows, :-1] = object_rows[k]
        return painting

    def _objects(
        self,
        scene: FrameScene,
        sensors: FrameSensors,
        keys: Sequence[str],
        grid_from_base: NDArray[np.float64],
    ) -> FrameObjects:
        pixels = np.zeros(len(scene.boxes))
        if self.options.images:
            pixels[: len(scene.boxes) - scene.pasted] = object_pixels(scene.sample, keys)
        points = scene.num_points if sensors.lidar else None
        detected, ignored = observability(scene.boxes, points, pixels)
        known = scene.labels >= 0
        boxes = transform_boxes(scene.boxes, grid_from_base)
        velocities = (scene.velocities @ grid_from_base[:2, :2].T).astype(np.float32)
        keep, skip = detected & known, ignored & known
        return FrameObjects(
            boxes[keep], scene.labels[keep], velocities[keep], boxes[skip], scene.labels[skip]
        )


# Index into frame.CLASS_NAMES of each class of the detector.
CLASS_INDEX = np.array([int(np.flatnonzero(k == DETECTOR_LABELS)[0]) for k in range(len(CLASSES))])


def read_sample_without_pixels(path: Path) -> Arrays:
    """The arrays of a sample; those of the pixels are empty, because they take time to read."""
    with np.load(path, allow_pickle=False) as content:
        names = [n for n in content.files if not n.endswith(".pixels")]
        pixels = [n for n in content.files if n.endswith(".pixels")]
    sample = read_sample(path, names)
    return sample | {name: np.zeros(0, np.uint8) for name in pixels}


def object_pixels(sample: Mapping[str, NDArray[Any]], keys: Sequence[str]) -> NDArray[np.float64]:
    """Visible pixels (K,) of each labelled object in the image that shows most of it."""
    pixels = np.zeros(len(sample["labels"]))
    for key in keys:
        pixels = np.maximum(pixels, sample[f"{key}.object_pixels"])
    return pixels


Batch = tuple[dict[str, Tensor], dict[str, Tensor], Sequence[BevFusionFrame]]


def collate(frames: Sequence[BevFusionFrame]) -> Batch:
    """Stacked arrays of a batch, stacked inputs of the teacher, and the frames.

    The inputs of the teacher also have `rows` (T,), the frames of the batch that they belong to; they
    are empty without a teacher. The frames do not contain these arrays a second time, because they are
    copied from the process that loads them.
    """
    stacked = _stack([f.arrays for f in frames])
    rows = [k for k, frame in enumerate(frames) if frame.teacher is not None]
    teacher = _stack([t for f in frames if (t := f.teacher) is not None]) if rows else {}
    rest = [replace(frame, arrays={}, teacher=None) for frame in frames]
    return stacked, teacher | {"rows": torch.tensor(rows, dtype=torch.int64)}, rest


def collate_stage1(frames: Sequence[BevFusionFrame]) -> Batch:
    """As collate, without the points and images of the frames, which the second stage needs."""
    stacked, teacher, rest = collate(frames)
    no_points = np.zeros((0, 4), np.float32)
    rest = [replace(frame, points=no_points, images=ImageSet()) for frame in rest]
    return stacked, teacher, rest


def _stack(arrays: Sequence[Arrays]) -> dict[str, Tensor]:
    return {n: torch.from_numpy(np.stack([a[n] for a in arrays])) for n in arrays[0]}
