"""Training frames of the detector: augmented samples as batches of tensors."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset
from tqdm import tqdm

from multimodal_perception.configuration import UserError
from multimodal_perception.detection.fusion.image_projection import project_to_feature_map
from multimodal_perception.detection.fusion.network_config import CLASSES, DetectorConfig
from multimodal_perception.detection.fusion.network_inputs import (
    WITHOUT_LIDAR_HEIGHT,
    WITHOUT_LIDAR_RANGE,
    ImageViews,
    proposal_inputs,
)
from multimodal_perception.files import atomic_write
from multimodal_perception.frame import CLASS_NAMES
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.boxes import count_points_in_boxes
from multimodal_perception.networks.image_encoder import (
    CHANNELS_4,
    CHANNELS_8,
    CHANNELS_16,
    ImageBackbone,
)
from multimodal_perception.pointcloud.ground_segmentation import GroundModel, estimate_ground
from multimodal_perception.training.bev_fusion.augmentation import (
    AugmentationConfig,
    draw_transform,
    drop_beams,
    perturb_points,
    scale_object_intensities,
    transform_boxes,
    transform_point_cloud,
    transform_ultrasonics,
)
from multimodal_perception.training.bev_fusion.box_losses import (
    UNLABELLED,
    centre_targets,
)
from multimodal_perception.training.bev_fusion.object_sampling import (
    ObjectSampling,
    PastedObjects,
)
from multimodal_perception.training.bev_fusion.sample_files import (
    POINT_STEP,
    image_views,
    lidar_position,
    read_sample,
    sample_points,
)
from multimodal_perception.training.detector.available_sensors import (
    AvailableSensors,
    DropoutConfig,
    draw_available_sensors,
)
from multimodal_perception.training.detector.samples import UNKNOWN_SEGMENT

# Feature maps of an image backbone at strides 4, 8 and 16.
SCALES = ("finest", "fine", "coarse")
# Class of the detector for each index into frame.CLASS_NAMES, -1 for classes that it does not have.
DETECTOR_LABELS = np.array(
    [CLASSES.index(n) if n in CLASSES else -1 for n in CLASS_NAMES], np.int64
)
# Minimum visible fraction of a labelled object without LiDAR points.
MIN_VISIBILITY = 0.3


@dataclass(frozen=True)
class TrainingFrame:
    """One augmented frame.

    arrays: inputs and targets of the proposal network by name. The other fields are used in the
    training of the refinement. points: (N, 4) float32 in the frame of the grid, z above the ground.
    boxes: (K, 7); labels: (K,) from 0. views: cameras of the frame. base_from_grid: (4, 4).
    labelled_cells: (H, W) cells of the heatmaps that are labelled, row is y; None where all are.
    """

    arrays: dict[str, NDArray[Any]]
    points: NDArray[np.float32]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    views: ImageViews
    base_from_grid: NDArray[np.float64]
    labelled_cells: NDArray[np.bool_] | None = None


class DetectorDataset(Dataset[TrainingFrame]):
    """Training frames of samples. A frame depends on (seed, epoch, index) only."""

    def __init__(
        self,
        paths: Sequence[Path],
        config: DetectorConfig,
        augmentation: AugmentationConfig | None,
        dropout: DropoutConfig | None,
        seed: int = 0,
        stored_features: bool = True,
        sampling: ObjectSampling | None = None,
    ) -> None:
        """augmentation, dropout: None for unchanged frames. stored_features: images are read as the
        features that store_features wrote beside the samples, otherwise as pixels. sampling: pastes
        objects into frames with a LiDAR."""
        self.paths = list(paths)
        self.config = config
        self.augmentation = augmentation
        self.dropout = dropout
        self.seed = seed
        self.stored_features = stored_features
        self.sampling = sampling
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> TrainingFrame:
        rng = np.random.default_rng((self.seed, self.epoch, index))
        sample = read_sample(self.paths[index])
        sensors = AvailableSensors(True, True, True, True)
        if self.dropout is not None:
            sensors = draw_available_sensors(self.dropout, rng)
        grid_from_base = np.eye(4)
        if self.augmentation is not None:
            grid_from_base = draw_transform(self.augmentation, rng)
        base_from_grid = np.linalg.inv(grid_from_base).astype(np.float64)
        ground, pasted, points = None, None, np.zeros((0, 4), np.float32)
        if sensors.lidar:
            ground = _flatten_ground(sample)
            points, pasted = self._paste_objects(sample, rng)
        points, pasted = self._augment_points(points, sample, pasted, rng)
        points = transform_point_cloud(points, grid_from_base)
        views = dataclasses.replace(self._views(sample, sensors), ground=ground)
        boxes, labels = self._observable_labels(sample, sensors, views)
        if pasted is not None:
            views = dataclasses.replace(views, masked_boxes=pasted.masked_boxes)
            boxes = np.concatenate([boxes, pasted.boxes])
            labels = np.concatenate([labels, pasted.labels])
        ultrasonic = sample["ultrasonic"] if sensors.ultrasonics else sample["ultrasonic"][:0]
        arrays, _ = proposal_inputs(
            points,
            views,
            transform_ultrasonics(ultrasonic, grid_from_base),
            self.config.pillars,
            base_from_grid,
            self.config.bev_to_image_attention,
        )
        boxes = transform_boxes(boxes, grid_from_base)
        targets, labelled_cells = self._targets(sample, boxes, labels, base_from_grid)
        arrays |= targets
        weight = 1.0
        if self.dropout is not None and not sensors.lidar:
            weight = self.dropout.without_lidar_weight
        arrays["frame_weight"] = np.array(weight, np.float32)
        arrays |= self._images(sample, views, self.paths[index])
        return TrainingFrame(arrays, points, boxes, labels, views, base_from_grid, labelled_cells)

    def _paste_objects(
        self, sample: dict[str, NDArray[Any]], rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], PastedObjects | None]:
        """Points (N, 4) of a sample with pasted objects; updates the sample's num_points."""
        if self.sampling is None:
            return sample_points(sample), None
        pasted = self.sampling.paste(sample, rng)
        sample["num_points"] = sample["num_points"] - pasted.occluded_points
        return pasted.points, pasted

    def _augment_points(
        self,
        points: NDArray[np.float32],
        sample: dict[str, NDArray[Any]],
        pasted: PastedObjects | None,
        rng: np.random.Generator,
    ) -> tuple[NDArray[np.float32], PastedObjects | None]:
        """Points (N, 4) with fewer beams, fewer points and other intensities, in base_link."""
        if self.augmentation is None:
            return points, pasted
        count = len(points)
        points = drop_beams(points, lidar_position(sample), self.augmentation, rng)
        if len(points) < count:
            sample["num_points"] = count_points_in_boxes(points, sample["boxes"], 0.1)
            pasted = None if pasted is None else _remove_boxes_without_points(pasted, points)
        points = perturb_points(points, self.augmentation, rng)
        boxes = [sample["boxes"]] if pasted is None else [sample["boxes"], pasted.boxes]
        points = scale_object_intensities(points, np.concatenate(boxes), self.augmentation, rng)
        return points, pasted

    def _targets(
        self,
        sample: dict[str, NDArray[Any]],
        boxes: NDArray[np.float32],
        labels: NDArray[np.int64],
        base_from_grid: NDArray[np.float64],
    ) -> tuple[dict[str, NDArray[Any]], NDArray[np.bool_] | None]:
        """Targets of the proposal network by name, and TrainingFrame.labelled_cells."""
        pillars = self.config.pillars
        heat, cells, codes, weights = centre_targets(
            boxes, labels, len(CLASSES), pillars.size // 2, 2 * pillars.cell, pillars.half_extent
        )
        labelled_cells = None
        if "labels_in_view" in sample and image_views(sample, "camera"):
            labelled_cells = self._cells_in_view(sample, base_from_grid)
            heat = np.where(labelled_cells, heat, np.maximum(heat, np.float32(UNLABELLED)))
        targets: dict[str, NDArray[Any]] = {
            "heat": heat,
            "centres": cells,
            "codes": codes,
            "weights": weights,
        }
        return targets, labelled_cells

    def _cells_in_view(
        self, sample: dict[str, NDArray[Any]], base_from_grid: NDArray[np.float64]
    ) -> NDArray[np.bool_]:
        """Cells of the heatmaps in the field of view of a camera, also of cameras that are dropped."""
        pillars = self.config.pillars
        centres = (np.arange(pillars.size // 2) + 0.5) * 2 * pillars.cell - pillars.half_extent
        x, y = np.meshgrid(centres, centres)
        points = np.column_stack([x.ravel(), y.ravel(), np.full(x.size, WITHOUT_LIDAR_HEIGHT)])
        cameras = image_views(sample, "camera")
        points = poses.transform_points(base_from_grid, points)
        visible = project_to_feature_map(points, cameras, self.config.camera_size)[1]
        return (visible > 0).reshape(x.shape)

    def _views(self, sample: dict[str, NDArray[Any]], sensors: AvailableSensors) -> ImageViews:
        c = self.config
        slots = []
        for modality, available, count in (
            ("camera", sensors.cameras, c.cameras),
            ("thermal", sensors.thermal_cameras, c.thermal_cameras),
        ):
            views = list(image_views(sample, modality))[:count] if available else []
            slots.append([*views, *[None] * (count - len(views))])
        return ImageViews(slots[0], slots[1], c.camera_size, c.thermal_size)

    @staticmethod
    def _observable_labels(
        sample: dict[str, NDArray[Any]], sensors: AvailableSensors, views: ImageViews
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Boxes (K, 7) and labels (K,) of the objects that the available sensors can detect."""
        boxes, labels = sample["boxes"], DETECTOR_LABELS[sample["labels"]]
        observable = np.zeros(len(boxes), np.bool_)
        if sensors.lidar:
            observable |= sample["num_points"] > 0
        if views.count and len(boxes):
            projected = views.project(boxes[:, :3].astype(np.float64))
            visible = (projected["camera_valid"] + projected["thermal_valid"] > 0) & (
                sample["visibility"] > MIN_VISIBILITY
            )
            if not sensors.lidar:
                visible &= np.hypot(boxes[:, 0], boxes[:, 1]) < WITHOUT_LIDAR_RANGE
            observable |= visible
        keep = observable & (labels >= 0)
        return boxes[keep], labels[keep]

    def _images(
        self, sample: dict[str, NDArray[Any]], views: ImageViews, path: Path
    ) -> dict[str, NDArray[Any]]:
        """Images of a frame by name, as stored features or pixels, and their segmentation labels."""
        arrays: dict[str, NDArray[Any]] = {}
        stored = read_sample(feature_path(path)) if self.stored_features and views.count else {}
        for modality, slots, size in (
            ("camera", views.cameras, views.camera_size),
            ("thermal", views.thermals, views.thermal_size),
        ):
            h, w = size[0] // 8, size[1] // 8
            count = len(slots)
            arrays[f"{modality}_present"] = np.array([v is not None for v in slots], np.bool_)
            segments = np.full((count, h, w), UNKNOWN_SEGMENT, np.uint8)
            if self.stored_features:
                shapes = (
                    (CHANNELS_4, 2 * h, 2 * w),
                    (CHANNELS_8, h, w),
                    (CHANNELS_16, h // 2, w // 2),
                )
                scales = {
                    s: np.zeros((count, *shape), np.float16)
                    for s, shape in zip(SCALES, shapes, strict=True)
                }
            else:
                depth = (3,) if modality == "camera" else ()
                pixels = np.zeros((count, *size, *depth), np.uint8)
            for k in np.flatnonzero(arrays[f"{modality}_present"]):
                segments[k] = sample[f"{modality}{k}.semantics"]
                if self.stored_features:
                    for scale, values in scales.items():
                        values[k] = stored[f"{modality}{k}.{scale}"]
                else:
                    pixels[k] = sample[f"{modality}{k}.pixels"]
            arrays[f"{modality}_segments"] = segments
            if self.stored_features:
                arrays |= {f"{modality}_{scale}": values for scale, values in scales.items()}
            else:
                arrays[f"{modality}_pixels"] = pixels
        return arrays


def _flatten_ground(sample: dict[str, NDArray[Any]]) -> GroundModel:
    """Replace the heights of a sample's points and boxes by heights above the ground, as the detector
    does."""
    points, boxes = sample["points"].copy(), sample["boxes"].copy()
    ground, height = estimate_ground(sample_points(sample))
    limits = np.iinfo(points.dtype)
    points[:, 2] = np.clip(np.rint(height / POINT_STEP), limits.min, limits.max)
    boxes[:, 2] -= ground.at(boxes[:, 0], boxes[:, 1])
    sample["points"], sample["boxes"] = points, boxes
    return ground


def _remove_boxes_without_points(
    pasted: PastedObjects, points: NDArray[np.float32]
) -> PastedObjects:
    """Remove pasted objects without points: images do not show pasted objects."""
    keep = count_points_in_boxes(points, pasted.boxes, 0.1) > 0
    return dataclasses.replace(pasted, boxes=pasted.boxes[keep], labels=pasted.labels[keep])


def collate(
    frames: Sequence[TrainingFrame],
) -> tuple[dict[str, torch.Tensor], Sequence[TrainingFrame]]:
    """Stacked arrays of a batch by name, and the frames."""
    names = frames[0].arrays
    stacked = {n: torch.from_numpy(np.stack([f.arrays[n] for f in frames])) for n in names}
    return stacked, frames


def feature_path(sample: Path) -> Path:
    """The file of the image features of a sample."""
    return sample.with_suffix(".scales")


def store_features(paths: Sequence[Path], camera: ImageBackbone, thermal: ImageBackbone) -> int:
    """Compute the features of all images with frozen backbones and store them beside the samples.

    Files with features of the same backbones are kept. Returns the number of files written.
    """
    count = 0
    camera.eval()
    thermal.eval()
    key = np.array(_digest(camera, thermal))
    for path in tqdm([p for p in paths if not _is_stored(p, key)], "image features"):
        sample = read_sample(path)
        arrays: dict[str, NDArray[Any]] = {"backbones": key}
        for modality, backbone in (("camera", camera), ("thermal", thermal)):
            for k in range(len(image_views(sample, modality))):
                pixels = torch.from_numpy(sample[f"{modality}{k}.pixels"][None])
                with torch.inference_mode():
                    features = zip(SCALES, backbone(pixels), strict=True)
                arrays |= {f"{modality}{k}.{s}": values[0].half().numpy() for s, values in features}
        with atomic_write(feature_path(path)) as file:
            np.savez(file, allow_pickle=False, **arrays)
        count += 1
    return count


def _digest(*backbones: ImageBackbone) -> str:
    """SHA-256 of the weights of backbones."""
    digest = hashlib.sha256()
    for backbone in backbones:
        for tensor in backbone.state_dict().values():
            digest.update(tensor.cpu().numpy().tobytes())
    return digest.hexdigest()


def _is_stored(path: Path, key: NDArray[np.str_]) -> bool:
    if not feature_path(path).exists():
        return False
    try:
        return bool(read_sample(feature_path(path), ("backbones",))["backbones"] == key)
    except UserError:  # damaged, or without the digest of the backbones
        return False
