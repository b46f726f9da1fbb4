"""Training data of the image detector: stored backbone features of rendered views, and boxes.

The backbones are frozen, so the features of each full view and of its augmented crops are computed once
and stored. A box is the tight bounding box of the visible pixels of an object after the crop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from multimodal_perception.configuration import UserError
from multimodal_perception.files import atomic_write
from multimodal_perception.geometry.image_boxes import boxes_from_instances
from multimodal_perception.networks.rgb_thermal_detection import (
    CHANNELS,
    CLASSES,
    STRIDES,
    RgbThermalDetection,
)
from multimodal_perception.npz_reader import CONTENT_ERRORS, read_npz
from multimodal_perception.segmentation.classes import SEGMENTATION_CLASSES
from multimodal_perception.training.image_detector.real_crops import LabelledCrop, crops_of_images
from multimodal_perception.training.image_detector.targets import cell_targets
from multimodal_perception.training.precision import mixed_precision
from multimodal_perception.training.real_images import RealImage
from multimodal_perception.training.segmentation.dataset import (
    Augmentation,
    View,
    augment_view,
    collate,
    full_view,
    resize_view,
)

INPUT_ROWS, INPUT_WIDTH = 288, 512
# Maximum number of objects per view, the largest first. Objects are numbered in uint8 images, in which
# larger values are reserved.
MAX_OBJECTS = 250
# Smaller objects (visible pixels, box height in pixels) are ignored: neither positive nor negative.
MIN_PIXELS, MIN_HEIGHT = 12, 5.0
# Without a visible image, an object counts if the thermal camera covers at least this fraction of
# its box.
MIN_THERMAL_COVERAGE = 0.5
STREAMS = ("visible", "thermal")
# Detector class by segmentation label; -1 for labels that are not detected.
_DETECTOR_CLASS = np.full(256, -1, np.int64)
for _number, _name in enumerate(SEGMENTATION_CLASSES):
    if _name in CLASSES:
        _DETECTOR_CLASS[_number] = CLASSES.index(_name)


@dataclass(frozen=True)
class FeatureConfig:
    """Views whose features are stored for training.

    Attributes:
        crops_per_view: Augmented crops that are stored in addition to each full view. Increase it for
            more variation; disk space and preparation time grow in proportion.
        thermal_view_fraction: Fraction of the frames for which the view of the thermal camera is stored
            as well, without a visible image. Increase it when the detector often runs on thermal
            images only.
        crops_per_image: Augmented crops of each real image that are stored in addition to the whole
            image, if there are real images. Increase it for more variation of scale and position.
        augmentation: Random changes of the crops; rare_class_fraction is the fraction of the crops
            around a pedestrian or cyclist. Change them to match other cameras.
    """

    crops_per_view: int = field(default=1, metadata={"min": 0, "max": 100})
    thermal_view_fraction: float = field(default=0.3, metadata={"min": 0.0, "max": 1.0})
    crops_per_image: int = field(default=8, metadata={"min": 0, "max": 1000})
    augmentation: Augmentation = field(
        default_factory=lambda: Augmentation(
            scale_range=(0.8, 2.0), max_misalignment=3.0, rare_class_fraction=0.7
        )
    )


@dataclass(frozen=True)
class NumberedView:
    """A view whose labels are object numbers, 0 elsewhere.

    classes: (MAX_OBJECTS + 1,) detector class by object number, -1 for unused numbers.
    """

    view: View
    classes: NDArray[np.int64]


@dataclass(frozen=True)
class ModalityFractions:
    """Fractions of the training samples by available images. They must add up to 1.

    Attributes:
        both: Fraction of the samples with both images. Increase it when both cameras are nearly always
            available.
        visible: Fraction of the samples without the thermal image. Increase it when the thermal camera
            is often missing.
        thermal: Fraction of the samples without the visible image. Increase it when the camera is often
            missing, for example at night.
    """

    both: float = field(default=0.4, metadata={"min": 0.0, "max": 1.0})
    visible: float = field(default=0.3, metadata={"min": 0.0, "max": 1.0})
    thermal: float = field(default=0.3, metadata={"min": 0.0, "max": 1.0})

    def __post_init__(self) -> None:
        if abs(self.both + self.visible + self.thermal - 1.0) > 1e-6:
            raise ValueError("both, visible and thermal must add up to 1")


def read_views(path: Path) -> tuple[list[NumberedView], list[NumberedView]]:
    """Views of the camera and views of the thermal camera, of a drive written by render_drives.

    Raises UserError for a file that is not such a drive or has no instances.
    """
    try:
        shard = read_npz(path)
        views, thermal_views = [], []
        for i in range(len(shard["labels"])):
            numbers, classes = _number_objects(shard["instances"][i], shard["labels"][i])
            factor = INPUT_WIDTH / numbers.shape[1]
            thermal, mask = shard["thermal"][i], shard["thermal_valid"][i]
            view = resize_view(shard["visible"][i], thermal, mask, numbers, factor)
            views.append(NumberedView(view, classes))
            numbers, classes = _number_objects(shard["own_instances"][i], shard["own_labels"][i])
            mask = np.ones(numbers.shape, np.bool_)
            # The network input is letterboxed by height.
            factor = INPUT_ROWS / numbers.shape[0]
            view = resize_view(None, shard["own_thermal"][i], mask, numbers, factor)
            thermal_views.append(NumberedView(view, classes))
    except CONTENT_ERRORS as error:
        raise UserError(
            f"{path}: not a drive with thermal images and instances: {error}"
        ) from error
    return views, thermal_views


def _number_objects(
    instances: NDArray[np.integer], labels: NDArray[np.uint8]
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Object numbers (H, W) uint8, from 1, of the objects to detect, and their classes by number."""
    detected = np.where(_DETECTOR_CLASS[labels] >= 0, instances, 0)
    ids, inverse, counts = np.unique(detected, return_inverse=True, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    order = order[ids[order] > 0][:MAX_OBJECTS]
    number_of = np.zeros(len(ids), np.uint8)
    number_of[order] = np.arange(1, len(order) + 1)
    numbers = number_of[inverse.reshape(instances.shape)]
    classes = np.full(MAX_OBJECTS + 1, -1, np.int64)
    for index in range(len(CLASSES)):
        of_class = numbers[_DETECTOR_CLASS[labels] == index]
        counts_of_class = np.bincount(of_class, minlength=MAX_OBJECTS + 1)[: MAX_OBJECTS + 1]
        classes[1:][counts_of_class[1:] > 0] = index
    return numbers, classes


def random_crop(
    numbered: NumberedView, config: Augmentation, rng: np.random.Generator
) -> NumberedView:
    """An augmented crop of the input size, often around a pedestrian or cyclist, because these are
    rare."""
    centre = None
    if rng.random() < config.rare_class_fraction:
        present = [k for k in range(1, len(CLASSES)) if (numbered.classes == k).any()]
        if present:
            index = present[-1 if rng.random() < 0.7 else int(rng.integers(len(present)))]
            number = rng.choice(np.flatnonzero(numbered.classes == index))
            rows, columns = np.nonzero(numbered.view.labels == number)
            if len(rows):
                k = int(rng.integers(len(rows)))
                centre = int(columns[k]), int(rows[k])
    view = augment_view(numbered.view, (INPUT_ROWS, INPUT_WIDTH), config, rng, centre, 1.0)
    return NumberedView(view, numbered.classes)


def object_boxes(
    numbered: NumberedView,
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.bool_]]:
    """Boxes (K, 4) in pixels, classes (K,), and a mask (K,) of the objects that are large enough."""
    numbers, boxes, pixels = boxes_from_instances(
        np.where(numbered.view.labels <= MAX_OBJECTS, numbered.view.labels, 0)
    )
    heights = boxes[:, 3] - boxes[:, 1]
    return boxes, numbered.classes[numbers], (pixels >= MIN_PIXELS) & (heights >= MIN_HEIGHT)


def store_features(
    drives: Sequence[Path],
    network: RgbThermalDetection,
    config: FeatureConfig,
    folder: Path,
    seed: int = 0,
    progress: Callable[[Iterable[Path]], Iterable[Path]] = iter,
    images: Sequence[RealImage] = (),
) -> list[Path]:
    """Write the features of all views, one file per view, and return the paths in order.

    images: real images, of which whole images and crops are stored as well.

    Drives whose features exist are skipped. Raises UserError for a drive that cannot be read or a
    folder that cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    network.eval()
    paths: list[Path] = []
    for drive in progress(drives):
        done = folder / f"{drive.stem}.done"
        if not done.exists():
            rng = np.random.default_rng((seed, int(drive.stem.rpartition("_")[2])))
            for k, numbered in enumerate(_training_views(drive, config, rng)):
                labelled = LabelledCrop(numbered.view, *object_boxes(numbered))
                _write_features(folder / f"{drive.stem}_{k:03d}.npz", labelled, network)
            done.touch()
        paths += sorted(folder.glob(f"{drive.stem}_*.npz"))
    size, variation = (INPUT_ROWS, INPUT_WIDTH), config.augmentation.camera_variation
    for name, crop in crops_of_images(images, size, config.crops_per_image, variation, seed):
        path = folder / f"{name}.npz"
        if not path.exists():
            _write_features(path, crop, network)
        paths.append(path)
    return paths


def _training_views(
    drive: Path, config: FeatureConfig, rng: np.random.Generator
) -> Iterable[NumberedView]:
    for camera, thermal in zip(*read_views(drive), strict=True):
        yield NumberedView(full_view(camera.view, INPUT_ROWS, INPUT_WIDTH), camera.classes)
        for _ in range(config.crops_per_view):
            yield random_crop(camera, config.augmentation, rng)
        if rng.random() < config.thermal_view_fraction:
            yield NumberedView(full_view(thermal.view, INPUT_ROWS, INPUT_WIDTH), thermal.classes)


def _write_features(path: Path, crop: LabelledCrop, network: RgbThermalDetection) -> None:
    device = next(network.parameters()).device
    batch = collate([crop.view])
    arrays: dict[str, NDArray[Any]] = {}
    images = (
        torch.where(batch.visible_mask > 0.5, batch.visible, 0.0),
        torch.where(batch.thermal_mask > 0.5, 2.0 * batch.thermal - 1.0, 0.0),
    )
    for i, (name, mask) in enumerate(
        zip(STREAMS, (batch.visible_mask, batch.thermal_mask), strict=True)
    ):
        arrays[f"{name}_mask"] = np.packbits(mask[0, 0].numpy() > 0.5, axis=1)
        if bool(mask.any()):
            image = images[i].to(device).contiguous(memory_format=torch.channels_last)
            with torch.inference_mode(), mixed_precision(device.type):
                maps = network.extract_features(i, image)
            arrays |= {
                f"{name}{s}": m[0].half().cpu().numpy() for s, m in zip(STRIDES, maps, strict=True)
            }
    arrays |= {"boxes": crop.boxes, "labels": crop.classes, "valid": crop.valid}
    with atomic_write(path) as file:
        np.savez(file, allow_pickle=False, **arrays)


class ImageDetectorData(Dataset[dict[str, NDArray[Any]]]):
    """Stored features with their targets, with one image masked out in some samples.

    A sample depends on (seed, epoch, index) only.
    """

    def __init__(
        self, paths: Sequence[Path], modality_fractions: ModalityFractions, seed: int = 0
    ) -> None:
        self.paths = list(paths)
        self.modality_fractions = modality_fractions
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, NDArray[Any]]:
        rng = np.random.default_rng((self.seed, self.epoch, index))
        arrays = read_npz(self.paths[index])
        masks = {n: np.unpackbits(arrays.pop(f"{n}_mask"), axis=1) > 0 for n in STREAMS}
        draw = rng.random()
        if all(m.any() for m in masks.values()) and draw > self.modality_fractions.both:
            dropped = (
                "thermal"
                if draw < self.modality_fractions.both + self.modality_fractions.visible
                else "visible"
            )
            masks[dropped] = np.zeros_like(masks[dropped])
        boxes, labels, valid = (arrays.pop(n) for n in ("boxes", "labels", "valid"))
        if not masks["visible"].any():
            valid = valid & (_coverage(masks["thermal"], boxes) >= MIN_THERMAL_COVERAGE)
        cells, targets = cell_targets(boxes, labels, valid, masks["visible"].shape)
        out: dict[str, NDArray[Any]] = {"target_labels": cells, "target_boxes": targets}
        for name, mask in masks.items():
            out[f"{name}_mask"] = mask[None].astype(np.float32)
            for stride, channels in zip(STRIDES, CHANNELS, strict=True):
                shape = channels, mask.shape[0] // stride, mask.shape[1] // stride
                key = f"{name}{stride}"
                out[key] = arrays[key] if key in arrays else np.zeros(shape, np.float16)
        return out


def _coverage(mask: NDArray[np.bool_], boxes: NDArray[np.float32]) -> NDArray[np.float64]:
    """Fraction (K,) of each box that a mask (H, W) covers."""
    pixels = boxes.astype(np.int64)
    return np.array([float(mask[y1:y2, x1:x2].mean()) for x1, y1, x2, y2 in pixels])


def collate_features(items: Sequence[dict[str, NDArray[Any]]]) -> dict[str, Tensor]:
    """Stack samples to a batch; features become float32."""
    batch = {n: torch.from_numpy(np.stack([i[n] for i in items])) for n in items[0]}
    return {n: t.float() if t.dtype == torch.float16 else t for n, t in batch.items()}
