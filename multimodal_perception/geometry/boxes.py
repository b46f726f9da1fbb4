"""Oriented 3D bounding boxes: x y z length width height yaw, metres and radians.

x y z is the centre of the box; yaw rotates about z.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.kernels import njit

# Signs of length, width and height at the eight corners; same order as `corners`.
CORNER_SIGNS = np.array(
    [
        [1, 1, -1],
        [-1, 1, -1],
        [-1, -1, -1],
        [1, -1, -1],
        [1, 1, 1],
        [-1, 1, 1],
        [-1, -1, 1],
        [1, -1, 1],
    ],
    np.float64,
)
# The 12 edges as pairs of corner indices.
EDGES = (
    (0, 1),
    (1, 2),
    (2, 3),
    (3, 0),
    (4, 5),
    (5, 6),
    (6, 7),
    (7, 4),
    (0, 4),
    (1, 5),
    (2, 6),
    (3, 7),
)


def corners(boxes: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the corners (N, 8, 3) of boxes (N, 7).

    Order: bottom face counter-clockwise from the front left corner, then the top face.
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 7)
    local = 0.5 * CORNER_SIGNS[None] * boxes[:, None, 3:6]
    c, s = np.cos(boxes[:, 6])[:, None], np.sin(boxes[:, 6])[:, None]
    x = c * local[..., 0] - s * local[..., 1]
    y = s * local[..., 0] + c * local[..., 1]
    return np.stack([x, y, local[..., 2]], axis=-1) + boxes[:, None, :3]


def count_points_in_boxes(
    points: NDArray[np.floating], boxes: NDArray[np.floating], margin: float = 0.0
) -> NDArray[np.int64]:
    """Count the points (N, 3 or more) inside each of the boxes (M, 7).

    margin: enlarges each box on every side, metres.
    """
    xyz = np.ascontiguousarray(points[:, :3], np.float32)
    return _count(xyz, np.asarray(boxes, np.float64).reshape(-1, 7), float(margin))


def points_in_box(points: NDArray[np.floating], box: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Return a mask (N,) of the points (N, 3 or more) inside one box (7,)."""
    offset = np.asarray(points, np.float64)[:, :3] - np.asarray(box[:3], np.float64)
    c, s = np.cos(box[6]), np.sin(box[6])
    x = np.abs(c * offset[:, 0] + s * offset[:, 1])
    y = np.abs(-s * offset[:, 0] + c * offset[:, 1])
    z = np.abs(offset[:, 2])
    return (x <= box[3] / 2) & (y <= box[4] / 2) & (z <= box[5] / 2)


def iou_bev(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the intersection over union (N, M) of the footprints of boxes (N, 7) and (M, 7)."""
    return _iou(*_as_arrays(a, b), False)


def iou_3d(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the intersection over union (N, M) of the volumes of boxes (N, 7) and (M, 7)."""
    return _iou(*_as_arrays(a, b), True)


def non_maximum_suppression(
    boxes: NDArray[np.floating], scores: NDArray[np.floating], threshold: float
) -> NDArray[np.int64]:
    """Non-maximum suppression by IoU in bird's-eye view.

    Returns the indices of the kept boxes of (N, 7), highest score first. A box is suppressed if its
    IoU with a kept box of higher score is above the threshold.
    """
    order = np.argsort(-np.asarray(scores), kind="stable")
    return _suppress(iou_bev(boxes, boxes), order, threshold)


@njit(nogil=True)
def _suppress(overlap, order, threshold):  # type: ignore[no-untyped-def]
    kept, n = np.empty(len(order), np.int64), 0
    for i in order:
        keep = True
        for k in range(n):
            keep &= not overlap[i, kept[k]] > threshold
        if keep:
            kept[n] = i
            n += 1
    return kept[:n]


def _as_arrays(
    a: NDArray[np.floating], b: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return np.asarray(a, np.float64).reshape(-1, 7), np.asarray(b, np.float64).reshape(-1, 7)


@njit(nogil=True)
def _count(points, boxes, margin):  # type: ignore[no-untyped-def]
    counts = np.zeros(len(boxes), np.int64)
    for j in range(len(boxes)):
        x, y, z = boxes[j, 0], boxes[j, 1], boxes[j, 2]
        half_l, half_w = boxes[j, 3] / 2 + margin, boxes[j, 4] / 2 + margin
        half_h = boxes[j, 5] / 2 + margin
        c, s = np.cos(boxes[j, 6]), np.sin(boxes[j, 6])
        for i in range(len(points)):
            if abs(points[i, 2] - z) <= half_h:
                dx, dy = points[i, 0] - x, points[i, 1] - y
                if abs(c * dx + s * dy) <= half_l and abs(c * dy - s * dx) <= half_w:
                    counts[j] += 1
    return counts


@njit(nogil=True)
def _footprint(box):  # type: ignore[no-untyped-def]
    c, s = np.cos(box[6]), np.sin(box[6])
    polygon = np.empty((4, 2))
    for k in range(4):
        sign_x = 1.0 if k in (0, 3) else -1.0
        sign_y = 1.0 if k in (0, 1) else -1.0
        x, y = sign_x * box[3] / 2, sign_y * box[4] / 2
        polygon[k, 0] = box[0] + c * x - s * y
        polygon[k, 1] = box[1] + s * x + c * y
    return polygon


@njit(nogil=True)
def _overlap_area(a, b):  # type: ignore[no-untyped-def]
    """Area of the intersection of two convex counter-clockwise quadrilaterals.

    Polygon clipping of Sutherland and Hodgman (1974).
    """
    polygon = np.empty((16, 2))
    clipped = np.empty((16, 2))
    n = 4
    polygon[:4] = a
    for k in range(4):
        px, py = b[k, 0], b[k, 1]
        ex, ey = b[(k + 1) % 4, 0] - px, b[(k + 1) % 4, 1] - py
        m = 0
        for i in range(n):
            j = (i + 1) % n
            side_i = ex * (polygon[i, 1] - py) - ey * (polygon[i, 0] - px)
            side_j = ex * (polygon[j, 1] - py) - ey * (polygon[j, 0] - px)
            if side_i >= 0:
                clipped[m] = polygon[i]
                m += 1
            if (side_i >= 0) != (side_j >= 0):
                t = side_i / (side_i - side_j)
                clipped[m] = polygon[i] + t * (polygon[j] - polygon[i])
                m += 1
        n = m
        if n < 3:
            return 0.0
        polygon[:n] = clipped[:n]
    area = 0.0
    for i in range(n):
        j = (i + 1) % n
        area += polygon[i, 0] * polygon[j, 1] - polygon[j, 0] * polygon[i, 1]
    return max(area / 2, 0.0)


@njit(nogil=True)
def _iou(a, b, volume):  # type: ignore[no-untyped-def]
    result = np.zeros((len(a), len(b)))
    for i in range(len(a)):
        first = _footprint(a[i])
        for j in range(len(b)):
            # Boxes whose circumscribed circles do not meet cannot overlap.
            max_distance = np.hypot(a[i, 3], a[i, 4]) / 2 + np.hypot(b[j, 3], b[j, 4]) / 2
            if np.hypot(a[i, 0] - b[j, 0], a[i, 1] - b[j, 1]) > max_distance:
                continue
            common = _overlap_area(first, _footprint(b[j]))
            size_a, size_b = a[i, 3] * a[i, 4], b[j, 3] * b[j, 4]
            if volume:
                top = min(a[i, 2] + a[i, 5] / 2, b[j, 2] + b[j, 5] / 2)
                bottom = max(a[i, 2] - a[i, 5] / 2, b[j, 2] - b[j, 5] / 2)
                common *= max(top - bottom, 0.0)
                size_a, size_b = size_a * a[i, 5], size_b * b[j, 5]
            union = size_a + size_b - common
            if union > 0:
                result[i, j] = common / union
    return result
