"""Local Fusion and Feature Dynamic Aggregation (LoGoNet, Li et al. 2023, sections 3.3 and 3.4)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from multimodal_perception.networks.deformable import DeformableAttention

GRID = 6
POINTS = GRID**3
# Of a grid point: its place in the box (3), log10(points in its cell + 0.5), their mean's place (3).
POSITION = 7
# Of a proposal beside its scores by class: log size (3), range, height, and how far returns reach in it
# (6, see preprocess.proposals).
PROPOSAL = 11
# Numbers of a proposal's outline, see there too.
OUTLINE = 102


class LocalFusion(nn.Module):
    """Grid points of each proposal: what lies in their cells, and what images see at their middle.

    The position-decorated features of eq. 4; deformable sampling as in Global Fusion.
    """

    def __init__(self, channels: int, image_channels: int, samples: int = 4) -> None:
        super().__init__()
        self.position = nn.Sequential(
            nn.Linear(POSITION, 32), nn.LayerNorm(32), nn.ReLU(), nn.Linear(32, channels)
        )
        sizes = channels, image_channels, channels
        self.camera = DeformableAttention(*sizes, points=samples)
        self.infrared = DeformableAttention(*sizes, points=samples)
        self.norm = nn.ModuleList([nn.LayerNorm(channels) for _ in range(2)])
        self.out = nn.Sequential(nn.Linear(channels, channels), nn.ReLU())

    def forward(
        self,
        grid: Tensor,
        camera: tuple[Tensor, Tensor, Tensor, int],
        infrared: tuple[Tensor, Tensor, Tensor, int],
    ) -> Tensor:
        """grid (B, R * 216, 7) -> (B, R * 216, C).

        camera, infrared: atlas (B, D, images * h, w), places (B, R * 216, 2), seen (B, R * 216) and the
        number of images.
        """
        local = self.position(grid)
        for attention, norm, (atlas, places, seen, images) in zip(
            (self.camera, self.infrared), self.norm, (camera, infrared), strict=True
        ):
            fused = norm(local + attention(local, atlas, places, images))
            local = local + seen[..., None] * (fused - local)
        return self.out(local)


class DynamicAggregation(nn.Module):
    """Self-attention over a proposal's grid between globally and locally fused features (eq. 6 to 8).

    Cells with nothing in them, by points or images, are not looked at. What it adds begins at nothing:
    it can go on from what was trained without it.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.position = nn.Sequential(
            nn.Linear(4, channels // 2), nn.ReLU(), nn.Linear(channels // 2, channels)
        )
        self.query_key_value = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        self.norms = nn.ModuleList([nn.LayerNorm(channels) for _ in range(2)])
        self.feed_forward = nn.Sequential(
            nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, channels)
        )
        nn.init.zeros_(self.norms[1].weight)  # type: ignore[arg-type]

    def forward(self, tokens: Tensor, grid: Tensor, told: Tensor) -> Tensor:
        """tokens (R, 216, C), grid (R, 216, 7), told (R, 216): 1 where something is -> (R, 216, C)."""
        x = tokens + self.position(grid[..., :4])
        # One layer by name, three to run: parting its output would copy all of it.
        layer, count = self.query_key_value, tokens.shape[-1]
        query, key, value = (
            F.linear(x, layer.weight[k : k + count], layer.bias[k : k + count])
            for k in range(0, 3 * count, count)
        )
        scores = query @ key.transpose(1, 2) / query.shape[-1] ** 0.5
        scores = scores + (told[:, None] - 1.0) * 1e4
        x = self.norms[0](x + self.out(scores.softmax(-1) @ value))
        return tokens + self.norms[1](x + self.feed_forward(x))


class RefinementHead(nn.Module):
    """Proposals refined: class-wise confidences and box residuals.

    global_fusion features are RoI-pooled from the BEV map. local: add Local Fusion. dynamic: weigh both
    by Feature Dynamic Aggregation.
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
        self.pooled = nn.Sequential(nn.Linear(bev_channels, channels), nn.ReLU())
        self.local = LocalFusion(channels, image_channels, samples) if local else None
        self.dynamic = DynamicAggregation(channels) if dynamic else None
        self.narrow = nn.Linear(channels, 16)
        proposal = classes + PROPOSAL
        self.trunk = nn.Sequential(
            nn.Linear(POINTS * 16 + proposal, 192),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Linear(192, 192),
            nn.ReLU(),
        )
        self.confidence = nn.Linear(192, classes)
        self.residual = nn.Linear(192, 8)
        nn.init.normal_(self.residual.weight, std=0.001)
        nn.init.zeros_(self.residual.bias)
        # What the reach in metres tells of the box, from nothing on. It knows what has been said so far:
        # a length guessed is to be put right, one that was seen to be left.
        told = proposal + 8 + classes + 8
        ends = nn.Linear(64, 8)
        nn.init.zeros_(ends.weight)
        nn.init.zeros_(ends.bias)
        self.ends = nn.Sequential(nn.Linear(told, 64), nn.ReLU(), ends)
        # Centimetres of the outline tell a bus of 9 m from one of 12: counts by cells say so to a layer
        # more sharply than lengths do. From nothing on as well.
        last = nn.Linear(128, classes + 8)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.outline = nn.Sequential(nn.Linear(told + OUTLINE, 128), nn.ReLU(), last)

    def forward(
        self,
        bev: Tensor,
        roi_bev: Tensor,
        roi_grid: Tensor,
        proposals: Tensor,
        outlines: Tensor,
        camera: tuple[Tensor, Tensor, Tensor, int],
        infrared: tuple[Tensor, Tensor, Tensor, int],
    ) -> tuple[Tensor, Tensor]:
        """Confidence logits (B, R, classes) and residuals (B, R, 8).

        bev (B, C, H, W); roi_bev (B, R, 36, 2): places of the grid's columns in it, -1 to 1;
        roi_grid (B, R, 216, 7), heights innermost; proposals (B, R, classes + 11): score by class and
        PROPOSAL; outlines (B, R, OUTLINE).
        """
        batch, rois = roi_grid.shape[:2]
        pooled = F.grid_sample(bev.float(), roi_bev, align_corners=False)  # (B, C, R, 36)
        tokens = self.pooled(pooled.permute(0, 2, 3, 1))
        tokens = tokens.repeat_interleave(GRID, dim=2)  # heights share their column's
        if self.local is not None:
            flat = [
                (atlas, places.reshape(batch, -1, 2), seen.reshape(batch, -1), images)
                for atlas, places, seen, images in (camera, infrared)
            ]
            found = self.local(roi_grid.reshape(batch, -1, POSITION), flat[0], flat[1])
            tokens = tokens + found.reshape(tokens.shape)
        if self.dynamic is not None:
            filled = (roi_grid[..., 3] > 0.0).to(tokens.dtype)
            told = torch.maximum(filled, torch.maximum(camera[2], infrared[2]).to(tokens.dtype))
            tokens = self.dynamic(
                tokens.reshape(-1, POINTS, self.channels),
                roi_grid.reshape(-1, POINTS, POSITION),
                told.reshape(-1, POINTS),
            ).reshape(tokens.shape)
        x = self.narrow(tokens).reshape(batch, rois, -1)
        x = self.trunk(torch.cat([x, proposals], -1))
        logits, residuals = self.confidence(x), self.residual(x)
        sure, ends = self.measured(proposals, outlines, logits.detach(), residuals.detach())
        return logits + sure, residuals + ends

    def measured(
        self, proposals: Tensor, outlines: Tensor, logits: Tensor, residuals: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What reach and outline tell: added to confidence logits (..., classes) and residuals (..., 8)
        of proposals (..., classes + 11) and outlines (..., OUTLINE)."""
        length, width, height = proposals[..., self.classes :][..., :3].exp().split(1, -1)
        along, across, up = proposals[..., self.classes + 5 :][..., :5].split((2, 2, 1), -1)
        metres = [length, width, height, along * length, across * width, up * height]
        told = torch.cat([proposals, *metres], -1)
        said = torch.cat([logits, residuals], -1)
        sure, ends = self.outline(torch.cat([told, outlines, said], -1)).split(
            (self.classes, 8), -1
        )
        return sure, self.ends(torch.cat([told, said], -1)) + ends


def refined_boxes(proposals: Tensor, residuals: Tensor) -> Tensor:
    """Boxes (..., 7) of proposals (..., 7) and residuals (..., 8), in each proposal's own frame."""
    yaw = proposals[..., 6]
    c, s = yaw.cos(), yaw.sin()
    size = proposals[..., 3:6]
    x, y = residuals[..., 0] * size[..., 0], residuals[..., 1] * size[..., 1]
    place = torch.stack(
        [
            proposals[..., 0] + c * x - s * y,
            proposals[..., 1] + s * x + c * y,
            proposals[..., 2] + residuals[..., 2] * size[..., 2],
        ],
        -1,
    )
    turn = torch.atan2(residuals[..., 6], 1.0 + residuals[..., 7])
    size = size * residuals[..., 3:6].clamp(-1.0, 1.0).exp()
    return torch.cat([place, size, (yaw + turn)[..., None]], -1)
