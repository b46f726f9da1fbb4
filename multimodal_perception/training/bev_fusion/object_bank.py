"""A bank of the points and boxes of labelled objects, for ground-truth sampling."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from multimodal_perception.configuration import UserError
from multimodal_perception.detection.bev_fusion.network_config import CLASSES
from multimodal_perception.files import FileError
from multimodal_perception.frame import CLASS_NAMES
from multimodal_perception.npz_reader import read_npz
from multimodal_perception.training.bev_fusion.pasting_scene import (
    MIN_POINTS,
    containing_boxes,
    point_density,
)
from multimodal_perception.training.bev_fusion.sample_files import (
    lidar_position,
    read_sample,
    sample_points,
)

# Objects of a class in the bank, and their minimum distance to the LiDAR in metres.
MAX_BANK_OBJECTS, MIN_DISTANCE = 2000, 4.0


@dataclass(frozen=True)
class ObjectBank:
    """The points and boxes of K objects of labelled frames.

    points: (N, 4) float32, x, y, z relative to the LiDAR in the axes of base_link, and intensity.
    starts: (K + 1,) first point of each object. boxes: (K, 7), relative to the LiDAR. labels: (K,) from
    0, indices into the classes of the detector. densities: (K,) of the points of each object's frame,
    see point_density.
    """

    points: NDArray[np.float32]
    starts: NDArray[np.int64]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    densities: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.labels)


def build_bank(
    paths: Sequence[Path], names: Sequence[str], classes: Sequence[str] = CLASSES
) -> ObjectBank:
    """A bank of up to MAX_BANK_OBJECTS objects of each class, from samples in a fixed random order.

    names: classes of the objects. classes: those of the detector, whose indices are the labels.
    """
    label_of = {CLASS_NAMES.index(n): classes.index(n) for n in names}
    objects: list[tuple[int, NDArray[np.float32], NDArray[np.float32]]] = []
    densities: list[float] = []
    counts = dict.fromkeys(label_of, 0)
    order = np.random.default_rng(0).permutation(len(paths))
    for k in tqdm(order, "objects to paste", disable=None):
        sample = read_sample(paths[k], ("labels", "num_points"))
        needed = np.isin(sample["labels"], [c for c in label_of if counts[c] < MAX_BANK_OBJECTS])
        rows = np.flatnonzero(needed & (sample["num_points"] >= MIN_POINTS))
        if not len(rows):
            continue
        sample = read_sample(paths[k])
        lidar, points = lidar_position(sample), sample_points(sample)
        density = point_density(points, lidar)
        boxes = sample["boxes"][rows].copy()
        box_of_point = containing_boxes(points, boxes)
        boxes[:, :3] -= lidar
        points[:, :3] -= lidar
        for i, row in enumerate(rows):
            label = int(sample["labels"][row])
            own = points[box_of_point == i]
            if len(own) >= MIN_POINTS and np.hypot(*boxes[i, :2]) > MIN_DISTANCE:
                objects.append((label_of[label], boxes[i], own))
                densities.append(density)
                counts[label] += 1
        if all(count >= MAX_BANK_OBJECTS for count in counts.values()):
            break
    starts = np.cumsum([0, *(len(own) for _, _, own in objects)])
    return ObjectBank(
        np.concatenate([np.zeros((0, 4), np.float32), *(own for _, _, own in objects)]),
        starts.astype(np.int64),
        np.array([box for _, box, _ in objects], np.float32).reshape(-1, 7),
        np.array([label for label, _, _ in objects], np.int64),
        np.array(densities, np.float32),
    )


def read_bank(path: Path, key: str) -> ObjectBank | None:
    """The bank at `path`; None if it is missing, damaged or has another key (it is then built again)."""
    try:
        names = ("points", "starts", "boxes", "labels", "densities")
        content = read_npz(path, ("key", *names))
        return ObjectBank(*(content[n] for n in names)) if str(content["key"]) == key else None
    except FileError:
        return None


def write_bank(path: Path, key: str, bank: ObjectBank) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")  # several ranks may write at once
    try:
        with open(partial, "wb") as file:
            np.savez(file, allow_pickle=False, key=np.array(key), **vars(bank))
        partial.replace(path)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
