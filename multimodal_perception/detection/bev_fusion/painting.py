"""Class scores of 2D networks as features of LiDAR points and of lifted images.

PointPainting (Vora et al. 2020) appends the class scores of a segmentation network to the points that an
image shows. Here the scores are those of groups of classes, so that any segmentation network or 2D
detector can be used, with its own list of classes, and a better 2D network improves the 3D detector
without training it again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.detection.bev_fusion.image_view import ImageView
from multimodal_perception.detection.bev_fusion.network_config import (
    DEPTH_STRIDE,
    PAINT_CHANNELS,
    PAINT_GROUPS,
)
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.camera_kernels import camera_parameters, project_point
from multimodal_perception.kernels import njit
from multimodal_perception.perception import Boxes2D, SegmentationMask
from multimodal_perception.stages import ImageResults

BACKGROUND = PAINT_GROUPS.index("background")
# Points lower than this above the ground are not painted, metres.
MIN_PAINTED_HEIGHT = 0.15
# Width in cells up to which masks without class scores, and maps of boxes, are reduced.
MAX_MAP_WIDTH = 256
# Share of each group in a class of a 2D network, by name of the class in lower case with underscores.
# Classes that are not listed are background.
_SMALL, _LARGE = {"small_vehicle": 1.0}, {"large_vehicle": 1.0}
_RIDER, _PEDESTRIAN, _OBSTACLE = {"rider": 1.0}, {"pedestrian": 1.0}, {"obstacle": 1.0}
GROUPS_OF_CLASS: dict[str, Mapping[str, float]] = {
    # A class of all vehicles: most of them are cars.
    "vehicle": {"small_vehicle": 0.75, "large_vehicle": 0.25},
    "motor_vehicle": {"small_vehicle": 0.75, "large_vehicle": 0.25},
    **dict.fromkeys(("car", "van", "small_vehicle", "pickup", "suv"), _SMALL),
    **dict.fromkeys(
        ("truck", "bus", "trailer", "train", "tram", "caravan", "large_vehicle",
         "construction_vehicle", "lorry"), _LARGE),
    **dict.fromkeys(
        ("cyclist", "rider", "bicyclist", "motorcyclist", "bicycle", "motorcycle", "motorbike",
         "bike", "two_wheeler"), _RIDER),
    **dict.fromkeys(("pedestrian", "person", "people", "human"), _PEDESTRIAN),
    **dict.fromkeys(
        ("cone", "traffic_cone", "barrier", "bollard", "pole", "post", "obstacle"), _OBSTACLE),
}  # fmt: skip


@dataclass(frozen=True)
class PaintedImage:
    """Group scores of one image.

    view: camera model of the scaled image and its pose. scores: (h, w, len(PAINT_GROUPS)) float32, a
    map of any resolution that covers the whole image; the scores of a cell sum to 1.
    """

    view: ImageView
    scores: NDArray[np.float32]


def class_group_weights(class_names: Sequence[str]) -> NDArray[np.float32]:
    """Share of each group in each class: (classes, len(PAINT_GROUPS)) float32, rows sum to 1."""
    weights = np.zeros((len(class_names), len(PAINT_GROUPS)), np.float32)
    for row, name in zip(weights, class_names, strict=True):
        key = name.lower().replace(" ", "_").replace("-", "_")
        for group, share in GROUPS_OF_CLASS.get(key, {"background": 1.0}).items():
            row[PAINT_GROUPS.index(group)] = share
    return weights


def group_scores(
    results: ImageResults, sensor: str, size: tuple[int, int]
) -> NDArray[np.float32] | None:
    """Group scores (h, w, len(PAINT_GROUPS)) of an image from its mask and its 2D boxes.

    size: width and height of the original image. Groups that the mask's classes do not contain are
    taken from the boxes; without a mask, all of them are: each box is a rectangle with its score. None
    if neither the mask nor the 2D detector has a class of a group.
    """
    mask, boxes = results.segmentations.get(sensor), results.boxes.get(sensor)
    from_mask = None if mask is None else _mask_scores(mask)
    from_boxes = None if boxes is None else _box_scores(boxes, size, from_mask)
    if from_boxes is None:
        return from_mask
    if from_mask is not None:
        assert mask is not None
        absent = ~class_group_weights(mask.class_names).any(axis=0)
        from_boxes = np.where(absent, from_boxes, from_mask)
    from_boxes[..., BACKGROUND] = 0.0
    objects = from_boxes.sum(axis=2, keepdims=True)
    from_boxes /= np.maximum(objects, 1.0)
    from_boxes[..., BACKGROUND] = np.maximum(1.0 - objects[..., 0], 0.0)
    return from_boxes


def paint_grid(
    scores: NDArray[np.float32], model_size: tuple[int, int], size: tuple[int, int]
) -> NDArray[np.float32]:
    """Painting of the cells of an image's range distribution: (h / 8, w / 8, PAINT_CHANNELS).

    scores: see PaintedImage. model_size: width and height of the scaled image. size: height and width
    of the network's input, which the scaled image may not fill. The last channel is 1 within the image.
    """
    result = np.zeros(
        (size[0] // DEPTH_STRIDE, size[1] // DEPTH_STRIDE, PAINT_CHANNELS), np.float32
    )
    width, height = (max(round(n / DEPTH_STRIDE), 1) for n in model_size)
    # OpenCV scales up to four channels at once.
    parts = np.split(scores, 2, axis=2)
    scaled = np.concatenate(
        [
            cv2.resize(np.ascontiguousarray(p), (width, height), interpolation=cv2.INTER_AREA)
            for p in parts
        ],
        axis=2,
    )
    height, width = min(height, result.shape[0]), min(width, result.shape[1])
    result[:height, :width, :-1] = scaled[:height, :width]
    result[:height, :width, -1] = 1.0
    return result


def paint_points(
    positions: NDArray[np.floating], heights: NDArray[np.floating], images: Sequence[PaintedImage]
) -> NDArray[np.float32]:
    """Painting (N, PAINT_CHANNELS) of points: group scores, then 1 if any image shows the point.

    positions: (N, 3) in base_link. heights: (N,) above the ground, metres; points near the ground are
    not painted. Scores are means over the images that show the point.
    """
    result = np.zeros((len(positions), PAINT_CHANNELS), np.float32)
    if not images:
        return result
    positions, heights = np.asarray(positions, np.float32), np.asarray(heights, np.float32)
    for image in images:
        _paint(
            positions,
            heights,
            camera_parameters(image.view.model),
            poses.inverse(image.view.base_from_optical),
            np.ascontiguousarray(image.scores, np.float32),
            result,
        )
    count = result[:, -1:]
    result[:, :-1] /= np.maximum(count, 1.0)
    np.minimum(count, 1.0, out=count)
    return result


def _mask_scores(mask: SegmentationMask) -> NDArray[np.float32] | None:
    weights = class_group_weights(mask.class_names)
    if not np.delete(weights, BACKGROUND, axis=1).any():
        return None
    if mask.logits is not None:
        scores = np.exp(mask.logits - mask.logits.max(axis=2, keepdims=True))
        scores /= scores.sum(axis=2, keepdims=True)
        return np.asarray(scores @ weights, np.float32)
    step = -(-mask.labels.shape[1] // MAX_MAP_WIDTH)
    labels = mask.labels[step // 2 :: step, step // 2 :: step]
    # Labels without a class (255: ignored) are background.
    unknown = np.eye(1, len(PAINT_GROUPS), BACKGROUND, dtype=np.float32)
    table = np.concatenate([weights, np.repeat(unknown, 256 - len(weights), axis=0)])
    return table[labels]


def _box_scores(
    boxes: Boxes2D, size: tuple[int, int], like: NDArray[np.float32] | None
) -> NDArray[np.float32] | None:
    """Scores of boxes, which may overlap, with the resolution of `like` or reduced to MAX_MAP_WIDTH."""
    weights = class_group_weights(boxes.class_names)
    if not np.delete(weights, BACKGROUND, axis=1).any():
        return None
    if like is None:
        step = -(-size[0] // MAX_MAP_WIDTH)
        rows, columns = -(-size[1] // step), -(-size[0] // step)
    else:
        rows, columns = like.shape[:2]
    scores = np.zeros((rows, columns, len(PAINT_GROUPS)), np.float32)
    scale = np.array([columns / size[0], rows / size[1]] * 2)
    for row, score, label in zip(boxes.boxes * scale, boxes.scores, boxes.labels, strict=True):
        if not (np.isfinite(row).all() and np.isfinite(score)):
            continue
        # At least one cell, and no cell whose centre is outside the box otherwise.
        x1, y1 = np.clip(np.rint(row[:2]), 0, (columns - 1, rows - 1)).astype(int)
        x2, y2 = np.clip(np.rint(row[2:]), (x1 + 1, y1 + 1), (columns, rows)).astype(int)
        part = scores[y1:y2, x1:x2]
        np.maximum(part, np.float32(score) * weights[label], out=part)
    return scores


@njit(nogil=True)
def _paint(positions, heights, camera, optical_from_base, scores, result):  # type: ignore[no-untyped-def]
    """Add the scores (h, w, G) at the nearest cell of each point to result (N, G + 1)."""
    t, (rows, columns, groups) = optical_from_base, scores.shape
    for i in range(len(positions)):
        if not heights[i] >= MIN_PAINTED_HEIGHT:
            continue
        px, py, pz = positions[i, 0], positions[i, 1], positions[i, 2]
        z = t[2, 0] * px + t[2, 1] * py + t[2, 2] * pz + t[2, 3]
        x = t[0, 0] * px + t[0, 1] * py + t[0, 2] * pz + t[0, 3]
        y = t[1, 0] * px + t[1, 1] * py + t[1, 2] * pz + t[1, 3]
        u, v, visible = project_point(camera, x, y, z)
        if not visible:
            continue
        column = min(int((u + 0.5) * columns / camera[1]), columns - 1)
        row = min(int((v + 0.5) * rows / camera[2]), rows - 1)
        cell = scores[row, column]
        for k in range(groups):
            result[i, k] += cell[k]
        result[i, groups] += np.float32(1.0)
