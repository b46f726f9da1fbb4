"""Suppression of several 2D boxes on one object, across classes.

Boxes of one kind (vehicles, people) may be nested detections of one object although their classes
differ; a person in front of a vehicle is not a part of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.geometry.image_boxes import areas, intersections
from multimodal_perception.images.object_kinds import KINDS, OTHERS

# IoU from which boxes of different kinds are on the same object.
MAX_IOU_OF_KINDS = 0.7
# Non-maximum suppression gets the MAX_CANDIDATES boxes with the highest scores and keeps at most
# MAX_DETECTIONS.
MAX_CANDIDATES, MAX_DETECTIONS = 600, 150


def suppress(
    boxes: NDArray[np.floating],
    scores: NDArray[np.floating],
    labels: NDArray[np.integer],
    class_names: Sequence[str],
    max_iou: float,
    max_containment: float,
) -> NDArray[np.int64]:
    """Indices of the boxes (N, 4) that are kept, highest score first.

    A box is dropped if a kept box of higher score is of the same kind (see object_kinds), and either
    their IoU is above max_iou, or more than max_containment of the area of the smaller one is inside of
    the larger one. Boxes of different kinds are only dropped if their IoU is above MAX_IOU_OF_KINDS.
    scores: (N,). labels: (N,), index into class_names.
    """
    kinds_of_classes = np.array(
        [KINDS.get(name, OTHERS + i) for i, name in enumerate(class_names)], np.int64
    )
    order = np.argsort(-np.asarray(scores), kind="stable")[:MAX_CANDIDATES]
    boxes = boxes[order]
    kinds = kinds_of_classes[labels[order]]
    area = areas(boxes)
    common = intersections(boxes, boxes)
    union = area[:, None] + area[None] - common
    smaller = np.minimum(area[:, None], area[None])
    iou = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    contained = np.divide(common, smaller, out=np.zeros_like(common), where=smaller > 0)
    same_kind = kinds[:, None] == kinds[None]
    conflict = np.where(
        same_kind, (iou > max_iou) | (contained > max_containment), iou > MAX_IOU_OF_KINDS
    )
    free = np.ones(len(order), np.bool_)
    kept = []
    for i in range(len(order)):
        if free[i]:
            kept.append(i)
            free &= ~conflict[i]
    return order[np.array(kept[:MAX_DETECTIONS], np.int64)].astype(np.int64)
