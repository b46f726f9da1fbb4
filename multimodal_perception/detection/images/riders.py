"""A person on a two-wheeler becomes one box, for networks that detect both separately (COCO)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.geometry.image_boxes import areas, intersections

TWO_WHEELERS = ("cyclist", "motorcyclist")
# Fraction of the person's area inside of the two-wheeler's box, and of its width within the columns of
# the two-wheeler.
MIN_COMMON_AREA, MIN_COMMON_WIDTH = 0.25, 0.6
# The lower edge of a rider is above that of the two-wheeler, by this fraction of its height.
MIN_RISE = 0.05


def combine_riders(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    labels: NDArray[np.int64],
    class_names: Sequence[str],
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    """Boxes (N, 4), scores (N,) and labels (N,), each two-wheeler extended by the person that rides it.

    The person's box is removed. The score is the higher one of the two.
    """
    names = np.array(class_names)[labels] if len(labels) else np.zeros(0, str)
    people = np.flatnonzero(names == "person")
    wheels = np.flatnonzero(np.isin(names, TWO_WHEELERS))
    if not len(people) or not len(wheels):
        return boxes, scores, labels
    common = intersections(boxes[people], boxes[wheels])
    share = common / np.maximum(areas(boxes[people]), 1e-6)[:, None]
    low = np.maximum(boxes[people, None, 0], boxes[wheels][None, :, 0])
    high = np.minimum(boxes[people, None, 2], boxes[wheels][None, :, 2])
    widths = np.maximum(boxes[people, 2] - boxes[people, 0], 1e-6)
    rise = boxes[wheels, 3] - boxes[people, None, 3]
    heights = np.maximum(boxes[wheels, 3] - boxes[wheels, 1], 1e-6)
    riding = (share > MIN_COMMON_AREA) & ((high - low) / widths[:, None] > MIN_COMMON_WIDTH)
    riding &= rise > MIN_RISE * heights
    boxes, scores = boxes.copy(), scores.copy()
    removed = np.zeros(len(boxes), np.bool_)
    for i, person in enumerate(people):
        for k in np.flatnonzero(riding[i]):
            wheel = wheels[k]
            boxes[wheel, :2] = np.minimum(boxes[wheel, :2], boxes[person, :2])
            boxes[wheel, 2:] = np.maximum(boxes[wheel, 2:], boxes[person, 2:])
            scores[wheel] = max(scores[wheel], scores[person])
            removed[person] = True
    return boxes[~removed], scores[~removed], labels[~removed]
