"""The second-stage head: confidences and box residuals of proposals from their RoI features."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from multimodal_perception.detection.fusion.roi_features import (
    CAR_LENGTH,
    FACE_FEATURES,
    GRID,
    PROFILE_FEATURES,
)
from multimodal_perception.networks.local_fusion import (
    GRID_POINT_FEATURES,
    GRID_POINTS,
    DynamicAggregation,
    LocalFusion,
    RoiImages,
)

# Features of a proposal after its class scores: log size (3), range, height, and the extents of its
# points (6); see compute_roi_features.
PROPOSAL_FEATURES = 11
RESIDUALS = 8  # of a box, see apply_residuals
# Width and top of the face (the end of the proposal towards the sensor) are encoded by Gaussian radial
# basis functions with centres in these ranges, metres: differences of centimetres, which distinguish a
# bus of 9 m from one of 12 m, have no effect otherwise.
FACE_WIDTH_RANGE, FACE_TOP_RANGE, RBF_CENTRES = (1.5, 2.7), (1.3, 3.9), 41
# The far end of a vehicle longer than CAR_LENGTH is shifted by one of END_BINS values up to this,
# metres.
MAX_END_SHIFT, END_BINS = 4.0, 33
# Sharpens the distribution over the shifts, so that their mean is close to the most likely one: with two
# likely lengths, the length between them is wrong.
END_SOFTMAX_SCALE = 3.0


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


def far_end_sign(towards: Tensor) -> Tensor:
    """1 if the far end of a box is its front, else -1.

    towards: cosine of the direction to the sensor in the box's frame.
    """
    return torch.where(towards < 0.0, 1.0, -1.0).to(towards.dtype)


def end_shifts(like: Tensor) -> Tensor:
    """The shifts (END_BINS,) of the far end, metres, with the device and dtype of `like`."""
    return torch.linspace(
        -MAX_END_SHIFT, MAX_END_SHIFT, END_BINS, device=like.device, dtype=like.dtype
    )


def expected_shift(end_logits: Tensor) -> Tensor:
    """Shift (..., 1) in metres from logits (..., END_BINS): their mean, sharpened towards the best."""
    probabilities = (END_SOFTMAX_SCALE * end_logits).softmax(-1)
    return (probabilities * end_shifts(end_logits)).sum(-1, keepdim=True)


def shift_far_end(residuals: Tensor, shift: Tensor, length: Tensor, profile: Tensor) -> Tensor:
    """Move the far end of boxes and keep the near end.

    residuals (..., 8) of proposals with length (..., 1); shift (..., 1), metres, positive lengthens.
    """
    x, yz, log_length, rest = residuals.split((1, 2, 1, 4), -1)
    old_length = length * log_length.clamp(-1.0, 1.0).exp()
    growth = (shift / old_length).clamp(min=-0.5)
    x = x + far_end_sign(profile[..., :1]) * growth * old_length / (2.0 * length)
    # Written so that a shift of zero changes nothing, not even by rounding.
    return torch.cat([x, yz, log_length + (1.0 + growth).log(), rest], -1)


def encode_face(face: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Width (..., 1) of a face (..., FACE_FEATURES), and radial basis functions of its width and top."""
    width, top = face[..., 3:4] - face[..., 2:3], face[..., 4:5]
    encoded = []
    for value, (low, high) in ((width, FACE_WIDTH_RANGE), (top, FACE_TOP_RANGE)):
        step = (high - low) / (RBF_CENTRES - 1)
        centres = torch.linspace(low, high, RBF_CENTRES, device=face.device)
        encoded.append((-(((value - centres) / step) ** 2)).exp())
    return width, encoded[0], encoded[1]


def apply_residuals(proposals: Tensor, residuals: Tensor) -> Tensor:
    """Boxes (..., 7) from proposals (..., 7) and residuals (..., 8) in each proposal's frame.

    Residuals: x, y, z as fractions of the size, log size (3), sine and cosine - 1 of the yaw difference.
    """
    yaw = proposals[..., 6]
    c, s = yaw.cos(), yaw.sin()
    size = proposals[..., 3:6]
    x, y = residuals[..., 0] * size[..., 0], residuals[..., 1] * size[..., 1]
    centre = torch.stack(
        [
            proposals[..., 0] + c * x - s * y,
            proposals[..., 1] + s * x + c * y,
            proposals[..., 2] + residuals[..., 2] * size[..., 2],
        ],
        -1,
    )
    rotation = torch.atan2(residuals[..., 6], 1.0 + residuals[..., 7])
    size = size * residuals[..., 3:6].clamp(-1.0, 1.0).exp()
    return torch.cat([centre, size, (yaw + rotation)[..., None]], -1)
