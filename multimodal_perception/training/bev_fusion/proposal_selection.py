"""Selection of the proposals that the refinement network is trained on, and their targets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from multimodal_perception.geometry.boxes import iou_3d, non_maximum_suppression
from multimodal_perception.training.bev_fusion.box_losses import soft_target

# Proposals of a training frame that are refined; at most half of them are positive.
ROIS_PER_FRAME = 32
# A proposal is positive when its 3D IoU with a labelled box is at least MATCHING_IOU, or when at least
# INSIDE_FRACTION of its volume lies inside a labelled box and the IoU is at least MIN_IOU. The latter
# are proposals of the visible end of a long vehicle.
MATCHING_IOU = 0.3
INSIDE_FRACTION, MIN_IOU = 0.6, 0.1
NMS_IOU = 0.7


@dataclass(frozen=True)
class RoiSampling:
    """Which proposals of a training frame are refined.

    rois_per_frame: how many. nms_iou: bird's-eye-view IoU above which proposals are suppressed.
    """

    rois_per_frame: int = ROIS_PER_FRAME
    nms_iou: float = NMS_IOU


def select_proposals(
    boxes: np.ndarray,
    scores: np.ndarray,
    labelled_boxes: np.ndarray,
    labels: np.ndarray,
    rng: np.random.Generator,
    sampling: RoiSampling = RoiSampling(),
    max_distance: float = 0.0,
) -> np.ndarray:
    """Indices (rois_per_frame,) of the proposals of a frame that are refined in training.

    max_distance: proposals whose centre is closer to that of a labelled box are positive as well,
    metres; for frames without LiDAR, in which proposals seldom overlap with their object.

    After NMS, up to half of them are positive, with rare classes drawn more often. Of the negatives, two
    thirds are those with the highest scores and the rest is drawn at random. Indices are repeated when
    there are too few proposals.
    """
    kept = non_maximum_suppression(boxes, scores, sampling.nms_iou)
    best, positive_mask = match_proposals(boxes[kept], labelled_boxes, max_distance)
    positive, negative = kept[positive_mask], kept[~positive_mask]
    if len(positive):
        classes = labels[best[positive_mask]]
        weights = np.bincount(classes)[classes] ** -0.5
        count = min(sampling.rois_per_frame // 2, len(positive))
        positive = rng.choice(positive, count, replace=False, p=weights / weights.sum())
    remaining = sampling.rois_per_frame - len(positive)
    confident = negative[: remaining * 2 // 3]
    others = rng.permutation(negative[len(confident) :])[: remaining - len(confident)]
    return np.resize(np.concatenate([positive, confident, others]), sampling.rois_per_frame)


def match_proposals(
    proposals: np.ndarray, boxes: np.ndarray, max_distance: float = 0.0
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """For each proposal (R, 7) the labelled box (K, 7) with the highest IoU (R,), and whether it is
    positive (R,).

    max_distance: see select_proposals; such proposals belong to the nearest box.
    """
    if not len(boxes):
        return np.zeros(len(proposals), np.int64), np.zeros(len(proposals), bool)
    overlap = iou_3d(proposals, boxes)
    best = overlap.argmax(axis=1)
    iou = overlap[np.arange(len(proposals)), best]
    volumes, box_volumes = proposals[:, 3:6].prod(axis=1), boxes[best, 3:6].prod(axis=1)
    intersection = iou / (1.0 + iou) * (volumes + box_volumes)
    inside = (iou >= MIN_IOU) & (intersection >= INSIDE_FRACTION * volumes)
    positive = (iou >= MATCHING_IOU) | inside
    if max_distance > 0:
        nearest, distance = nearest_boxes(proposals, boxes)
        best = np.where(positive, best, nearest)
        positive |= distance < max_distance
    return best, positive


def nearest_boxes(
    proposals: np.ndarray, boxes: np.ndarray
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The box (K, 7), K > 0, nearest to each proposal (R, 7): index and distance of the centres (R,)."""
    offset = proposals[:, None, :2].astype(np.float64) - boxes[None, :, :2]
    distance = np.linalg.norm(offset, axis=2)
    return distance.argmin(axis=1), distance.min(axis=1)


def target_scores(
    refined: np.ndarray, boxes: np.ndarray, labels: np.ndarray, classes: int
) -> np.ndarray:
    """Target scores (R, classes) of refined boxes (R, 7).

    In the class of the labelled box with the highest IoU, the soft target of that IoU (LoGoNet, section
    3.5); 0 in the other classes. The IoU is that of the refined box, which is published, not of the
    proposal.
    """
    targets = np.zeros((len(refined), classes), np.float32)
    if len(boxes):
        overlap = iou_3d(refined, boxes)
        best = overlap.argmax(axis=1)
        rows = np.arange(len(refined))
        targets[rows, labels[best]] = soft_target(torch.from_numpy(overlap[rows, best])).numpy()
    return targets
