"""Stage refinement: the second stage of the detector, on the proposals of a frozen first stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from multimodal_perception.detection.bev_fusion.boxes import BevDetections
from multimodal_perception.detection.bev_fusion.network_config import (
    CLASSES,
    VARIANCES,
    BevFusionNetworkConfig,
)
from multimodal_perception.detection.bev_fusion.network_inputs import refinement_arrays
from multimodal_perception.detection.bev_fusion.roi_features import PointIndex
from multimodal_perception.networks.bev_fusion import BevFusionNetwork
from multimodal_perception.networks.bev_fusion_refinement import BevFusionRefinement
from multimodal_perception.networks.box_residuals import apply_residuals
from multimodal_perception.training.bev_fusion.box_losses import (
    confidence_loss,
    ends_loss,
    residual_loss,
)
from multimodal_perception.training.bev_fusion.configuration import BevFusionTraining
from multimodal_perception.training.bev_fusion.dataset import Batch, BevFusionFrame, collate
from multimodal_perception.training.bev_fusion.losses import (
    VARIANCE_WEIGHT,
    VELOCITY_WEIGHT,
    variance_loss,
)
from multimodal_perception.training.bev_fusion.proposal_selection import (
    RoiSampling,
    match_proposals,
    nearest_boxes,
    select_proposals,
)
from multimodal_perception.training.bev_fusion.proposal_selection import (
    target_scores as overlap_scores,
)
from multimodal_perception.training.bev_fusion.stage_weights import (
    WEIGHTS,
    load_encoders,
    load_stage1,
)
from multimodal_perception.training.bev_fusion.train_stage1 import open_frames, to_device
from multimodal_perception.training.checkpoint import load_matching_weights, save_weights
from multimodal_perception.training.loop import Loop, Losses

# Matching distances of the nuScenes metrics; the target score rises linearly between them.
DISTANCES, DISTANCE_SCORES = (0.0, 0.5, 1.0, 2.0, 4.0), (1.0, 1.0, 0.75, 0.5, 0.0)
# Without LiDAR, a proposal whose centre is this close to a labelled box of any class is positive: the 3D
# IoU is mostly zero there. Metres.
WITHOUT_LIDAR_MATCH = 2.0
NMS_IOU_WITH_LIDAR, NMS_IOU_WITHOUT_LIDAR = 0.7, 0.4


@dataclass(frozen=True)
class RoiBatch:
    """Inputs and targets of the second stage for R proposals of each of B frames.

    inputs: by name. matched_boxes (B, R, 7): the labelled box of each proposal, or the proposal itself
    if there is none. velocities (B, R, 2) and positive_mask (B, R): of the labelled boxes. frame_weight
    (B,): of the box losses. frames: of the batch.
    """

    inputs: dict[str, Tensor]
    matched_boxes: Tensor
    velocities: Tensor
    positive_mask: Tensor
    frame_weight: Tensor
    frames: Sequence[BevFusionFrame]


def train_refinement(
    config: BevFusionTraining, data: Path, out: Path, start: Sequence[Path] = ()
) -> BevFusionRefinement:
    """Train the second stage on a folder of samples, or resume the training in `out`.

    start: weights of the image networks and of the first stage, which do not change, and those of a
    second stage as initial weights. Raises UserError.
    """
    torch.manual_seed(config.loop.seed)
    stage1 = load_stage1(config.network, start)
    frames = open_frames(config, data, load_encoders(config.network, start))
    network = BevFusionRefinement(config.network)
    for path in start:
        if path.name == WEIGHTS["refinement"]:
            load_matching_weights(network, path)
    loop = Loop(network, frames, collate, config.loop, out)
    stage1.to(loop.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def compute_losses(module: nn.Module, batch: Batch, rng: np.random.Generator) -> Losses:
        rois = build_roi_batch(stage1, batch, rng, config.rois_per_frame)
        return refinement_losses(module, rois)

    loop.run(compute_losses)
    if loop.rank == 0:
        save_weights(network, out / WEIGHTS["refinement"])
    return network


def propose(
    stage1: BevFusionNetwork, tensors: dict[str, Tensor]
) -> tuple[Tensor, list[BevDetections]]:
    """BEV features (B, C, S, S), and the proposals of each frame of a batch."""
    with torch.no_grad():
        outputs = stage1.bev_outputs(tensors)
        proposals = stage1.decode(outputs.heatmap.float(), outputs.code.float())
    parts = [p.float().cpu().numpy() for p in proposals]
    scores, labels, boxes, velocities, log_variances = parts
    return outputs.bev_features.float(), [
        BevDetections(
            boxes[k], scores[k], labels[k].astype(np.int64), velocities[k],
            np.zeros_like(log_variances[k]), log_variances[k],
        )
        for k in range(len(scores))
    ]  # fmt: skip


def build_roi_batch(
    stage1: BevFusionNetwork, batch: Batch, rng: np.random.Generator, rois_per_frame: int
) -> RoiBatch:
    """Selected proposals of the first stage for a batch, with inputs and targets of the second."""
    device = next(stage1.parameters()).device
    bev_features, detections = propose(stage1, to_device(batch[0], device))
    config, inputs, targets = stage1.config, [], []
    for frame, found in zip(batch[2], detections, strict=True):
        nms = NMS_IOU_WITH_LIDAR if frame.has_lidar else NMS_IOU_WITHOUT_LIDAR
        objects = frame.objects
        selected = found.select(
            select_proposals(
                found.boxes, found.scores, objects.boxes, objects.labels, rng,
                RoiSampling(rois_per_frame, nms), 0.0 if frame.has_lidar else WITHOUT_LIDAR_MATCH,
            )
        )  # fmt: skip
        inputs.append(roi_inputs(selected, frame, config))
        targets.append(roi_targets(selected.boxes, frame))
    stacked = {n: torch.from_numpy(np.stack([i[n] for i in inputs])).to(device) for n in inputs[0]}
    matched = {
        n: torch.from_numpy(np.stack([t[n] for t in targets])).to(device) for n in targets[0]
    }
    return RoiBatch(
        {**stacked, "bev_features": bev_features},
        frame_weight=batch[0]["frame_weight"].to(device),
        frames=batch[2],
        **matched,
    )


def roi_inputs(
    proposals: BevDetections, frame: BevFusionFrame, config: BevFusionNetworkConfig
) -> dict[str, NDArray[np.float32]]:
    """Inputs of the second stage for the proposals of a frame, without the BEV features."""
    return refinement_arrays(
        proposals.boxes,
        proposals.scores,
        proposals.labels,
        proposals.velocities,
        proposals.log_variances,
        len(CLASSES),
        PointIndex.build(frame.points, config.pillars.half_extent),
        frame.images,
        config,
    )


def roi_targets(
    proposals: NDArray[np.float32], frame: BevFusionFrame
) -> dict[str, NDArray[np.float32]]:
    """matched_boxes (R, 7), velocities (R, 2) and positive_mask (R,) of proposals (R, 7)."""
    objects = frame.objects
    distance = 0.0 if frame.has_lidar else WITHOUT_LIDAR_MATCH
    best, positive = match_proposals(proposals, objects.boxes, distance)
    matched, velocities = proposals.copy(), np.zeros((len(proposals), 2), np.float32)
    matched[positive] = objects.boxes[best[positive]]
    velocities[positive] = objects.velocities[best[positive]]
    return {
        "matched_boxes": matched,
        "velocities": velocities,
        "positive_mask": positive.astype(np.float32),
    }


def target_scores(
    refined: NDArray[np.float32], boxes: NDArray[np.float32], labels: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Target scores (R, classes) of refined boxes (R, 7).

    In the class of the labelled box, the mean of two scores: the soft target of the 3D IoU (LoGoNet,
    section 3.5), and a score that falls linearly between the matching distances of the nuScenes metrics.
    The second one also distinguishes boxes in frames without LiDAR, which seldom overlap with their
    label. Of the boxes that do not overlap with their label, only the nearest one has the second score:
    the others are duplicates, which non-maximum suppression does not remove.
    """
    targets = 0.5 * overlap_scores(refined, boxes, labels, len(CLASSES))
    if len(boxes):
        nearest, distance = nearest_boxes(refined, boxes)
        rows = np.arange(len(refined))
        own = labels[nearest]
        # Of each label, the box nearest to it: the first one of its rows by increasing distance.
        order = np.argsort(distance, kind="stable")
        _, first = np.unique(nearest[order], return_index=True)
        counts = targets[rows, own] > 0
        counts[order[first]] = True
        score = np.interp(distance, DISTANCES, DISTANCE_SCORES)
        targets[rows, own] += np.where(counts, 0.5 * score, 0.0)
    return targets.astype(np.float32)


def refinement_losses(network: nn.Module, rois: RoiBatch) -> Losses:
    """Losses of the second stage."""
    assert isinstance(network, BevFusionRefinement)
    outputs = network.refine(rois.inputs)
    proposals, matched, positive = rois.inputs["boxes"], rois.matched_boxes, rois.positive_mask
    # Positions without LiDAR are inaccurate: with the same weight, their large losses would dominate.
    weights = positive * rois.frame_weight[:, None]
    residual, corner = residual_loss(proposals, outputs.residuals, matched, weights)
    refined = apply_residuals(proposals, outputs.residuals.detach().float())
    numpy_boxes = refined.cpu().numpy()
    scores = [
        target_scores(b, f.objects.boxes, f.objects.labels)
        for b, f in zip(numpy_boxes, rois.frames, strict=True)
    ]
    target = torch.from_numpy(np.stack(scores)).to(proposals.device)
    observed = proposals.new_tensor([float(f.has_lidar) for f in rois.frames])[:, None]
    velocity_weight = positive * (0.1 + 0.9 * observed)
    velocity = F.l1_loss(outputs.velocities.float(), rois.velocities, reduction="none").sum(-1)
    losses = {
        "confidence": confidence_loss(outputs.logits, target, torch.ones_like(positive)),
        "residual": residual,
        "corner": corner,
        # Only of frames with LiDAR, in which the points are on the near end of a large vehicle.
        "ends": ends_loss(outputs, proposals, matched, positive * observed),
        "velocity": (velocity * velocity_weight).sum() / velocity_weight.sum().clamp(min=1.0),
        "variance": variance_loss(
            outputs.log_variances,
            refined_errors(refined, outputs.velocities, matched, rois.velocities),
            positive[..., None].expand(*positive.shape, VARIANCES),
        ),
    }
    losses["total"] = (
        losses["confidence"]
        + residual
        + corner
        + 0.5 * losses["ends"]
        + VELOCITY_WEIGHT * losses["velocity"]
        + VARIANCE_WEIGHT * losses["variance"]
    )
    return losses


def refined_errors(
    refined: Tensor, velocities: Tensor, matched: Tensor, true_velocities: Tensor
) -> Tensor:
    """Errors (B, R, VARIANCES) of refined boxes (B, R, 7), in the units of the log variances."""
    yaw = refined[..., 6:] - matched[..., 6:]
    return torch.cat(
        [
            refined[..., :3] - matched[..., :3],
            (refined[..., 3:6] / matched[..., 3:6].clamp(min=0.05)).log(),
            torch.atan2((2 * yaw).sin(), (2 * yaw).cos()) / 2,
            velocities.detach().float() - true_velocities,
        ],
        -1,
    )
