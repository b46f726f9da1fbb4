"""The complete detector on training frames in torch, with the same steps as on the vehicle."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from multimodal_perception.detection.bev_fusion.boxes import BevDetections
from multimodal_perception.detection.bev_fusion.network_config import CLASSES
from multimodal_perception.detection.bev_fusion.proposals import (
    UNREFINED_SCORE_EXPONENT,
    combine_scores,
)
from multimodal_perception.detection.bev_fusion.refinement import PROPOSAL_NMS_IOU
from multimodal_perception.geometry.boxes import non_maximum_suppression
from multimodal_perception.networks.bev_fusion import BevFusionNetwork, metric_variances
from multimodal_perception.networks.bev_fusion_refinement import BevFusionRefinement
from multimodal_perception.networks.box_residuals import apply_residuals
from multimodal_perception.training.bev_fusion.dataset import BevFusionFrame, collate
from multimodal_perception.training.bev_fusion.train_refinement import propose, roi_inputs

PEDESTRIAN = CLASSES.index("pedestrian")


def detect(
    stage1: BevFusionNetwork,
    stage2: BevFusionRefinement | None,
    frame: BevFusionFrame,
    nms_iou: float,
) -> BevDetections:
    """The detections in a frame without calibration of the scores, the highest first.

    stage2: None for the proposals of the first stage. Boxes have heights above the ground.
    """
    with torch.no_grad():
        bev_features, (found,) = propose(stage1, collate([frame])[0])
        order = non_maximum_suppression(found.boxes, found.scores, PROPOSAL_NMS_IOU)
        variances = metric_variances(
            torch.from_numpy(found.log_variances), torch.from_numpy(found.boxes)
        ).numpy()
        found = _with(found, variances=variances)
        if stage2 is not None:
            count = stage1.config.refined_proposals
            chosen, rest = found.select(order[:count]), found.select(order[count:])
            lowered = (rest.scores**UNREFINED_SCORE_EXPONENT).astype(np.float32)
            found = _refine(stage2, chosen, frame, bev_features)
            found = found.concatenate(_with(rest, scores=lowered))
    return found.select(non_maximum_suppression(found.boxes, found.scores, nms_iou))


def _refine(
    stage2: BevFusionRefinement,
    chosen: BevDetections,
    frame: BevFusionFrame,
    bev_features: torch.Tensor,
) -> BevDetections:
    arrays = roi_inputs(chosen, frame, stage2.config)
    inputs = {n: torch.from_numpy(v[None]) for n, v in arrays.items()}
    outputs = stage2.refine({**inputs, "bev_features": bev_features})
    boxes = apply_residuals(inputs["boxes"], outputs.residuals)
    confidences = outputs.logits.sigmoid()[0].numpy()
    labels = confidences.argmax(axis=1)
    scores = combine_scores(chosen.scores, confidences.max(axis=1), labels == PEDESTRIAN)
    return BevDetections(
        boxes[0].numpy(),
        scores.astype(np.float32),
        labels,
        outputs.velocities[0].numpy(),
        metric_variances(outputs.log_variances, boxes)[0].numpy(),
        outputs.log_variances[0].numpy(),
    )


def _with(detections: BevDetections, **changes: NDArray) -> BevDetections:
    return BevDetections(**(vars(detections) | changes))
