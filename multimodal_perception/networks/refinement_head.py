"""The second-stage head: confidences and box residuals of proposals from their RoI features."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from multimodal_perception.detection.bev_fusion.roi_features import (
    CAR_LENGTH,
    FACE_FEATURES,
    GRID,
    PROFILE_FEATURES,
)
from multimodal_perception.networks.box_residuals import (
    END_BINS,
    RBF_CENTRES,
    RESIDUALS,
    encode_face,
    expected_shift,
    shift_far_end,
)
from multimodal_perception.networks.dynamic_aggregation import (
    GRID_POINT_FEATURES,
    GRID_POINTS,
    DynamicAggregation,
)
from multimodal_perception.networks.local_fusion import (
    LocalFusion,
    RoiImages,
)

# Features of a proposal after its class scores: log size (3), range, height, and the extents of its
# points (6); see compute_roi_features.
PROPOSAL_FEATURES = 11


class RefinementOutput(NamedTuple):
    """Outputs for proposals of any shape (...).

    logits: (..., classes), of the confidences. residuals: (..., 8), of the boxes.
    residuals_without_end_shift: the residuals before the far end was shifted. end_logits:
    (..., END_BINS), of the shifts.
    """

    logits: Tensor
    residuals: Tensor
    residuals_without_end_shift: Tensor
    end_logits: Tensor


class RefinementHead(nn.Module):
    """Class-wise confidences and box residuals from fused RoI features.

    Features are pooled from the BEV map (Global Fusion). local: add Local Fusion. dynamic: combine both
    by Feature Dynamic Aggregation. A second small head corrects large vehicles from the extents and the
    profile of their points; see refine_dimensions.
    """

    def __init__(
        self,
        bev_channels: int,
        image_channels: int,
        classes: int,
        channels: int = 64,
        samples: int = 4,
        local: bool = True,
        dynamic: bool = True,
    ) -> None:
        super().__init__()
        self.classes, self.channels = classes, channels
        self.bev_projection = nn.Sequential(nn.Linear(bev_channels, channels), nn.ReLU())
        self.local_fusion = LocalFusion(channels, image_channels, samples) if local else None
        self.dynamic_aggregation = DynamicAggregation(channels) if dynamic else None
        self.reduce = nn.Linear(channels, 16)
        proposal = classes + PROPOSAL_FEATURES
        self.trunk = nn.Sequential(
            nn.Linear(GRID_POINTS * 16 + proposal, 192),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Linear(192, 192),
            nn.ReLU(),
        )
        self.confidence = nn.Linear(192, classes)
        self.residual = nn.Linear(192, RESIDUALS)
        nn.init.normal_(self.residual.weight, std=0.001)
        nn.init.zeros_(self.residual.bias)
        # Its inputs are metric and include the outputs of the first head, so that it can keep a measured
        # length and correct an assumed one. It applies only to large vehicles: for small objects it
        # overfits the simulator's shapes, which lowers the accuracy for real people and cars.
        inputs = proposal + 8 + PROFILE_FEATURES + classes + RESIDUALS + 1 + 2 * RBF_CENTRES
        last = nn.Linear(128, classes + RESIDUALS + END_BINS)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        layers = nn.Linear(inputs, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU()
        self.large_vehicle_head = nn.Sequential(*layers, last)

    def forward(
        self,
        bev: Tensor,
        roi_bev: Tensor,
        roi_grid: Tensor,
        proposals: Tensor,
        camera: RoiImages,
        thermal: RoiImages,
    ) -> tuple[Tensor, Tensor]:
        """Confidence logits (B, R, classes) and residuals (B, R, 8) from the fused features.

        bev (B, C, H, W); roi_bev (B, R, 36, 2): positions of the grid's columns in it, -1 to 1;
        roi_grid (B, R, 216, 7), heights innermost; proposals (B, R, classes + 11): class scores and
        PROPOSAL_FEATURES; camera, thermal: with (R, 216) grid points each.
        """
        batch, rois = roi_grid.shape[:2]
        pooled = F.grid_sample(bev.float(), roi_bev, align_corners=False)  # (B, C, R, 36)
        tokens = self.bev_projection(pooled.permute(0, 2, 3, 1))
        # The six grid points of a column have the same BEV features.
        tokens = tokens.repeat_interleave(GRID, dim=2)  # (B, R, 216, channels)
        if self.local_fusion is not None:
            flat = [
                images._replace(
                    sample_uv=images.sample_uv.reshape(batch, -1, 2),
                    valid=images.valid.reshape(batch, -1),
                )
                for images in (camera, thermal)
            ]
            grid = roi_grid.reshape(batch, -1, GRID_POINT_FEATURES)  # (B, R * 216, 7)
            tokens = tokens + self.local_fusion(grid, flat[0], flat[1]).reshape(tokens.shape)
        if self.dynamic_aggregation is not None:
            has_points = (roi_grid[..., 3] > 0.0).to(tokens.dtype)
            in_image = torch.maximum(camera.valid, thermal.valid).to(tokens.dtype)
            tokens = self.dynamic_aggregation(
                tokens.reshape(-1, GRID_POINTS, self.channels),
                roi_grid.reshape(-1, GRID_POINTS, GRID_POINT_FEATURES),
                torch.maximum(has_points, in_image).reshape(-1, GRID_POINTS),
            ).reshape(tokens.shape)
        x = self.reduce(tokens).reshape(batch, rois, -1)  # (B, R, 216 * 16)
        x = self.trunk(torch.cat([x, proposals], -1))  # (B, R, 192)
        return self.confidence(x), self.residual(x)

    def refine_dimensions(
        self, proposals: Tensor, profile: Tensor, logits: Tensor, residuals: Tensor
    ) -> RefinementOutput:
        """Correct the outputs of forward for large vehicles, from the extents and profile of points.

        proposals (..., classes + 11); profile (..., PROFILE_FEATURES); logits (..., classes) and
        residuals (..., 8) of forward. Proposals of at most CAR_LENGTH stay unchanged.
        """
        length, width, height = proposals[..., self.classes :][..., :3].exp().split(1, -1)
        # Extents along, across and up, from fractions of the size to metres.
        along, across, up = proposals[..., self.classes + 5 :][..., :5].split((2, 2, 1), -1)
        metres = [length, width, height, along * length, across * width, up * height]
        cells, face = profile.split((PROFILE_FEATURES - FACE_FEATURES, FACE_FEATURES), -1)
        first = logits.detach(), residuals.detach()
        inputs = torch.cat([proposals, *metres, cells, *first, face, *encode_face(face)], -1)
        more_logits, more_residuals, end_logits = self.large_vehicle_head(inputs).split(
            (self.classes, RESIDUALS, END_BINS), -1
        )
        large = (length > CAR_LENGTH).to(length.dtype)
        before_end = residuals + more_residuals * large
        shift = expected_shift(end_logits) * large
        shifted = shift_far_end(before_end, shift, length, profile)
        return RefinementOutput(logits + more_logits * large, shifted, before_end, end_logits)
