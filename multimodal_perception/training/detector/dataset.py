"""Training frames of the detector: samples varied, as batches of tensors."""

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
from multimodal_perception.detection.fusion.image_projection import atlas_places
from multimodal_perception.detection.fusion.network_config import CLASSES, DetectorConfig
from multimodal_perception.detection.fusion.network_inputs import (
    BLIND_HEIGHT,
    BLIND_REACH,
    Views,
    proposal_inputs,
)
from multimodal_perception.frame import CLASS_NAMES
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.boxes import points_in_boxes
from multimodal_perception.networks.image_encoder import COARSE, FINE, FINEST, ImageTrunk
from multimodal_perception.pointcloud.ground_segmentation import GroundModel, follow_ground
from multimodal_perception.training.detector import augmentation
from multimodal_perception.training.detector.augmentation import (
    AugmentationConfig,
    DropoutConfig,
    Present,
)
from multimodal_perception.training.detector.object_sampling import GroundTruthSampling, Pasted
from multimodal_perception.training.detector.samples import (
    POINT_STEP,
    UNKNOWN_SEGMENT,
    lidar_of,
    points_of,
    read_sample,
    views_of,
)
from multimodal_perception.training.detector.targets_and_losses import UNLABELLED, centre_targets

# The trunks' features, by how fine they are.
SCALES = ("finest", "fine", "coarse")
# Class of the detector for each of the package's, -1 for those that it does not know.
DETECTED = np.array([CLASSES.index(n) if n in CLASSES else -1 for n in CLASS_NAMES], np.int64)
# A label counts where the LiDAR has a point on it, or an image sees this share of it.
VISIBLE = 0.3


@dataclass(frozen=True)
class Item:
    """One training frame: arrays for the network and its targets, and what the refinement needs.

    arrays: by name. points: (N, 4) in the grid's frame. boxes: (K, 7), labels: (K,) from 0. labelled:
    cells of the heatmaps of which the labels tell, row is y; None where they tell of all.
    """

    arrays: dict[str, NDArray[Any]]
    points: NDArray[np.float32]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    views: Views
    base_from_grid: NDArray[np.float64]
    labelled: NDArray[np.bool_] | None = None


def repeated(paths: Sequence[Path], threshold: float, seed: int = 0) -> list[Path]:
    """Paths of samples, those with rare classes several times over.

    A frame is there sqrt(threshold / share of frames with the class) times, by its rarest class and at
    least once, what is left over a whole number by chance (Gupta et al. 2019, section 4.2).
    """
    held = np.zeros((len(paths), len(CLASSES)), np.bool_)
    for k, path in enumerate(paths):
        sample = read_sample(path, ("labels", "num_points"))
        labels = DETECTED[sample["labels"]][sample["num_points"] > 0]
        held[k, labels[labels >= 0]] = True
    wanted = np.sqrt(threshold / np.maximum(held.mean(axis=0), 1e-9))
    times = np.where(held, wanted, 1.0).max(axis=1, initial=1.0)
    times += np.random.default_rng(seed).random(len(paths))
    return [path for path, count in zip(paths, times, strict=True) for _ in range(int(count))]


class DetectorData(Dataset[Item]):
    """Items of samples. Each (seed, epoch, index) is the same frame whoever asks, and when."""

    def __init__(
        self,
        paths: Sequence[Path],
        config: DetectorConfig,
        augment: AugmentationConfig | None,
        dropout: DropoutConfig | None,
        seed: int = 0,
        stored: bool = True,
        sampling: GroundTruthSampling | None = None,
    ) -> None:
        """augment, dropout: None leaves frames as they are. stored: images come as trunks' features,
        which lie beside the samples; else as pixels. sampling: pastes into frames with a LiDAR."""
        self.paths = list(paths)
        self.config = config
        self.augment = augment
        self.dropout = dropout
        self.seed = seed
        self.stored = stored
        self.sampling = sampling
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Item:
        rng = np.random.default_rng((self.seed, self.epoch, index))
        sample = read_sample(self.paths[index])
        present = (
            Present(True, True, True, True)
            if self.dropout is None
            else augmentation.draw_present(self.dropout, rng)
        )
        motion = np.eye(4) if self.augment is None else augmentation.draw_motion(self.augment, rng)
        base_from_grid = np.linalg.inv(motion).astype(np.float64)
        ground = _level(sample) if present.lidar else None
        pasted = None
        if self.sampling is not None and present.lidar:
            pasted = self.sampling.paste(sample, rng)
            sample["num_points"] = sample["num_points"] - pasted.lost
        points = np.zeros((0, 4), np.float32)
        if present.lidar:
            points = points_of(sample) if pasted is None else pasted.points
        if self.augment is not None:
            whole = len(points)
            points = augmentation.fewer_beams(points, lidar_of(sample), self.augment, rng)
            if len(points) < whole:
                sample["num_points"] = points_in_boxes(points, sample["boxes"], 0.1)
                pasted = None if pasted is None else _still_seen(pasted, points)
            points = augmentation.thinned(points, self.augment, rng)
            known = [sample["boxes"]] if pasted is None else [sample["boxes"], pasted.boxes]
            points = augmentation.painted(points, np.concatenate(known), self.augment, rng)
        points = augmentation.moved_points(points, motion)
        views = dataclasses.replace(self._views(sample, present), ground=ground)
        boxes, labels = self._labels(sample, present, views)
        if pasted is not None:
            views = dataclasses.replace(views, hidden=pasted.hidden)
            boxes = np.concatenate([boxes, pasted.boxes])
            labels = np.concatenate([labels, pasted.labels])
        echoes = sample["ultrasonic"] if present.ultrasonics else sample["ultrasonic"][:0]
        pillars = self.config.pillars
        arrays, _ = proposal_inputs(
            points,
            views,
            augmentation.moved_echoes(echoes, motion),
            pillars,
            base_from_grid,
            self.config.exchange,
        )
        boxes = augmentation.moved_boxes(boxes, motion)
        heat, cells, codes, weights = centre_targets(
            boxes, labels, len(CLASSES), pillars.size // 2, 2 * pillars.cell, pillars.extent
        )
        labelled = None
        if "labels_in_view" in sample and views_of(sample, "camera"):
            labelled = self._in_view(sample, base_from_grid)
            heat = np.where(labelled, heat, np.maximum(heat, np.float32(UNLABELLED)))
        arrays |= {"heat": heat, "centres": cells, "codes": codes, "weights": weights}
        blind = 1.0 if present.lidar or self.dropout is None else self.dropout.blind_weight
        arrays["counts"] = np.array(blind, np.float32)
        arrays |= self._images(sample, views, self.paths[index])
        return Item(arrays, points, boxes, labels, views, base_from_grid, labelled)

    def _in_view(
        self, sample: dict[str, NDArray[Any]], base_from_grid: NDArray[np.float64]
    ) -> NDArray[np.bool_]:
        """Cells of the heatmaps that a camera sees, whether or not it is shown to the network."""
        pillars = self.config.pillars
        middles = (np.arange(pillars.size // 2) + 0.5) * 2 * pillars.cell - pillars.extent
        x, y = np.meshgrid(middles, middles)
        places = np.column_stack([x.ravel(), y.ravel(), np.full(x.size, BLIND_HEIGHT)])
        cameras = views_of(sample, "camera")
        places = poses.transform_points(base_from_grid, places)
        seen = atlas_places(places, cameras, self.config.camera_size)[1]
        return (seen > 0).reshape(x.shape)

    def _views(self, sample: dict[str, NDArray[Any]], present: Present) -> Views:
        c = self.config
        slots = []
        for kind, shown, most in (
            ("camera", present.cameras, c.cameras),
            ("thermal", present.thermals, c.thermals),
        ):
            views = list(views_of(sample, kind))[:most] if shown else []
            slots.append([*views, *[None] * (most - len(views))])
        return Views(slots[0], slots[1], c.camera_size, c.thermal_size)

    @staticmethod
    def _labels(
        sample: dict[str, NDArray[Any]], present: Present, views: Views
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The labels that the sensors present can tell of."""
        boxes, labels = sample["boxes"], DETECTED[sample["labels"]]
        told = np.zeros(len(boxes), np.bool_)
        if present.lidar:
            told |= sample["num_points"] > 0
        if views.count and len(boxes):
            sight = views.look_up(boxes[:, :3].astype(np.float64))
            seen = (sight["camera_seen"] + sight["thermal_seen"] > 0) & (
                sample["visibility"] > VISIBLE
            )
            if not present.lidar:
                seen &= np.hypot(boxes[:, 0], boxes[:, 1]) < BLIND_REACH
            told |= seen
        keep = told & (labels >= 0)
        return boxes[keep], labels[keep]

    def _images(
        self, sample: dict[str, NDArray[Any]], views: Views, path: Path
    ) -> dict[str, NDArray[Any]]:
        arrays: dict[str, NDArray[Any]] = {}
        stored = read_sample(feature_path(path)) if self.stored and views.count else {}
        for kind, shown, size in (
            ("camera", views.cameras, views.camera_size),
            ("thermal", views.thermals, views.thermal_size),
        ):
            h, w = size[0] // 8, size[1] // 8
            count = len(shown)
            arrays[f"{kind}_present"] = np.array([v is not None for v in shown], np.bool_)
            segments = np.full((count, h, w), UNKNOWN_SEGMENT, np.uint8)
            if self.stored:
                shapes = (FINEST, 2 * h, 2 * w), (FINE, h, w), (COARSE, h // 2, w // 2)
                scales = {
                    s: np.zeros((count, *shape), np.float16)
                    for s, shape in zip(SCALES, shapes, strict=True)
                }
            else:
                depth = (3,) if kind == "camera" else ()
                pixels = np.zeros((count, *size, *depth), np.uint8)
            for k in np.flatnonzero(arrays[f"{kind}_present"]):
                segments[k] = sample[f"{kind}{k}.semantics"]
                if self.stored:
                    for scale, values in scales.items():
                        values[k] = stored[f"{kind}{k}.{scale}"]
                else:
                    pixels[k] = sample[f"{kind}{k}.pixels"]
            arrays[f"{kind}_segments"] = segments
            if self.stored:
                arrays |= {f"{kind}_{scale}": values for scale, values in scales.items()}
            else:
                arrays[f"{kind}_pixels"] = pixels
        return arrays


def _level(sample: dict[str, NDArray[Any]]) -> GroundModel:
    """Bring a sample's points and boxes onto level ground, as the detector does."""
    points, boxes = sample["points"].copy(), sample["boxes"].copy()
    ground, height = follow_ground(points_of(sample))
    limits = np.iinfo(points.dtype)
    points[:, 2] = np.clip(np.rint(height / POINT_STEP), limits.min, limits.max)
    boxes[:, 2] -= ground.at(boxes[:, 0], boxes[:, 1])
    sample["points"], sample["boxes"] = points, boxes
    return ground


def _still_seen(pasted: Pasted, points: NDArray[np.float32]) -> Pasted:
    """What of the pasted objects has a point left; no image sees the others either."""
    left = points_in_boxes(points, pasted.boxes, 0.1) > 0
    return dataclasses.replace(pasted, boxes=pasted.boxes[left], labels=pasted.labels[left])


def collate(items: Sequence[Item]) -> tuple[dict[str, torch.Tensor], Sequence[Item]]:
    """Arrays stacked, and the items themselves."""
    names = items[0].arrays
    stacked = {n: torch.from_numpy(np.stack([i.arrays[n] for i in items])) for n in names}
    return stacked, items


def feature_path(sample: Path) -> Path:
    """Where the trunks' features of a sample lie."""
    return sample.with_suffix(".scales")


def store_features(paths: Sequence[Path], camera: ImageTrunk, thermal: ImageTrunk) -> int:
    """Run the frozen trunks over all images once; what these trunks made stays. Returns how many were
    made."""
    count = 0
    camera.eval()
    thermal.eval()
    key = np.array(_digest(camera, thermal))
    for path in tqdm([p for p in paths if not _is_stored(p, key)], "image features"):
        sample = read_sample(path)
        arrays: dict[str, NDArray[Any]] = {"trunks": key}
        for kind, trunk in (("camera", camera), ("thermal", thermal)):
            for k in range(len(views_of(sample, kind))):
                pixels = torch.from_numpy(sample[f"{kind}{k}.pixels"][None])
                with torch.inference_mode():
                    found = zip(SCALES, trunk(pixels), strict=True)
                arrays |= {f"{kind}{k}.{s}": values[0].half().numpy() for s, values in found}
        partial = feature_path(path).with_suffix(".partial")
        with open(partial, "wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        partial.replace(feature_path(path))
        count += 1
    return count


def _digest(*trunks: ImageTrunk) -> str:
    """What tells these trunks' weights from others."""
    digest = hashlib.sha256()
    for trunk in trunks:
        for tensor in trunk.state_dict().values():
            digest.update(tensor.cpu().numpy().tobytes())
    return digest.hexdigest()


def _is_stored(path: Path, key: NDArray[np.str_]) -> bool:
    if not feature_path(path).exists():
        return False
    try:
        return bool(read_sample(feature_path(path), ("trunks",))["trunks"] == key)
    except UserError:  # damaged, or of a version that noted no trunks
        return False
