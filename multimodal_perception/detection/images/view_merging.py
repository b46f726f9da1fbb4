"""Merging of the 3D boxes of one object from several views."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.frame import Boxes3D
from multimodal_perception.geometry.boxes import non_maximum_suppression
from multimodal_perception.images.object_kinds import kind_of

# Squared Mahalanobis distance of two positions up to which they are of one object: quantile 0.99 of the
# chi-squared distribution with two degrees of freedom; and the largest distance, metres.
MAX_MAHALANOBIS, MAX_DISTANCE = 9.2, 6.0
# Of the merged boxes, those of lower score are dropped where the BEV overlap (IoU) is larger.
NMS_IOU = 0.2


def merge_views(parts: Sequence[Boxes3D], stamp_ns: int, frame_id: str) -> Boxes3D:
    """One box for each object, highest score first, with covariances.

    parts: boxes of one view each, in the same frame, with covariances. Boxes of different views are
    merged if they are of one kind and their positions agree within their covariances. The merged
    position is weighted by the inverse covariances; as the errors of the views depend on each other
    (the same size and ground are assumed), the covariance is that of covariance intersection with equal
    weights (Julier and Uhlmann 1997) and not smaller than that of independent errors. The scores of the
    views are combined as independent.
    """
    parts = [part for part in parts if len(part)]
    if not parts:
        return Boxes3D.empty(stamp_ns, frame_id)
    boxes = np.concatenate([p.boxes for p in parts])
    scores = np.concatenate([p.scores for p in parts])
    labels = np.concatenate([p.labels for p in parts])
    covariances = np.concatenate([_covariances(p) for p in parts]).astype(np.float64)
    views = np.repeat(np.arange(len(parts)), [len(p) for p in parts])
    names = parts[0].class_names
    kinds = np.array([kind_of(names[k]) for k in labels], np.int64)
    groups = _group(boxes, scores, covariances, views, kinds)
    rows = [_merge(group, boxes, scores, covariances) for group in groups]
    merged = Boxes3D(
        stamp_ns,
        frame_id,
        np.array([row for row, _, _ in rows], np.float32).reshape(-1, 7),
        np.array([score for _, score, _ in rows], np.float32),
        labels[[group[0] for group in groups]],
        names,
        covariances=np.array([c for _, _, c in rows], np.float32).reshape(-1, 6, 6),
    )
    return merged.select(non_maximum_suppression(merged.boxes, merged.scores, NMS_IOU))


def _group(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    covariances: NDArray[np.float64],
    views: NDArray[np.int64],
    kinds: NDArray[np.int64],
) -> list[list[int]]:
    """Indices of the boxes of each object, that of the highest score first; one per view at most."""
    groups: list[list[int]] = []
    for i in np.argsort(-scores, kind="stable").tolist():
        best, nearest = None, MAX_MAHALANOBIS
        for group in groups:
            first = group[0]
            if kinds[first] != kinds[i] or any(views[k] == views[i] for k in group):
                continue
            offset = boxes[first, :2].astype(np.float64) - boxes[i, :2]
            if np.hypot(*offset) > MAX_DISTANCE:
                continue
            total = covariances[first, :2, :2] + covariances[i, :2, :2]
            distance = float(offset @ np.linalg.solve(total, offset))
            if distance <= nearest:
                best, nearest = group, distance
        if best is None:
            groups.append([i])
        else:
            best.append(i)
    return groups


def _merge(
    group: list[int],
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    covariances: NDArray[np.float64],
) -> tuple[NDArray[np.float64], float, NDArray[np.float64]]:
    """Box (7,), score and covariance (6, 6) of the boxes of one object."""
    # Heading, size and height are those of the view with the smallest position error.
    traces = [np.trace(covariances[i, :2, :2]) for i in group]
    sharpest = group[int(np.argmin(traces))]
    row, covariance = boxes[sharpest].astype(np.float64), covariances[sharpest].copy()
    inverses = [np.linalg.inv(covariances[i, :2, :2]) for i in group]
    information = np.sum(inverses, axis=0)
    weighted = sum(inverse @ boxes[i, :2] for inverse, i in zip(inverses, group, strict=True))
    row[:2] = np.linalg.solve(information, weighted)
    covariance[:2, :2] = len(group) * np.linalg.inv(information)
    return row, float(1.0 - np.prod(1.0 - scores[group].astype(np.float64))), covariance


def _covariances(part: Boxes3D) -> NDArray[np.float32]:
    if part.covariances is None:
        raise ValueError("boxes of a view must have covariances")
    return part.covariances
