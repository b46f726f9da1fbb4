"""Targets of the refinement of the fusion detector, and jittered proposals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from multimodal_perception.training.bev_fusion.proposal_selection import (
    RoiSampling,
    match_proposals,
)
from multimodal_perception.training.detector.dataset import (
    TrainingFrame,
)

Detections = tuple[np.ndarray, np.ndarray, np.ndarray]  # boxes (N, 7), scores (N,), labels (N,)
# (frame, proposals, random generator) -> additional proposals.
ProposalJitter = Callable[[TrainingFrame, Detections, np.random.Generator], Detections]


@dataclass(frozen=True)
class JitteredRoiSampling(RoiSampling):
    """RoiSampling of the fusion detector. jitter: makes additional proposals, from which the training
    proposals are selected too."""

    jitter: ProposalJitter | None = None


def refinement_targets(
    proposals: np.ndarray, boxes: np.ndarray, labels: np.ndarray
) -> dict[str, np.ndarray]:
    """Targets of proposals (R, 7): matched_boxes (R, 7), target_labels (R,) and positive_mask (R,).

    The matched box of a negative proposal is the proposal itself.
    """
    best, positive = match_proposals(proposals, boxes)
    matched_boxes, target_labels = proposals.copy(), np.zeros(len(proposals), np.float32)
    matched_boxes[positive], target_labels[positive] = boxes[best[positive]], labels[best[positive]]
    return {
        "matched_boxes": matched_boxes,
        "target_labels": target_labels,
        "positive_mask": positive.astype(np.float32),
    }


def supervised_mask(
    proposals: np.ndarray,
    positive_mask: np.ndarray,
    labelled_cells: np.ndarray | None,
    half_extent: float,
) -> np.ndarray:
    """1 for proposals (R, 7) whose score is supervised: positive ones, and those in a labelled area.

    labelled_cells: see TrainingFrame; None where all of the frame is labelled.
    """
    if labelled_cells is None:
        return np.ones(len(proposals), np.float32)
    cells = (proposals[:, :2] + half_extent) / (2 * half_extent) * len(labelled_cells)
    column, row = cells.astype(np.int64).clip(0, len(labelled_cells) - 1).T
    return np.maximum(positive_mask, labelled_cells[row, column]).astype(np.float32)
