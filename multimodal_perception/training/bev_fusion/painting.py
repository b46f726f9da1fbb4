"""Class scores of 2D networks, simulated from true masks for the training of PointPainting.

Painting with true masks would make the 3D detector depend on them. The simulated scores have the errors
of real 2D networks: missed objects, above all small ones, confused classes, masks that are too large or
shifted, boxes instead of masks, false detections and low confidences. The errors are drawn by object, as
those of real networks are the same for all pixels of an object.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.detection.bev_fusion.network_config import PAINT_GROUPS
from multimodal_perception.detection.bev_fusion.painting import BACKGROUND, class_group_weights
from multimodal_perception.frame import CLASS_NAMES
from multimodal_perception.training.bev_fusion.samples import SEGMENT_NAMES, UNKNOWN_SEGMENT

# Group of each of CLASS_NAMES; those without a group are background.
GROUP_OF_CLASS = class_group_weights(CLASS_NAMES).argmax(axis=1)
# Shares of the groups in a single class of all vehicles.
ONE_VEHICLE_CLASS = class_group_weights(("vehicle",))[0]
OBSTACLE = PAINT_GROUPS.index("obstacle")
POLE = SEGMENT_NAMES.index("pole")
# Groups that real networks confuse most with each group; the background is a possible error of all.
CONFUSED_WITH = {
    "small_vehicle": ("large_vehicle", "background"),
    "large_vehicle": ("small_vehicle", "background"),
    "rider": ("pedestrian", "background"),
    "pedestrian": ("rider", "obstacle", "background"),
    "obstacle": ("pedestrian", "background"),
    "background": ("background",),
}


@dataclass(frozen=True)
class PaintingConfig:
    """Errors of the simulated 2D networks whose class scores paint the points.

    Attributes:
        missing_frames: Fraction of the frames without any painting. Increase it for vehicles that often
            run without a segmentation network and without an image detector.
        missing_images: Fraction of the images without painting in the other frames. Increase it when
            the 2D network processes only some of the images of a frame.
        missed: Probability that an object of many pixels is missed; small objects are missed more often.
            Increase it if your 2D network misses more objects than this.
        confused: Probability that an object has the scores of another group. Increase it when the 2D
            network often confuses classes.
        boxes: Fraction of the images that are painted by boxes instead of masks. Increase it when an
            image detector paints and not a segmentation network.
        false_objects: Mean number of false objects in an image. Increase it for a 2D network with many
            false detections.
        one_vehicle_class: Fraction of the frames whose 2D network has a single class of all vehicles,
            as the shipped ones have. Increase it if your 2D network has one class for all vehicles.
    """

    missing_frames: float = field(default=0.3, metadata={"min": 0.0, "max": 1.0})
    missing_images: float = field(default=0.15, metadata={"min": 0.0, "max": 1.0})
    missed: float = field(default=0.06, metadata={"min": 0.0, "max": 1.0})
    confused: float = field(default=0.08, metadata={"min": 0.0, "max": 1.0})
    boxes: float = field(default=0.3, metadata={"min": 0.0, "max": 1.0})
    false_objects: float = field(default=0.5, metadata={"min": 0.0, "max": 20.0})
    one_vehicle_class: float = field(default=0.4, metadata={"min": 0.0, "max": 1.0})


def object_scores(
    labels: NDArray[np.integer],
    pixels: NDArray[np.floating],
    config: PaintingConfig,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """Group scores (K, len(PAINT_GROUPS)) that a 2D network gives to objects; rows sum to 1.

    labels: (K,) indices into CLASS_NAMES. pixels: (K,) visible pixels of each object.
    """
    scores = np.zeros((len(labels), len(PAINT_GROUPS)), np.float32)
    for k, (label, size) in enumerate(zip(labels, pixels, strict=True)):
        group = int(GROUP_OF_CLASS[label])
        missed = config.missed + (1.0 - config.missed) * 0.6 * np.exp(-size / 60.0)
        draw = rng.random()
        if draw < missed:
            group = BACKGROUND
        elif draw < missed + config.confused:
            others = CONFUSED_WITH[PAINT_GROUPS[group]]
            group = PAINT_GROUPS.index(others[rng.integers(len(others))])
        confidence = rng.uniform(0.4, 1.0)
        other = BACKGROUND if rng.random() < 0.7 else int(rng.integers(len(PAINT_GROUPS)))
        scores[k, group] += confidence
        scores[k, other] += 1.0 - confidence
    if rng.random() < config.one_vehicle_class:
        vehicles = np.flatnonzero(ONE_VEHICLE_CLASS)
        scores[:, vehicles] = (
            scores[:, vehicles].sum(1, keepdims=True) * ONE_VEHICLE_CLASS[vehicles]
        )
    return scores


def image_scores(
    semantics: NDArray[np.uint8],
    objects: NDArray[np.uint16],
    scores: NDArray[np.float32],
    config: PaintingConfig,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """Group scores (h, w, len(PAINT_GROUPS)) of an image from its true masks; they sum to 1.

    semantics: (h, w) indices into SEGMENT_NAMES. objects: (h, w), 1 + index of the object, 0 for none.
    scores: (K, len(PAINT_GROUPS)) of the objects.
    """
    shape = semantics.shape
    rows_of_object = np.concatenate([_one_group(BACKGROUND), scores])
    if rng.random() < config.boxes:
        result = _paint_boxes(objects, rows_of_object, rng)
    else:
        result = rows_of_object[objects]
        pole = (semantics == POLE) & (objects == 0)
        if rng.random() < 0.7:  # some networks have no class for poles
            result[pole] = _one_group(OBSTACLE)
        result = _distort(result, rng)
    for _ in range(rng.poisson(config.false_objects)):
        height, width = (int(np.exp(rng.uniform(0.7, 2.8))) for _ in range(2))
        row, column = int(rng.integers(shape[0])), int(rng.integers(shape[1]))
        score = rng.uniform(0.3, 0.9)
        part = result[row : row + height, column : column + width]
        part *= 1.0 - score
        part[..., int(rng.integers(len(PAINT_GROUPS)))] += score
    result[semantics == UNKNOWN_SEGMENT] = _one_group(BACKGROUND)
    return result


def _one_group(group: int) -> NDArray[np.float32]:
    """Scores (1, groups) of a single group."""
    return np.eye(1, len(PAINT_GROUPS), group, dtype=np.float32)


def _paint_boxes(
    objects: NDArray[np.uint16], scores: NDArray[np.float32], rng: np.random.Generator
) -> NDArray[np.float32]:
    """Paint the bounding box of each object, larger ones first; their edges have errors."""
    rows, columns = objects.shape
    result = np.repeat(_one_group(BACKGROUND), rows * columns, 0).reshape(rows, columns, -1)
    boxes = []
    for number in np.unique(objects[objects > 0]):
        v, u = np.nonzero(objects == number)
        size = np.array([v.max() - v.min() + 1, u.max() - u.min() + 1])
        low = np.array([v.min(), u.min()]) + rng.normal(0.0, 0.08, 2) * size
        high = np.array([v.max(), u.max()]) + 1 + rng.normal(0.0, 0.08, 2) * size
        boxes.append((float(size.prod()), int(number), np.rint(low), np.rint(high)))
    for _, number, low, high in sorted(boxes, key=lambda b: (-b[0], b[1])):
        (top, left), (bottom, right) = np.maximum(low, 0).astype(int), high.astype(int)
        result[top : max(bottom, top + 1), left : max(right, left + 1)] = scores[number]
    return result


def _distort(scores: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Masks of objects that are too large, shifted or blurred, as after a coarse network output."""
    kind = rng.random()
    if kind < 0.35:
        size = int(rng.integers(2, 4))
        objects = cv2.dilate(np.delete(scores, BACKGROUND, 2), np.ones((size, size), np.uint8))
        total = objects.sum(axis=2, keepdims=True)
        objects = objects / np.maximum(total, 1.0)
        background = 1.0 - objects.sum(axis=2)
        scores = np.insert(objects, BACKGROUND, background, axis=2)
    elif kind < 0.7:
        scores = cv2.blur(scores, (int(rng.integers(2, 5)), int(rng.integers(2, 5))))
    shift = rng.integers(-1, 2, 2)
    return np.roll(scores, tuple(int(s) for s in shift), (0, 1)).astype(np.float32)
