"""Axis-aligned bounding boxes in images: x1 y1 x2 y2 in pixels from the upper left image corner.

x2 and y2 are the outer edges, as in COCO: a box around the first pixel only is 0 0 1 1. Pixel (u, v) of
a camera model (pixel centres at integers) is at (u + 0.5, v + 0.5) in these coordinates.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def boxes_from_instances(
    instances: NDArray[np.integer],
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """Return the tight bounding box of each instance in an instance image (H, W).

    Returns instance numbers (N,), boxes (N, 4) and pixel counts (N,). Instance 0 is background.
    """
    from scipy.ndimage import find_objects

    numbers, inverse, counts = np.unique(instances, return_inverse=True, return_counts=True)
    slices = find_objects(inverse.reshape(instances.shape) + 1)
    boxes = np.array(
        [(s[1].start, s[0].start, s[1].stop, s[0].stop) for s in slices if s is not None],
        np.float32,
    ).reshape(-1, 4)
    foreground = numbers > 0
    return (
        numbers[foreground].astype(np.int64),
        boxes[foreground],
        counts[foreground].astype(np.int64),
    )


def areas(boxes: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the areas (N,) of boxes (N, 4); 0 where a side is negative."""
    sides = np.maximum(np.asarray(boxes[:, 2:], np.float64) - boxes[:, :2], 0.0)
    result: NDArray[np.float64] = sides[:, 0] * sides[:, 1]
    return result


def intersections(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the intersection areas (N, M) of boxes (N, 4) and (M, 4)."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    sides = np.maximum(np.asarray(high, np.float64) - low, 0.0)
    result: NDArray[np.float64] = sides[..., 0] * sides[..., 1]
    return result


def iou(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the intersection over union (N, M) of boxes (N, 4) and (M, 4); 0 for empty boxes."""
    common = intersections(a, b)
    union = areas(a)[:, None] + areas(b)[None] - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)


def non_maximum_suppression(
    boxes: NDArray[np.floating], scores: NDArray[np.floating], threshold: float, max_kept: int = 300
) -> NDArray[np.int64]:
    """Return the indices of the boxes (N, 4) kept by non-maximum suppression, highest score first.

    A box is suppressed if its IoU with a kept box of higher score is above the threshold. max_kept:
    maximum number of kept boxes.
    """
    order = np.argsort(-np.asarray(scores), kind="stable")
    kept: list[int] = []
    while len(order) and len(kept) < max_kept:
        best, order = int(order[0]), order[1:]
        kept.append(best)
        order = order[iou(boxes[best : best + 1], boxes[order])[0] <= threshold]
    return np.array(kept, np.int64)
