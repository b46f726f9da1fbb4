"""Second stage of the BEV fusion detector: refines proposals from their RoI features.

Local Fusion and Feature Dynamic Aggregation after LoGoNet (Li et al. 2023, sections 3.3 and 3.4). The
image features of the RoI grid points are sampled outside the network and averaged over all images that
show a point, so that any number of images fits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from multimodal_perception.detection.bev_fusion.network_config import (
    CLASSES,
    IMAGE_MODALITIES,
    VARIANCES,
    BevFusionNetworkConfig,
)
from multimodal_perception.detection.bev_fusion.network_inputs import (
    LOG_VARIANCE_SCALE,
    PROPOSAL_FEATURES,
    stage2_inputs,
)
from multimodal_perception.detection.bev_fusion.roi_features import (
    CAR_LENGTH,
    EXTENT_FEATURES,
    FACE_FEATURES,
    GRID,
    PROFILE_FEATURES,
)
from multimodal_perception.networks.bev_fusion import (
    MAX_LOG_VARIANCE,
    MIN_LOG_VARIANCE,
    metric_variances,
    read_settings,
)
from multimodal_perception.networks.box_residuals import (
    END_BINS,
    RBF_CENTRES,
    RESIDUALS,
    apply_residuals,
    encode_face,
    expected_shift,
    shift_far_end,
)
from multimodal_perception.networks.dynamic_aggregation import (
    GRID_POINT_FEATURES,
    GRID_POINTS,
    DynamicAggregation,
)

HIDDEN = 192
# Class scores of proposals are limited to this distance from 0 and 1 before their logit is taken.
MIN_SCORE = 0.01


class RefinementOutputs(NamedTuple):
    """Outputs for proposals (B, R).

    logits: (B, R, classes), of the confidences. residuals: (B, R, 8), of the boxes (see
    apply_residuals). residuals_without_end_shift: the residuals before the far end was shifted.
    end_logits: (B, R, END_BINS), of the shifts. velocities: (B, R, 2) refined. log_variances:
    (B, R, 9), see BevOutputs.
    """

    logits: Tensor
    residuals: Tensor
    residuals_without_end_shift: Tensor
    end_logits: Tensor
    velocities: Tensor
    log_variances: Tensor


class BevFusionRefinement(nn.Module):
    """Stage 2: proposals, the BEV map and RoI features to confidences, boxes, velocities, variances.

    Works with points only, with images only, and with neither (then from the BEV map). All outputs are
    changes of the proposals, so that an untrained network keeps their classes, scores, boxes, velocities
    and variances.
    """

    def __init__(self, config: BevFusionNetworkConfig) -> None:
        super().__init__()
        self.config = c = config
        self.inputs = tuple(stage2_inputs(c, len(CLASSES)))
        channels, classes = c.roi_channels, len(CLASSES)
        self.bev_projection = nn.Sequential(nn.Linear(c.neck_channels, channels), nn.ReLU())
        self.local_fusion = (
            SampledLocalFusion(channels, c.sample_channels) if c.local_fusion else None
        )
        self.dynamic_aggregation = DynamicAggregation(channels) if c.dynamic_aggregation else None
        self.reduce = nn.Linear(channels, 16)
        proposal = classes + PROPOSAL_FEATURES
        self.trunk = nn.Sequential(
            nn.Linear(GRID_POINTS * 16 + proposal, HIDDEN),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Linear(HIDDEN, HIDDEN),
            nn.ReLU(),
        )
        self.confidence = nn.Linear(HIDDEN, classes)
        # Residuals of the box, change of the velocity, change of the log variances.
        self.residual = nn.Linear(HIDDEN, RESIDUALS + 2 + VARIANCES)
        for layer in (self.confidence, self.residual):
            nn.init.normal_(layer.weight, std=0.001)
            nn.init.zeros_(layer.bias)
        # Metric inputs, only for large vehicles.
        inputs = proposal + 8 + PROFILE_FEATURES + classes + RESIDUALS + 1 + 2 * RBF_CENTRES
        last = nn.Linear(128, classes + RESIDUALS + END_BINS)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        layers = nn.Linear(inputs, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU()
        self.large_vehicle_head = nn.Sequential(*layers, last)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Refine the proposals of one frame; this is the exported function.

        tensors: the inputs of stage2_inputs, in that order. Returns confidences (B, R, classes),
        refined_boxes (B, R, 7), refined_velocities (B, R, 2) and refined_variances (B, R, 9) in m^2,
        rad^2 and m^2/s^2.
        """
        inputs = dict(zip(self.inputs, tensors, strict=True))
        outputs = self.refine(inputs)
        boxes = apply_residuals(inputs["boxes"], outputs.residuals)
        variances = metric_variances(outputs.log_variances, boxes)
        return outputs.logits.sigmoid(), boxes, outputs.velocities, variances

    def refine(self, inputs: Mapping[str, Tensor]) -> RefinementOutputs:
        """Refine proposals. inputs: by name, see stage2_inputs, of any batch size."""
        grid, proposals = inputs["roi_grid"], inputs["proposal_features"]
        batch, rois = grid.shape[:2]
        pooled = F.grid_sample(
            inputs["bev_features"].float(), inputs["roi_bev"], align_corners=False
        )  # (B, C, R, 36)
        tokens = self.bev_projection(pooled.permute(0, 2, 3, 1))
        # The six grid points of a column have the same BEV features.
        tokens = tokens.repeat_interleave(GRID, dim=2)  # (B, R, 216, channels)
        valid = (grid[..., 3] > 0.0).to(tokens.dtype)  # the grid point has LiDAR points
        if self.local_fusion is not None:
            images = inputs["roi_images"]
            tokens = tokens + self.local_fusion(grid, images)
            last = self.config.sample_channels - 1
            shown = torch.maximum(images[..., last], images[..., -1])
            valid = torch.maximum(valid, shown.to(tokens.dtype))
        if self.dynamic_aggregation is not None:
            channels = tokens.shape[-1]
            tokens = self.dynamic_aggregation(
                tokens.reshape(-1, GRID_POINTS, channels),
                grid.reshape(-1, GRID_POINTS, GRID_POINT_FEATURES),
                valid.reshape(-1, GRID_POINTS),
            ).reshape(tokens.shape)
        x = self.reduce(tokens).reshape(batch, rois, -1)  # (B, R, 216 * 16)
        x = self.trunk(torch.cat([x, proposals], -1))
        residuals, velocity_change, variance_change = self.residual(x).split(
            (RESIDUALS, 2, VARIANCES), -1
        )
        logits = score_logits(proposals[..., : len(CLASSES)]) + self.confidence(x)
        first_log_variances = proposals[..., -VARIANCES:] * LOG_VARIANCE_SCALE
        log_variances = (first_log_variances + variance_change).clamp(
            MIN_LOG_VARIANCE, MAX_LOG_VARIANCE
        )
        return RefinementOutputs(
            *self._refine_large(proposals, inputs["roi_profile"], logits, residuals),
            inputs["velocities"] + velocity_change,
            log_variances,
        )

    def _refine_large(
        self, proposals: Tensor, profile: Tensor, logits: Tensor, residuals: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Correct large vehicles from the extents and the profile of their points.

        Proposals of at most CAR_LENGTH stay unchanged. See box_residuals for the shift of the far end.
        """
        classes = len(CLASSES)
        length, width, height = proposals[..., classes : classes + 3].exp().split(1, -1)
        extents = proposals[..., classes + 5 : classes + 5 + EXTENT_FEATURES]
        along, across, up, _ = extents.split((2, 2, 1, 1), -1)
        metres = [length, width, height, along * length, across * width, up * height]
        cells, face = profile.split((PROFILE_FEATURES - FACE_FEATURES, FACE_FEATURES), -1)
        first = logits.detach(), residuals.detach()
        inputs = torch.cat([proposals, *metres, cells, *first, face, *encode_face(face)], -1)
        more_logits, more_residuals, end_logits = self.large_vehicle_head(inputs).split(
            (classes, RESIDUALS, END_BINS), -1
        )
        large = (length > CAR_LENGTH).to(length.dtype)
        before_end = residuals + more_residuals * large
        shift = expected_shift(end_logits) * large
        shifted = shift_far_end(before_end, shift, length, profile)
        return logits + more_logits * large, shifted, before_end, end_logits


def score_logits(scores: Tensor) -> Tensor:
    """Logits of class scores of any shape; float32."""
    limited = scores.float().clamp(MIN_SCORE, 1.0 - MIN_SCORE)
    return limited.log() - (1.0 - limited).log()


STAGE2_OUTPUTS = ("confidences", "refined_boxes", "refined_velocities", "refined_variances")


class SampledLocalFusion(nn.Module):
    """Point and image features of each RoI grid point (Local Fusion, LoGoNet, section 3.3).

    Position-decorated point features (eq. 4), to which the image features at the projected grid point
    are added. Grid points that no image of a modality shows keep their features.
    """

    def __init__(self, channels: int, sample_channels: int) -> None:
        super().__init__()
        self.sample_channels = sample_channels
        self.position = nn.Sequential(
            nn.Linear(GRID_POINT_FEATURES, 32), nn.LayerNorm(32), nn.ReLU(), nn.Linear(32, channels)
        )
        self.images = nn.ModuleList(
            [nn.Linear(sample_channels, channels) for _ in IMAGE_MODALITIES]
        )
        self.norms = nn.ModuleList([nn.LayerNorm(channels) for _ in IMAGE_MODALITIES])
        self.out = nn.Sequential(nn.Linear(channels, channels), nn.ReLU())

    def forward(self, grid: Tensor, images: Tensor) -> Tensor:
        """grid (..., 7), images (..., 2 * sample_channels) -> (..., channels)."""
        local = self.position(grid)
        parts = images.split(self.sample_channels, -1)
        for layer, norm, part in zip(self.images, self.norms, parts, strict=True):
            fused = norm(local + layer(part))
            local = local + part[..., -1:] * (fused - local)
        return self.out(local)


def build_refinement(settings: Mapping[str, Any]) -> BevFusionRefinement:
    """Build the refinement network from a card's settings, without weights."""
    return BevFusionRefinement(read_settings(settings))
