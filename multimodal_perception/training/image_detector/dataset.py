"""What the image detector learns from: backbones' features of rendered views, and boxes.

The backbones stay as they are: each view goes through them once, whole and in varied crops, and
what they make of it is stored. The boxes are drawn tightly about each object's visible pixels, after
the crop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from multimodal_perception.configuration import UserError
from multimodal_perception.geometry.image_boxes import tight_boxes
from multimodal_perception.networks.rgb_thermal_detection import (
    CHANNELS,
    CLASSES,
    STRIDES,
    RgbirDetection,
)
from multimodal_perception.segmentation.classes import SEGMENTATION_CLASSES
from multimodal_perception.training.image_detector.targets import cell_targets
from multimodal_perception.training.precision import mixed_precision
from multimodal_perception.training.segmentation.dataset import (
    Augmentation,
    View,
    collate,
    stored,
    varied,
    whole,
)

INPUT_ROWS, INPUT_WIDTH = 288, 512
# Of one view so many objects are kept, the largest first: numbers beyond mean something else.
MOST = 250
# An object of fewer pixels or a lower box than this is neither asked for nor counted as wrong.
LEAST_PIXELS, LEAST_HEIGHT = 12, 5.0
# Without its visible image an object must be seen by the thermal camera to this share.
SEEN = 0.5
STREAMS = ("visible", "other")
# A class of the detector by label of the segmentation, -1 for what it does not know.
_KIND_OF = np.full(256, -1, np.int64)
for _number, _name in enumerate(SEGMENTATION_CLASSES):
    if _name in CLASSES:
        _KIND_OF[_number] = CLASSES.index(_name)


@dataclass(frozen=True)
class FeatureConfig:
    """What is stored of each view.

    crops: varied crops beside the whole view. own: share of frames whose thermal view is stored as
    well, without the visible image. augmentation: how crops vary; their scale is of the network's
    own, `seek` the share of crops about a person or cyclist.
    """

    crops: int = field(default=1, metadata={"min": 0, "max": 100})
    own: float = field(default=0.3, metadata={"min": 0.0, "max": 1.0})
    augmentation: Augmentation = field(
        default_factory=lambda: Augmentation(scale=(0.8, 2.0), shift=3.0, seek=0.7)
    )


@dataclass(frozen=True)
class Objects:
    """A view whose labels are objects' numbers, 0 elsewhere; kinds: class (MOST + 1,) by number."""

    view: View
    kinds: NDArray[np.int64]


@dataclass(frozen=True)
class Presence:
    """How often a training frame keeps both images, the visible one alone or the thermal one alone."""

    both: float = field(default=0.4, metadata={"min": 0.0, "max": 1.0})
    visible: float = field(default=0.3, metadata={"min": 0.0, "max": 1.0})
    thermal: float = field(default=0.3, metadata={"min": 0.0, "max": 1.0})

    def __post_init__(self) -> None:
        if abs(self.both + self.visible + self.thermal - 1.0) > 1e-6:
            raise ValueError("both, visible and thermal must add to 1")


def read_objects(path: Path) -> tuple[list[Objects], list[Objects]]:
    """Views of the camera and the thermal camera's own, of a drive that render_drives wrote.

    Raises UserError for a file that is none, or has no instances (older versions wrote none).
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            shard = {name: file[name] for name in file.files}
        views, own = [], []
        for i in range(len(shard["labels"])):
            numbers, kinds = _numbered(shard["instances"][i], shard["labels"][i])
            factor = INPUT_WIDTH / numbers.shape[1]
            thermal, seen = shard["thermal"][i], shard["thermal_seen"][i]
            view = stored(shard["visible"][i], thermal, seen, numbers, factor)
            views.append(Objects(view, kinds))
            numbers, kinds = _numbered(shard["own_instances"][i], shard["own_labels"][i])
            seen = np.ones(numbers.shape, np.bool_)
            # As the network will have it: letterboxed by height.
            factor = INPUT_ROWS / numbers.shape[0]
            view = stored(None, shard["own_thermal"][i], seen, numbers, factor)
            own.append(Objects(view, kinds))
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise UserError(f"{path}: no drive with thermal images and instances: {error}") from error
    return views, own


def _numbered(
    instances: NDArray[np.integer], labels: NDArray[np.uint8]
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Numbers (H, W) uint8 from 1 of the objects that are detected, and their classes by number."""
    known = np.where(_KIND_OF[labels] >= 0, instances, 0)
    ids, inverse, counts = np.unique(known, return_inverse=True, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    order = order[ids[order] > 0][:MOST]
    number_of = np.zeros(len(ids), np.uint8)
    number_of[order] = np.arange(1, len(order) + 1)
    numbers = number_of[inverse.reshape(instances.shape)]
    kinds = np.full(MOST + 1, -1, np.int64)
    for kind in range(len(CLASSES)):
        of_kind = np.bincount(numbers[_KIND_OF[labels] == kind], minlength=MOST + 1)[: MOST + 1]
        kinds[1:][of_kind[1:] > 0] = kind
    return numbers, kinds


def crop_of(objects: Objects, config: Augmentation, rng: np.random.Generator) -> Objects:
    """A varied crop of the network's size, often about a person or a cyclist: they are few."""
    about = None
    if rng.random() < config.seek:
        wanted = [k for k in range(1, len(CLASSES)) if (objects.kinds == k).any()]
        if wanted:
            kind = wanted[-1 if rng.random() < 0.7 else int(rng.integers(len(wanted)))]
            number = rng.choice(np.flatnonzero(objects.kinds == kind))
            rows, columns = np.nonzero(objects.view.labels == number)
            if len(rows):
                k = int(rng.integers(len(rows)))
                about = int(columns[k]), int(rows[k])
    view = varied(objects.view, (INPUT_ROWS, INPUT_WIDTH), config, rng, about, 1.0)
    return Objects(view, objects.kinds)


def boxes_of(
    objects: Objects,
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.bool_]]:
    """Boxes (K, 4) in pixels, classes (K,) and which are large enough to count, of a view."""
    numbers, boxes, pixels = tight_boxes(
        np.where(objects.view.labels <= MOST, objects.view.labels, 0)
    )
    heights = boxes[:, 3] - boxes[:, 1]
    return boxes, objects.kinds[numbers], (pixels >= LEAST_PIXELS) & (heights >= LEAST_HEIGHT)


def store_features(
    drives: Sequence[Path],
    network: RgbirDetection,
    config: FeatureConfig,
    folder: Path,
    seed: int = 0,
    progress: Callable[[Iterable[Path]], Iterable[Path]] = iter,
) -> list[Path]:
    """Files of the features of all views, in order; what is there stays.

    Raises UserError for a drive that cannot be read or a folder that cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    network.eval()
    paths: list[Path] = []
    for drive in progress(drives):
        done = folder / f"{drive.stem}.done"
        if not done.exists():
            rng = np.random.default_rng((seed, int(drive.stem.rpartition("_")[2])))
            for k, objects in enumerate(_examples(drive, config, rng)):
                _write(folder / f"{drive.stem}_{k:03d}.npz", objects, network)
            done.touch()
        paths += sorted(folder.glob(f"{drive.stem}_*.npz"))
    return paths


def _examples(drive: Path, config: FeatureConfig, rng: np.random.Generator) -> Iterable[Objects]:
    views, own = read_objects(drive)
    for objects, alone in zip(views, own, strict=True):
        yield Objects(whole(objects.view, INPUT_ROWS, INPUT_WIDTH), objects.kinds)
        for _ in range(config.crops):
            yield crop_of(objects, config.augmentation, rng)
        if rng.random() < config.own:
            yield Objects(whole(alone.view, INPUT_ROWS, INPUT_WIDTH), alone.kinds)


def _write(path: Path, objects: Objects, network: RgbirDetection) -> None:
    device = next(network.parameters()).device
    batch = collate([objects.view])
    arrays: dict[str, NDArray[Any]] = {}
    images = (
        torch.where(batch.visible_mask > 0.5, batch.visible, 0.0),
        torch.where(batch.other_mask > 0.5, 2.0 * batch.other - 1.0, 0.0),
    )
    for i, (name, mask) in enumerate(
        zip(STREAMS, (batch.visible_mask, batch.other_mask), strict=True)
    ):
        arrays[f"{name}_mask"] = np.packbits(mask[0, 0].numpy() > 0.5, axis=1)
        if bool(mask.any()):
            image = images[i].to(device).contiguous(memory_format=torch.channels_last)
            with torch.inference_mode(), mixed_precision(device.type):
                maps = network.features(i, image)
            arrays |= {
                f"{name}{s}": m[0].half().cpu().numpy() for s, m in zip(STRIDES, maps, strict=True)
            }
    arrays["boxes"], arrays["labels"], arrays["counts"] = boxes_of(objects)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    partial.replace(path)


class ImageDetectorData(Dataset[dict[str, NDArray[Any]]]):
    """Stored examples with their targets, one image dropped at times. Each (seed, epoch, index) is the
    same example whoever asks."""

    def __init__(self, paths: Sequence[Path], presence: Presence, seed: int = 0) -> None:
        self.paths = list(paths)
        self.presence = presence
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, NDArray[Any]]:
        rng = np.random.default_rng((self.seed, self.epoch, index))
        with np.load(self.paths[index], allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        masks = {n: np.unpackbits(arrays.pop(f"{n}_mask"), axis=1) > 0 for n in STREAMS}
        chance = rng.random()
        if all(m.any() for m in masks.values()) and chance > self.presence.both:
            dropped = "other" if chance < self.presence.both + self.presence.visible else "visible"
            masks[dropped] = np.zeros_like(masks[dropped])
        boxes, labels, counts = (arrays.pop(n) for n in ("boxes", "labels", "counts"))
        if not masks["visible"].any():
            counts = counts & (_share(masks["other"], boxes) >= SEEN)
        kinds, targets = cell_targets(boxes, labels, counts, masks["visible"].shape)
        out: dict[str, NDArray[Any]] = {"kinds": kinds, "targets": targets}
        for name, mask in masks.items():
            out[f"{name}_mask"] = mask[None].astype(np.float32)
            for stride, channels in zip(STRIDES, CHANNELS, strict=True):
                shape = channels, mask.shape[0] // stride, mask.shape[1] // stride
                key = f"{name}{stride}"
                out[key] = arrays[key] if key in arrays else np.zeros(shape, np.float16)
        return out


def _share(mask: NDArray[np.bool_], boxes: NDArray[np.float32]) -> NDArray[np.float64]:
    """Share (K,) of each box that a mask covers."""
    whole_pixels = boxes.astype(np.int64)
    return np.array([float(mask[y1:y2, x1:x2].mean()) for x1, y1, x2, y2 in whole_pixels])


def stack(items: Sequence[dict[str, NDArray[Any]]]) -> dict[str, Tensor]:
    """Examples as a batch; features become float32."""
    batch = {n: torch.from_numpy(np.stack([i[n] for i in items])) for n in items[0]}
    return {n: t.float() if t.dtype == torch.float16 else t for n, t in batch.items()}
