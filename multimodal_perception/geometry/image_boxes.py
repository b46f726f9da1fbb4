"""Upright boxes in images: x1 y1 x2 y2 in pixels from the image's upper left edge.

A box about the first pixel alone is 0 0 1 1: x2 and y2 are the far edges, as in COCO. The middle of
pixel (u, v) of a camera model is at (u + 0.5, v + 0.5) here.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def tight_boxes(
    instances: NDArray[np.integer],
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """Of each instance above 0 in an image (H, W): its number, box (N, 4) and count of pixels."""
    from scipy.ndimage import find_objects

    numbers, inverse, counts = np.unique(instances, return_inverse=True, return_counts=True)
    slices = find_objects(inverse.reshape(instances.shape) + 1)
    boxes = np.array(
        [(s[1].start, s[0].start, s[1].stop, s[0].stop) for s in slices if s is not None],
        np.float32,
    ).reshape(-1, 4)
    real = numbers > 0
    return numbers[real].astype(np.int64), boxes[real], counts[real].astype(np.int64)


def areas(boxes: NDArray[np.floating]) -> NDArray[np.float64]:
    """Areas (N,) of boxes (N, 4); nothing where a side is negative."""
    sides = np.maximum(np.asarray(boxes[:, 2:], np.float64) - boxes[:, :2], 0.0)
    result: NDArray[np.float64] = sides[:, 0] * sides[:, 1]
    return result


def intersections(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float64]:
    """Common areas (N, M) of boxes (N, 4) and (M, 4)."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    sides = np.maximum(np.asarray(high, np.float64) - low, 0.0)
    result: NDArray[np.float64] = sides[..., 0] * sides[..., 1]
    return result


def iou(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float64]:
    """Intersection over union (N, M) of boxes (N, 4) and (M, 4); 0 of empty ones."""
    common = intersections(a, b)
    union = areas(a)[:, None] + areas(b)[None] - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)


def non_maximum_suppression(
    boxes: NDArray[np.floating], scores: NDArray[np.floating], threshold: float, most: int = 300
) -> NDArray[np.int64]:
    """Indices of the boxes (N, 4) kept, best score first, `most` at most: none overlaps a better by
    more than the threshold."""
    order = np.argsort(-np.asarray(scores), kind="stable")
    kept: list[int] = []
    while len(order) and len(kept) < most:
        best, order = int(order[0]), order[1:]
        kept.append(best)
        order = order[iou(boxes[best : best + 1], boxes[order])[0] <= threshold]
    return np.array(kept, np.int64)
