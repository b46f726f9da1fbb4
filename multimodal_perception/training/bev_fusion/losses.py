"""Losses of the image networks and of both stages of the BEV fusion detector."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from multimodal_perception.detection.bev_fusion.network_config import (
    IMAGE_MODALITIES,
    VARIANCES,
    BevFusionNetworkConfig,
)
from multimodal_perception.networks.bev_fusion import (
    LOG_VARIANCE,
    MAX_LOG_VARIANCE,
    MIN_LOG_VARIANCE,
    VELOCITY,
    BevOutputs,
)
from multimodal_perception.networks.centre_head import BOX_CODE_SIZE
from multimodal_perception.training.bev_fusion.box_losses import (
    code_loss,
    heat_loss,
)
from multimodal_perception.training.bev_fusion.samples import SEGMENT_NAMES, UNKNOWN_SEGMENT
from multimodal_perception.training.loop import Losses

# Weights of the segmentation classes: rare and small ones have larger weights.
SEGMENT_WEIGHTS = {"background": 0.3, "vegetation": 0.6, "pole": 1.0, "car": 1.0}
RARE_SEGMENT_WEIGHT = 2.5
# Share of the target in each bin next to that of the true range, because its error is small.
RANGE_SMOOTHING = 0.1
# Squared errors relative to their variance are limited, so that wrong matches do not dominate.
MAX_SQUARED_ERROR = 400.0
# Weights of the parts of the first stage's loss.
BOX_WEIGHT, VELOCITY_WEIGHT, VARIANCE_WEIGHT = 0.5, 0.1, 0.02
HEAT_DISTILLATION_WEIGHT, FEATURE_DISTILLATION_WEIGHT = 2.0, 1.0


def range_loss(logits: Tensor, bins: Tensor) -> Tensor:
    """Cross entropy of range distributions (N, D, h, w) with true bins (N, h, w), -1 for unknown.

    The target has a share of RANGE_SMOOTHING in each neighbouring bin.
    """
    known = (bins >= 0).float()
    log_probability = logits.float().log_softmax(1)
    last = logits.shape[1] - 1
    loss = torch.zeros_like(known)
    for offset, share in (
        (0, 1 - 2 * RANGE_SMOOTHING),
        (-1, RANGE_SMOOTHING),
        (1, RANGE_SMOOTHING),
    ):
        index = (bins + offset).clamp(0, last)
        loss = loss - share * log_probability.gather(1, index[:, None])[:, 0]
    return (loss * known).sum() / known.sum().clamp(min=1.0)


def segment_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Weighted cross entropy of segments (N, C, h, w) with labels (N, h, w) uint8."""
    weights = logits.new_tensor(
        [SEGMENT_WEIGHTS.get(name, RARE_SEGMENT_WEIGHT) for name in SEGMENT_NAMES],
        dtype=torch.float32,
    )
    return F.cross_entropy(logits.float(), labels.long(), weights, ignore_index=UNKNOWN_SEGMENT)


def stage1_losses(outputs: BevOutputs, batch: dict[str, Tensor], cell: float) -> Losses:
    """Losses of the first stage.

    batch: targets by name, see stage1_targets, and frame_weight (B,). cell: of the map, metres.
    """
    frame_weight = batch["frame_weight"]
    weights = batch["weights"] * frame_weight[:, None]
    codes = at_cells(outputs.code, batch["centres"])
    velocity_weights = batch["velocity_weights"] * frame_weight[:, None]
    velocity_error = (codes[..., VELOCITY] - batch["velocities"]).abs().sum(-1) * velocity_weights
    count = weights.sum().clamp(min=1.0)
    losses = {
        "heat": heat_loss(outputs.heatmap, batch["heat"], frame_weight),
        "box": code_loss(
            outputs.code[:, :BOX_CODE_SIZE], batch["centres"], batch["codes"], weights
        ),
        "velocity": velocity_error.sum() / count,
    }
    error = box_errors(codes, batch["codes"], batch["velocities"], cell)
    known = batch["weights"][..., None].expand(error.shape)
    losses["variance"] = variance_loss(codes[..., LOG_VARIANCE], error, known)
    losses["total"] = (
        losses["heat"]
        + BOX_WEIGHT * losses["box"]
        + VELOCITY_WEIGHT * losses["velocity"]
        + VARIANCE_WEIGHT * losses["variance"]
    )
    return losses


def at_cells(code: Tensor, cells: Tensor) -> Tensor:
    """Values (B, M, C) of a map (B, C, H, W) at cells (B, M), row * W + column; float32."""
    flat = code.float().flatten(2)
    return flat.gather(2, cells[:, None].expand(-1, flat.shape[1], -1)).transpose(1, 2)


def box_errors(codes: Tensor, target: Tensor, velocities: Tensor, cell: float) -> Tensor:
    """Errors (B, M, VARIANCES) in the units of the log variances, without gradient.

    codes: (B, M, CODE_SIZE). target: (B, M, BOX_CODE_SIZE). cell: of the map, metres. The error of the
    yaw is that of the axis, so that a wrong front does not count.
    """
    codes = codes.detach()
    axis = torch.atan2(codes[..., 8], codes[..., 9]) - torch.atan2(target[..., 8], target[..., 9])
    axis = torch.atan2(axis.sin(), axis.cos()) / 2
    return torch.cat(
        [
            (codes[..., :2] - target[..., :2]) * cell,
            codes[..., 2:6] - target[..., 2:6],
            axis[..., None],
            codes[..., VELOCITY] - velocities,
        ],
        -1,
    )


def variance_loss(log_variance: Tensor, error: Tensor, weights: Tensor) -> Tensor:
    """Gaussian negative log likelihood (Kendall & Gal 2017, eq. 5) of errors without gradient.

    log_variance, error, weights: (..., VARIANCES). The mean is not trained by it, because its gradient
    would be small for objects with a large variance.
    """
    assert error.shape[-1] == VARIANCES
    clamped = log_variance.float().clamp(MIN_LOG_VARIANCE, MAX_LOG_VARIANCE)
    relative = (error.detach() ** 2 * (-clamped).exp()).clamp(max=MAX_SQUARED_ERROR)
    # Outside of the limits the gradient of `clamped` is zero; this term returns the values.
    excess = (log_variance.float() - clamped).abs()
    each = 0.5 * (relative + clamped) + excess
    return (each * weights).sum() / weights.sum().clamp(min=1.0)


def visible_cells(lifted: Tensor, config: BevFusionNetworkConfig) -> Tensor:
    """1 for cells (B, 1, S, S) that any image shows, else 0. lifted: (B, S * S, K), see lift_images."""
    last = [(m + 1) * config.modality_channels - 1 for m in range(len(IMAGE_MODALITIES))]
    visible = lifted[..., last].amax(-1)
    return visible.reshape(len(lifted), 1, config.lift_size, config.lift_size)


def distillation_losses(
    student: BevOutputs, teacher: BevOutputs, rows: Tensor, visible: Tensor | None = None
) -> Losses:
    """Differences of outputs for frames without LiDAR from those for the same frames with all sensors.

    teacher: outputs of the frames `rows` (T,) of the student's batch, without gradient. visible: (T, 1,
    S, S), 1 for cells that an image of the student shows; the student cannot detect the teacher's
    objects elsewhere, so other cells do not count. "heat_teacher" is the difference of the heatmaps,
    weighted with the larger one, so that empty cells do not dominate (after the response distillation
    of UniDistill, Zhou et al. 2023). "feature_teacher" is the difference of the BEV features at the
    cells where the teacher has objects.
    """
    heat = student.heatmap.float()[rows].sigmoid()
    target = teacher.heatmap.detach().float().sigmoid()
    weight = torch.maximum(heat.detach(), target)
    objects = target.amax(1, keepdim=True)
    if visible is not None:
        weight, objects = weight * visible, objects * visible
    difference = F.smooth_l1_loss(
        student.bev_features.float()[rows], teacher.bev_features.detach().float(), reduction="none"
    ).mean(1, keepdim=True)
    return {
        "heat_teacher": ((heat - target) ** 2 * weight).sum() / weight.sum().clamp(min=1.0),
        "feature_teacher": (difference * objects).sum() / objects.sum().clamp(min=1.0),
    }
