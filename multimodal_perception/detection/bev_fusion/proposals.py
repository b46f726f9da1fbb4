"""Scores of proposals after refinement, and heights of boxes above the ground."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.pointcloud.ground_segmentation import GroundModel

# Weight of the proposal score in the geometric mean of proposal score and refined confidence. It is
# larger for people: they are as small as the localisation error, so the predicted overlap, which the
# confidence is trained on, is less informative.
PROPOSAL_SCORE_WEIGHT, PEDESTRIAN_PROPOSAL_SCORE_WEIGHT = 0.5, 0.8
# Exponent of the scores of proposals that are not refined, so that they rank below refined ones.
UNREFINED_SCORE_EXPONENT = 1.3


def combine_scores(
    proposal_scores: NDArray[np.float32],
    confidences: NDArray[np.float32],
    is_pedestrian: NDArray[np.bool_],
) -> NDArray[np.floating]:
    """Scores (N,) after refinement from those of both stages (Yin et al. 2021, section 4.2).

    is_pedestrian: (N,) whether the refined class is pedestrian.
    """
    weight = np.where(is_pedestrian, PEDESTRIAN_PROPOSAL_SCORE_WEIGHT, PROPOSAL_SCORE_WEIGHT)
    return proposal_scores**weight * confidences ** (1.0 - weight)


def shift_heights(
    boxes: NDArray[np.float32], ground: GroundModel, sign: float
) -> NDArray[np.float32]:
    """Boxes (N, 7) with z from above the ground to base_link (sign 1), or the reverse (sign -1)."""
    shifted = boxes.copy()
    shifted[:, 2] += np.float32(sign) * ground.at(boxes[:, 0], boxes[:, 1])
    return shifted
