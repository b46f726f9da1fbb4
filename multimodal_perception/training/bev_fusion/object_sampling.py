"""Ground-truth sampling (SECOND, Yan et al. 2018, section 3.3): objects of other frames are pasted.

An object is rotated about the LiDAR and keeps its distance, so that the density of its points is
realistic, and is moved to the height of the ground. It comes from a frame with a LiDAR of a similar
resolution: otherwise a network could detect pasted objects by the density of their points. A position is
used only if there is ground below it and no other object, if the line of sight to the LiDAR is free, and
if it is outside the range of all ultrasonic sensors, whose readings do not contain the object. Points
behind the object are removed. The images do not show the object: all image features within its box are
masked, and also within as many boxes of the same sizes around random points, so that a network cannot
detect pasted objects by the mask.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.configuration import UserError
from multimodal_perception.detection.bev_fusion.network_config import CLASSES
from multimodal_perception.geometry.boxes import count_points_in_boxes
from multimodal_perception.training.bev_fusion.object_bank import (
    ObjectBank,
    build_bank,
    read_bank,
    write_bank,
)
from multimodal_perception.training.bev_fusion.pasting_scene import (
    ATTEMPTS,
    PastingScene,
)
from multimodal_perception.training.bev_fusion.sample_files import (
    lidar_position,
    sample_points,
)

# Largest number of objects of a class in a frame.
MAX_PASTED = 50
# Largest ratio of the densities of points (see point_density) of the frame of an object and of the frame
# into which it is pasted.
MAX_DENSITY_RATIO = 1.6


@dataclass(frozen=True)
class PastedObjects:
    """A frame with pasted objects, in base_link.

    points: (N, 4), of the frame and the objects. boxes: (K, 7) and labels: (K,) of the pasted objects.
    masked_boxes: (H, 7), image features inside them are masked. occluded_points: (M,), number of points
    that each labelled box of the frame lost because of the pasted objects.
    """

    points: NDArray[np.float32]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    masked_boxes: NDArray[np.float32]
    occluded_points: NDArray[np.int64]


@dataclass(frozen=True)
class ObjectSampling:
    """Pastes objects of a bank into frames with a LiDAR.

    counts: largest number of objects by class. classes: those of the detector.
    """

    bank: ObjectBank
    counts: Mapping[str, int]
    classes: Sequence[str] = CLASSES

    def paste(self, sample: Mapping[str, NDArray[Any]], rng: np.random.Generator) -> PastedObjects:
        """Paste objects into a sample, which is not changed."""
        scene = PastingScene(
            sample_points(sample), lidar_position(sample), sample["boxes"], sample["ultrasonic"]
        )
        labels, decoys = [], []
        ratio = np.maximum(self.bank.densities, 1e-6) / max(scene.density, 1e-6)
        similar = np.abs(np.log(ratio)) <= np.log(MAX_DENSITY_RATIO)
        for name, count in self.counts.items():
            label, before = self.classes.index(name), len(scene.pasted)
            candidates = rng.permutation(np.flatnonzero(similar & (self.bank.labels == label)))
            for k in candidates[: 2 * count]:
                rows = slice(self.bank.starts[k], self.bank.starts[k + 1])
                rotations = rng.uniform(0, 2 * np.pi) + np.linspace(0, 2 * np.pi, ATTEMPTS + 1)
                rotations = rng.permutation(rotations[:-1])
                if scene.paste(self.bank.points[rows], self.bank.boxes[k], rotations):
                    labels.append(label)
                    decoy = scene.pasted[-1].copy()
                    decoy[:2] = scene.points[rng.integers(len(scene.points)), :2]
                    decoys.append(decoy)
                if len(scene.pasted) - before == count:
                    break
        boxes = np.array(scene.pasted, np.float32).reshape(-1, 7)
        masked_boxes = np.concatenate([boxes, np.array(decoys, np.float32).reshape(-1, 7)])
        occluded = count_points_in_boxes(scene.points[~scene.kept], sample["boxes"], 0.1)
        return PastedObjects(
            scene.visible_points(), boxes, np.array(labels, np.int64), masked_boxes, occluded
        )


def open_object_sampling(
    paths: Sequence[Path],
    folder: Path,
    counts: Mapping[str, int],
    classes: Sequence[str] = CLASSES,
) -> ObjectSampling | None:
    """Object sampling with a bank of the objects of these samples, which is stored in the folder.

    counts: objects to paste into each frame, by class. classes: those of the detector. Returns None when
    all counts are 0. Raises UserError for a class without objects in the samples.
    """
    names = sorted(name for name, count in counts.items() if count)
    if not names:
        return None
    content = "\n".join([*(f"{p.name} {p.stat().st_size}" for p in paths), *names, *classes])
    key = hashlib.sha256(content.encode()).hexdigest()
    path = folder / "objects.bank"
    bank = read_bank(path, key)
    if bank is None:
        bank = build_bank(paths, names, classes)
        write_bank(path, key, bank)
    missing = [n for n in names if classes.index(n) not in bank.labels]
    if missing:
        raise UserError(f"{folder}: gt_sampling: no labelled object of class {', '.join(missing)}")
    return ObjectSampling(bank, {n: counts[n] for n in names}, classes)
