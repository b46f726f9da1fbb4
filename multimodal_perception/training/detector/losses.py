"""Losses of the proposal network and of the refinement on a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from multimodal_perception.detection.fusion.network_config import (
    CLASSES,
    IMAGE_KINDS,
    DetectorConfig,
)
from multimodal_perception.detection.fusion.network_inputs import CELL_PIXELS, refinement_inputs
from multimodal_perception.detection.fusion.pillars import RANGE
from multimodal_perception.detection.fusion.roi_features import PointIndex
from multimodal_perception.networks.fusion_detector import (
    Images,
    ProposalNetwork,
    RefinementNetwork,
)
from multimodal_perception.networks.image_encoder import atlas_of
from multimodal_perception.networks.local_fusion import Refined, refined_boxes
from multimodal_perception.training.detector.dataset import (
    SCALES,
    Item,
)
from multimodal_perception.training.detector.gradient_balancing import (
    GradientCalibration,
)
from multimodal_perception.training.detector.proposal_selection import (
    Choice,
    Found,
    choose_proposals,
    confidences,
    judged,
    refinement_targets,
)
from multimodal_perception.training.detector.targets_and_losses import (
    code_loss,
    confidence_loss,
    ends_loss,
    heat_loss,
    residual_loss,
    segment_loss,
)
from multimodal_perception.training.loop import Losses

Batch = tuple[dict[str, Tensor], Sequence[Item]]


def masked_loss(network: nn.Module, batch: Batch, modalities: frozenset[str]) -> Tensor:
    """The loss of the boxes when only these of branches_of are there. Pillars without LiDAR are as
    preprocess.pillars makes them where only images tell: their place is known, nothing is in them."""
    tensors = dict(batch[0])
    if "lidar" not in modalities:
        empty = torch.zeros_like(tensors["pillars"])
        empty[..., RANGE] = tensors["pillars"][..., RANGE]
        tensors["pillars"] = empty
    if "images" not in modalities:
        for name in ("camera_seen", "thermal_seen"):
            tensors[name] = torch.zeros_like(tensors[name])
    # Batch norm must not count these passes.
    network.eval()
    losses = proposal_losses(network, (tensors, batch[1]), 0.0)
    network.train()
    return losses["total"]


def proposal_losses(
    network: nn.Module,
    batch: Batch,
    segment_weight: float,
    calibration: GradientCalibration | None = None,
) -> Losses:
    """Losses of the proposal network on a batch."""
    tensors = _placed(_device_of(network), batch[0])
    assert isinstance(network, ProposalNetwork)
    atlases, segments = image_atlases(network, tensors)
    _, heat, code = network.maps(**map_inputs(tensors, atlases))
    weights = tensors["weights"] * tensors["counts"][:, None]
    losses = {
        "heat": heat_loss(heat, tensors["heat"], tensors["counts"]),
        "box": code_loss(code, tensors["centres"], tensors["codes"], weights),
    }
    losses["total"] = losses["heat"] + 0.5 * losses["box"]
    if calibration is not None:
        tasks = {"heat": losses["heat"], "box": 0.5 * losses["box"]}
        shared = network.head.shared[0].weight
        assert isinstance(shared, Tensor)
        losses["total"] = calibration.total(tasks, shared)
    if segments is not None:
        losses["segments"] = segments
        losses["total"] = losses["total"] + segment_weight * segments
    return losses


def map_inputs(tensors: dict[str, Tensor], atlases: tuple[Tensor, Tensor] | None) -> dict[str, Any]:
    """What ProposalNetwork.maps takes, of a batch."""
    inputs: dict[str, Any] = {n: tensors[n] for n in ("pillars", "cells", "ultrasonic")}
    for kind, atlas in zip(IMAGE_KINDS, atlases or (), strict=bool(atlases)):
        places, seen = tensors[f"{kind}_places"], tensors[f"{kind}_seen"]
        inputs[kind] = Images(atlas, places, seen, tensors.get(f"{kind}_rays"))
    return inputs


def image_atlases(
    network: ProposalNetwork, tensors: dict[str, Tensor]
) -> tuple[tuple[Tensor, Tensor] | None, Tensor | None]:
    """Atlases of a batch, and the auxiliary loss. Images that are missing do not enter the neck, so
    that batch norm never counts them."""
    if not network.config.global_fusion:
        return None, None
    atlases, loss = [], tensors["pillars"].new_zeros(())
    for kind, neck, trunk in (
        ("camera", network.camera_neck, network.camera_trunk),
        ("thermal", network.thermal_neck, network.thermal_trunk),
    ):
        present = tensors[f"{kind}_present"]
        batch, count = present.shape
        segments = tensors[f"{kind}_segments"]
        assert neck is not None
        maps = None
        if bool(present.any()):
            if trunk is None:
                scales = [tensors[f"{kind}_{s}"][present].float() for s in SCALES]
            else:
                scales = trunk(tensors[f"{kind}_pixels"][present])
            found = neck(*scales)
            loss = loss + segment_loss(neck.segment(found), segments[present])
            maps = found.new_zeros(batch, count, *found.shape[1:])
            maps[present] = found
        else:
            channels, (h, w) = network.config.channels, segments.shape[-2:]
            maps = tensors["pillars"].new_zeros(batch, count, channels, 2 * h, 2 * w)
        atlases.append(atlas_of(maps.flatten(0, 1), batch))
    return (atlases[0], atlases[1]), loss


@dataclass(frozen=True)
class Refinable:
    """Proposals of a batch as the refinement takes them, and what it should make of them.

    maps: BEV map and atlases. proposals: (B, R, 7). said: the other inputs by the refinement's names.
    matched: (B, R, 7) labels, proposals where there is none; kinds: (B, R), their classes from 0; found:
    (B, R), 1 where there is one; judged: (B, R), see `judged`. items: the frames.
    """

    maps: tuple[Tensor, tuple[Tensor, Tensor]]
    proposals: Tensor
    said: dict[str, Tensor]
    matched: Tensor
    kinds: Tensor
    found: Tensor
    judged: Tensor
    items: Sequence[Item]

    def confidences(self, residuals: Tensor) -> Tensor:
        """What the confidences (B, R, classes) of boxes refined by residuals (B, R, 8) should be."""
        refined = refined_boxes(self.proposals, residuals.detach().float()).cpu().numpy()
        right = [
            confidences(b, i.boxes, i.labels) for b, i in zip(refined, self.items, strict=True)
        ]
        return _stack(right, self.proposals)


def refinable(
    first: ProposalNetwork, device: torch.device, batch: Batch, choice: Choice | None = None
) -> Refinable:
    """What the refinement is trained on: proposals of the first network for a batch."""
    choice = choice or Choice()
    tensors, items = _placed(device, batch[0]), batch[1]
    rng = np.random.default_rng(torch.initial_seed())  # the loop seeds each step
    with torch.no_grad():
        atlases, _ = image_atlases(first, tensors)
        bev, heat, code = first.maps(**map_inputs(tensors, atlases))
        scores, labels, boxes = (
            v.float().cpu().numpy() for v in first.proposals(heat.float(), code.float())
        )
    if atlases is None:
        atlases = _no_atlases(first.config, bev)
    inputs, targets = [], []
    for k, item in enumerate(items):
        pool: Found = boxes[k], scores[k], labels[k].astype(np.int64)
        if choice.guess is not None:
            guessed = choice.guess(item, pool, rng)
            boxes_, scores_, labels_ = map(np.concatenate, zip(pool, guessed, strict=True))
            pool = boxes_, scores_, labels_
        chosen = choose_proposals(pool[0], pool[1], item.boxes, item.labels, rng, choice)
        own, sure, kinds = (values[chosen] for values in pool)
        index = PointIndex.of(item.points, first.config.pillars.extent)
        extent = first.config.pillars.extent
        inputs.append(
            refinement_inputs(
                own, sure, kinds, len(CLASSES), index, item.views, extent, item.base_from_grid
            )
        )
        target = refinement_targets(own, item.boxes, item.labels)
        target["judged"] = judged(own, target["found"], item.labelled, extent)
        targets.append(target)
    said = {n: _stack([i[n] for i in inputs], bev) for n in inputs[0]}
    goal = {n: _stack([t[n] for t in targets], bev) for n in targets[0]}
    return Refinable((bev, atlases), said.pop("boxes"), said, items=items, **goal)


def refinement_losses(first: ProposalNetwork, network: nn.Module, batch: Batch) -> Losses:
    """Losses of the refinement on a batch, on proposals of the first network."""
    assert isinstance(network, RefinementNetwork)
    made = refinable(first, _device_of(network), batch)
    refined = network.refined(*made.maps, made.said)
    right = made.confidences(refined.residuals)
    return losses_of_refined(refined, made.proposals, made.matched, made.found, right, made.judged)


def losses_of_refined(
    refined: Refined,
    proposals: Tensor,
    matched: Tensor,
    found: Tensor,
    right: Tensor,
    judged: Tensor,
) -> Losses:
    """Losses of what is refined, its confidences against right ones (B, R, classes); the rest as
    Refinable has it."""
    near, corner = residual_loss(proposals, refined.residuals, matched, found)
    sure = confidence_loss(refined.logits, right, judged)
    ends = ends_loss(refined, proposals, matched, found)
    losses = {"confidence": sure, "residual": near, "corner": corner, "ends": ends}
    return losses | {"total": sure + near + corner + 0.5 * ends}


def _no_atlases(config: DetectorConfig, like: Tensor) -> tuple[Tensor, Tensor]:
    shapes = (
        (max(config.cameras, 1), config.camera_size),
        (max(config.thermals, 1), config.thermal_size),
    )
    made = [
        like.new_zeros(len(like), config.channels, n * (h // CELL_PIXELS), w // CELL_PIXELS)
        for n, (h, w) in shapes
    ]
    return made[0], made[1]


def _stack(arrays: Sequence[np.ndarray], like: Tensor) -> Tensor:
    return torch.from_numpy(np.stack(arrays)).to(like.device, torch.float32)


def _device_of(network: nn.Module) -> torch.device:
    return next(network.parameters()).device


def _placed(device: torch.device, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n: t.to(device, non_blocking=True) for n, t in tensors.items()}
