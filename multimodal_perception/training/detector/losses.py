"""Losses of the proposal network and of the refinement network on a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from multimodal_perception.detection.bev_fusion.pillars import RANGE_CHANNEL
from multimodal_perception.detection.bev_fusion.roi_features import PointIndex
from multimodal_perception.detection.fusion.network_config import (
    CLASSES,
    IMAGE_MODALITIES,
    DetectorConfig,
)
from multimodal_perception.detection.fusion.network_inputs import FEATURE_STRIDE, refinement_inputs
from multimodal_perception.networks.box_residuals import (
    apply_residuals,
)
from multimodal_perception.networks.fusion_detector import (
    ImageFeatures,
    ProposalNetwork,
    RefinementNetwork,
)
from multimodal_perception.networks.image_encoder import stack_feature_maps
from multimodal_perception.networks.refinement_head import RefinementOutput
from multimodal_perception.training.bev_fusion.box_losses import (
    code_loss,
    confidence_loss,
    ends_loss,
    heat_loss,
    residual_loss,
)
from multimodal_perception.training.bev_fusion.proposal_selection import (
    select_proposals,
    target_scores,
)
from multimodal_perception.training.detector.dataset import (
    SCALES,
    TrainingFrame,
)
from multimodal_perception.training.detector.gradient_balancing import (
    GradientBalancer,
)
from multimodal_perception.training.detector.refinement_targets import (
    Detections,
    JitteredRoiSampling,
    refinement_targets,
    supervised_mask,
)
from multimodal_perception.training.loop import Losses

Batch = tuple[dict[str, Tensor], Sequence[TrainingFrame]]


def loss_with_modalities(network: nn.Module, batch: Batch, modalities: frozenset[str]) -> Tensor:
    """The loss of the boxes when only some modalities (keys of modality_branches) are available.

    Without the LiDAR, the pillars are as detection.fusion.pillars makes them for frames without one:
    their position is known, their other features are zero.
    """
    tensors = dict(batch[0])
    if "lidar" not in modalities:
        empty = torch.zeros_like(tensors["pillars"])
        empty[..., RANGE_CHANNEL] = tensors["pillars"][..., RANGE_CHANNEL]
        tensors["pillars"] = empty
    if "images" not in modalities:
        for name in ("camera_valid", "thermal_valid"):
            tensors[name] = torch.zeros_like(tensors[name])
    # These passes must not change the statistics of batch normalisation.
    network.eval()
    losses = proposal_losses(network, (tensors, batch[1]), 0.0)
    network.train()
    return losses["total"]


def proposal_losses(
    network: nn.Module,
    batch: Batch,
    segmentation_weight: float,
    balancer: GradientBalancer | None = None,
) -> Losses:
    """Losses of the proposal network on a batch."""
    tensors = _to_device(batch[0], _device_of(network))
    assert isinstance(network, ProposalNetwork)
    feature_maps, segmentation = image_feature_maps(network, tensors)
    _, heat, code = network.bev_outputs(**bev_inputs(tensors, feature_maps))
    frame_weight = tensors["frame_weight"]
    weights = tensors["weights"] * frame_weight[:, None]
    losses = {
        "heat": heat_loss(heat, tensors["heat"], frame_weight),
        "box": code_loss(code, tensors["centres"], tensors["codes"], weights),
    }
    losses["total"] = losses["heat"] + 0.5 * losses["box"]
    if balancer is not None:
        tasks = {"heat": losses["heat"], "box": 0.5 * losses["box"]}
        shared = network.head.shared[0].weight
        assert isinstance(shared, Tensor)
        losses["total"] = balancer.total(tasks, shared)
    if segmentation is not None:
        losses["segmentation"] = segmentation
        losses["total"] = losses["total"] + segmentation_weight * segmentation
    return losses


def bev_inputs(
    tensors: dict[str, Tensor], feature_maps: tuple[Tensor, Tensor] | None
) -> dict[str, Any]:
    """The arguments of ProposalNetwork.bev_outputs for a batch."""
    inputs: dict[str, Any] = {n: tensors[n] for n in ("pillars", "pillar_cells", "ultrasonic_grid")}
    for modality, maps in zip(IMAGE_MODALITIES, feature_maps or (), strict=bool(feature_maps)):
        uv, valid = tensors[f"{modality}_uv"], tensors[f"{modality}_valid"]
        inputs[modality] = ImageFeatures(maps, uv, valid, tensors.get(f"{modality}_rays"))
    return inputs


def image_feature_maps(
    network: ProposalNetwork, tensors: dict[str, Tensor]
) -> tuple[tuple[Tensor, Tensor] | None, Tensor | None]:
    """Stacked feature maps of the camera and thermal images of a batch, and the segmentation loss.

    Missing images do not pass through the neck, so that they do not change the statistics of its batch
    normalisation; their feature maps are zero.
    """
    if not network.config.global_fusion:
        return None, None
    stacked, loss = [], tensors["pillars"].new_zeros(())
    for modality, neck, backbone in (
        ("camera", network.camera_neck, network.camera_trunk),
        ("thermal", network.thermal_neck, network.thermal_trunk),
    ):
        present = tensors[f"{modality}_present"]
        batch, count = present.shape
        segments = tensors[f"{modality}_segments"]
        assert neck is not None
        if bool(present.any()):
            if backbone is None:
                scales = [tensors[f"{modality}_{s}"][present].float() for s in SCALES]
            else:
                scales = backbone(tensors[f"{modality}_pixels"][present])
            features = neck(*scales)
            loss = loss + segmentation_loss(neck.segment(features), segments[present])
            maps = features.new_zeros(batch, count, *features.shape[1:])
            maps[present] = features
        else:
            channels, (h, w) = network.config.channels, segments.shape[-2:]
            maps = tensors["pillars"].new_zeros(batch, count, channels, 2 * h, 2 * w)
        stacked.append(stack_feature_maps(maps.flatten(0, 1), batch))
    return (stacked[0], stacked[1]), loss


@dataclass(frozen=True)
class RoiBatch:
    """Inputs and targets of the refinement network for R proposals of each of B frames.

    feature_maps: BEV map, and stacked feature maps of camera and thermal images. proposals: (B, R, 7).
    inputs: the other inputs by their names in RefinementNetwork.forward. matched_boxes: (B, R, 7)
    labelled boxes, the proposals themselves where there is none. target_labels: (B, R), classes of the
    labelled boxes from 0. positive_mask: (B, R), 1 for proposals with a labelled box. supervised_mask:
    (B, R), see supervised_mask(). frames: the frames of the batch.
    """

    feature_maps: tuple[Tensor, tuple[Tensor, Tensor]]
    proposals: Tensor
    inputs: dict[str, Tensor]
    matched_boxes: Tensor
    target_labels: Tensor
    positive_mask: Tensor
    supervised_mask: Tensor
    frames: Sequence[TrainingFrame]

    def target_scores(self, residuals: Tensor) -> Tensor:
        """Target scores (B, R, classes) of the proposals after residuals (B, R, 8) are applied."""
        boxes = apply_residuals(self.proposals, residuals.detach().float()).cpu().numpy()
        targets = [
            target_scores(b, f.boxes, f.labels, len(CLASSES))
            for b, f in zip(boxes, self.frames, strict=True)
        ]
        return _stack(targets, self.proposals)


def build_roi_batch(
    network: ProposalNetwork,
    device: torch.device,
    batch: Batch,
    rng: np.random.Generator,
    sampling: JitteredRoiSampling | None = None,
) -> RoiBatch:
    """Proposals of the proposal network for a batch, with the inputs and targets of the refinement."""
    sampling = sampling or JitteredRoiSampling()
    tensors, frames = _to_device(batch[0], device), batch[1]
    with torch.no_grad():
        feature_maps, _ = image_feature_maps(network, tensors)
        bev, heat, code = network.bev_outputs(**bev_inputs(tensors, feature_maps))
        scores, labels, boxes = (
            v.float().cpu().numpy() for v in network.decode_proposals(heat.float(), code.float())
        )
    if feature_maps is None:
        feature_maps = _empty_feature_maps(network.config, bev)
    half_extent = network.config.pillars.half_extent
    inputs, targets = [], []
    for k, frame in enumerate(frames):
        candidates: Detections = boxes[k], scores[k], labels[k].astype(np.int64)
        if sampling.jitter is not None:
            jittered = sampling.jitter(frame, candidates, rng)
            boxes_, scores_, labels_ = map(np.concatenate, zip(candidates, jittered, strict=True))
            candidates = boxes_, scores_, labels_
        selected = select_proposals(
            candidates[0], candidates[1], frame.boxes, frame.labels, rng, sampling
        )
        roi_boxes, roi_scores, roi_labels = (values[selected] for values in candidates)
        index = PointIndex.build(frame.points, half_extent)
        inputs.append(
            refinement_inputs(
                roi_boxes,
                roi_scores,
                roi_labels,
                len(CLASSES),
                index,
                frame.views,
                half_extent,
                frame.base_from_grid,
            )
        )
        target = refinement_targets(roi_boxes, frame.boxes, frame.labels)
        target["supervised_mask"] = supervised_mask(
            roi_boxes, target["positive_mask"], frame.labelled_cells, half_extent
        )
        targets.append(target)
    stacked_inputs = {n: _stack([i[n] for i in inputs], bev) for n in inputs[0]}
    stacked_targets = {n: _stack([t[n] for t in targets], bev) for n in targets[0]}
    proposals = stacked_inputs.pop("boxes")
    return RoiBatch(
        (bev, feature_maps), proposals, stacked_inputs, frames=frames, **stacked_targets
    )


def refinement_losses(
    proposal_network: ProposalNetwork, network: nn.Module, batch: Batch, rng: np.random.Generator
) -> Losses:
    """Losses of the refinement network on a batch. rng: selects the proposals."""
    assert isinstance(network, RefinementNetwork)
    rois = build_roi_batch(proposal_network, _device_of(network), batch, rng)
    output = network.refine(*rois.feature_maps, rois.inputs)
    return refinement_output_losses(
        output,
        rois.proposals,
        rois.matched_boxes,
        rois.positive_mask,
        rois.target_scores(output.residuals),
        rois.supervised_mask,
    )


def refinement_output_losses(
    output: RefinementOutput,
    proposals: Tensor,
    matched_boxes: Tensor,
    positive_mask: Tensor,
    target_scores: Tensor,
    supervised_mask: Tensor,
) -> Losses:
    """Losses of the output of the refinement. target_scores: (B, R, classes); others: see RoiBatch."""
    residual, corner = residual_loss(proposals, output.residuals, matched_boxes, positive_mask)
    confidence = confidence_loss(output.logits, target_scores, supervised_mask)
    ends = ends_loss(output, proposals, matched_boxes, positive_mask)
    losses = {"confidence": confidence, "residual": residual, "corner": corner, "ends": ends}
    return losses | {"total": confidence + residual + corner + 0.5 * ends}


def _empty_feature_maps(config: DetectorConfig, like: Tensor) -> tuple[Tensor, Tensor]:
    """Feature maps of zeros, for a proposal network without images."""
    shapes = (
        (max(config.cameras, 1), config.camera_size),
        (max(config.thermal_cameras, 1), config.thermal_size),
    )
    maps = [
        like.new_zeros(len(like), config.channels, n * (h // FEATURE_STRIDE), w // FEATURE_STRIDE)
        for n, (h, w) in shapes
    ]
    return maps[0], maps[1]


def _stack(arrays: Sequence[np.ndarray], like: Tensor) -> Tensor:
    return torch.from_numpy(np.stack(arrays)).to(like.device, torch.float32)


def _device_of(network: nn.Module) -> torch.device:
    return next(network.parameters()).device


def _to_device(tensors: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {n: t.to(device, non_blocking=True) for n, t in tensors.items()}


def segmentation_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy of the auxiliary segmentation, logits (N, C, h, w) and labels (N, h, w), 255
    unknown.

    Rare classes have larger weights.
    """
    weights = logits.new_ones(logits.shape[1], dtype=torch.float32)
    weights[0] = 0.3
    weights[2:4] = 3.0
    weights[6:] = 2.0
    labels = labels.long()
    if not bool((labels != 255).any()):
        return logits.sum() * 0.0
    return F.cross_entropy(logits.float(), labels, weights, ignore_index=255)
