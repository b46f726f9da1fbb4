"""Selection of the proposals that the refinement is trained on, and their targets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from multimodal_perception.detection.fusion.network_config import (
    CLASSES,
)
from multimodal_perception.geometry.boxes import iou_3d, non_maximum_suppression
from multimodal_perception.training.detector.dataset import (
    Item,
)
from multimodal_perception.training.detector.targets_and_losses import (
    soft_target,
)

# Of the proposals of a training frame, so many are refined, half of them on an object if there are.
REFINED = 32


# A proposal is refined to the label that it overlaps so much (IoU in 3D), or that so much of it lies in
# while it overlaps a little: of a bus seen from behind, the end alone is proposed.
MATCHED = 0.3


WITHIN, LITTLE = 0.6, 0.1


SUPPRESSED = 0.7


Found = tuple[np.ndarray, np.ndarray, np.ndarray]  # boxes (N, 7), scores (N,), labels (N,)


Guess = Callable[[Item, Found, np.random.Generator], Found]


@dataclass(frozen=True)
class Choice:
    """Which proposals of a training frame are refined.

    count: so many. suppressed: those that overlap more from above (IoU) are one. guess: what to choose
    from beside the network's own.
    """

    count: int = REFINED
    suppressed: float = SUPPRESSED
    guess: Guess | None = None


def choose_proposals(
    boxes: np.ndarray,
    scores: np.ndarray,
    labelled: np.ndarray,
    labels: np.ndarray,
    rng: np.random.Generator,
    choice: Choice = Choice(),
) -> np.ndarray:
    """Which proposals of a frame to refine in training: those that suppression leaves, half of them
    on objects where there are enough, rare classes more often; repeated where there are too few."""
    kept = non_maximum_suppression(boxes, scores, choice.suppressed)
    best, found = match(boxes[kept], labelled)
    on, off = kept[found], kept[~found]
    if len(on):
        classes = labels[best[found]]
        share = np.bincount(classes)[classes] ** -0.5
        count = min(choice.count // 2, len(on))
        on = rng.choice(on, count, replace=False, p=share / share.sum())
    # The surest mistakes teach the most; some of the rest as well.
    sure = off[: (choice.count - len(on)) * 2 // 3]
    rest = rng.permutation(off[len(sure) :])[: choice.count - len(on) - len(sure)]
    chosen = np.concatenate([on, sure, rest])
    return np.resize(chosen, choice.count)


def match(proposals: np.ndarray, boxes: np.ndarray) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The label (R,) of boxes (K, 7) that each proposal (R, 7) overlaps most, and whether (R,) it is
    to be refined to it."""
    if not len(boxes):
        return np.zeros(len(proposals), np.int64), np.zeros(len(proposals), bool)
    overlap = iou_3d(proposals, boxes)
    best = overlap.argmax(axis=1)
    value = overlap[np.arange(len(proposals)), best]
    own, theirs = proposals[:, 3:6].prod(axis=1), boxes[best, 3:6].prod(axis=1)
    inside = value / (1.0 + value) * (own + theirs)
    return best, (value >= MATCHED) | ((value >= LITTLE) & (inside >= WITHIN * own))


def refinement_targets(
    proposals: np.ndarray, boxes: np.ndarray, labels: np.ndarray
) -> dict[str, np.ndarray]:
    """Matched boxes (R, 7) of proposals (R, 7), themselves where there is none, their kinds (R,), and
    found (R,)."""
    best, found = match(proposals, boxes)
    matched, kinds = proposals.copy(), np.zeros(len(proposals), np.float32)
    matched[found], kinds[found] = boxes[best[found]], labels[best[found]]
    return {"matched": matched, "kinds": kinds, "found": found.astype(np.float32)}


def confidences(refined: np.ndarray, boxes: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """What the confidences (R, classes) of refined boxes (R, 7) should be: in the class of the label
    that each overlaps most, how much (LoGoNet, section 3.5); elsewhere 0.

    By the refined boxes, not the proposals: those are what is reported.
    """
    right = np.zeros((len(refined), len(CLASSES)), np.float32)
    if len(boxes):
        overlap = iou_3d(refined, boxes)
        best = overlap.argmax(axis=1)
        rows = np.arange(len(refined))
        right[rows, labels[best]] = soft_target(torch.from_numpy(overlap[rows, best])).numpy()
    return right


def judged(
    proposals: np.ndarray, found: np.ndarray, labelled: np.ndarray | None, extent: float
) -> np.ndarray:
    """1 for proposals (R, 7) whose confidence can be judged: on a label, or where labels would be."""
    if labelled is None:
        return np.ones(len(proposals), np.float32)
    cells = (proposals[:, :2] + extent) / (2 * extent) * len(labelled)
    column, row = cells.astype(np.int64).clip(0, len(labelled) - 1).T
    return np.maximum(found, labelled[row, column]).astype(np.float32)
