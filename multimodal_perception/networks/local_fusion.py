"""Local Fusion and Feature Dynamic Aggregation (LoGoNet, Li et al. 2023, sections 3.3 and 3.4)."""

from __future__ import annotations

from typing import NamedTuple

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
OUTLINE = 107
# Its last: what the end towards the sensor measures. The network is shown the width and height of it by
# marks so far apart, metres: centimetres of them, which tell a bus of 9 m from one of 12, else drown.
FACE, WIDTHS, TOPS, MARKS = 5, (1.5, 2.7), (1.3, 3.9), 41
# What is longer than a car, metres, has its far end chosen among places to LONGER before or behind where
# it else would be.
CAR, LONGER, ENDS = 5.0, 4.0, 33
# The likeliest of them weighs as if it were so many times as sure: between two lengths there is none.
SHARPER = 3.0


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
        self.thermal = DeformableAttention(*sizes, points=samples)
        self.norm = nn.ModuleList([nn.LayerNorm(channels) for _ in range(2)])
        self.out = nn.Sequential(nn.Linear(channels, channels), nn.ReLU())

    def forward(
        self,
        grid: Tensor,
        camera: tuple[Tensor, Tensor, Tensor, int],
        thermal: tuple[Tensor, Tensor, Tensor, int],
    ) -> Tensor:
        """grid (B, R * 216, 7) -> (B, R * 216, C).

        camera, thermal: atlas (B, D, images * h, w), places (B, R * 216, 2), seen (B, R * 216) and the
        number of images.
        """
        local = self.position(grid)
        for attention, norm, (atlas, places, seen, images) in zip(
            (self.camera, self.thermal), self.norm, (camera, thermal), strict=True
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


class Refined(NamedTuple):
    """Refined proposals: confidence logits (..., classes) and residuals (..., 8); nearer: these before
    the far end was chosen; ends: logits (..., ENDS) of its places."""

    logits: Tensor
    residuals: Tensor
    nearer: Tensor
    ends: Tensor


class RefinementHead(nn.Module):
    """Proposals refined: class-wise confidences and box residuals, put right by what is measured.

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
        # What reach and outline of a large vehicle tell in metres, from nothing on. It knows what has
        # been said so far: a length guessed is to be put right, one that was seen to be left. Of what is
        # small it would learn the simulator's shapes by heart, which costs real people and cars.
        told = proposal + 8 + OUTLINE + classes + 8 + 1 + 2 * MARKS
        last = nn.Linear(128, classes + 8 + ENDS)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        layers = nn.Linear(told, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU()
        self.outline = nn.Sequential(*layers, last)

    def forward(
        self,
        bev: Tensor,
        roi_bev: Tensor,
        roi_grid: Tensor,
        proposals: Tensor,
        camera: tuple[Tensor, Tensor, Tensor, int],
        thermal: tuple[Tensor, Tensor, Tensor, int],
    ) -> tuple[Tensor, Tensor]:
        """What fused features say: confidence logits (B, R, classes) and residuals (B, R, 8).

        bev (B, C, H, W); roi_bev (B, R, 36, 2): places of the grid's columns in it, -1 to 1;
        roi_grid (B, R, 216, 7), heights innermost; proposals (B, R, classes + 11): score by class and
        PROPOSAL.
        """
        batch, rois = roi_grid.shape[:2]
        pooled = F.grid_sample(bev.float(), roi_bev, align_corners=False)  # (B, C, R, 36)
        tokens = self.pooled(pooled.permute(0, 2, 3, 1))
        tokens = tokens.repeat_interleave(GRID, dim=2)  # heights share their column's
        if self.local is not None:
            flat = [
                (atlas, places.reshape(batch, -1, 2), seen.reshape(batch, -1), images)
                for atlas, places, seen, images in (camera, thermal)
            ]
            found = self.local(roi_grid.reshape(batch, -1, POSITION), flat[0], flat[1])
            tokens = tokens + found.reshape(tokens.shape)
        if self.dynamic is not None:
            filled = (roi_grid[..., 3] > 0.0).to(tokens.dtype)
            told = torch.maximum(filled, torch.maximum(camera[2], thermal[2]).to(tokens.dtype))
            tokens = self.dynamic(
                tokens.reshape(-1, POINTS, self.channels),
                roi_grid.reshape(-1, POINTS, POSITION),
                told.reshape(-1, POINTS),
            ).reshape(tokens.shape)
        x = self.narrow(tokens).reshape(batch, rois, -1)
        x = self.trunk(torch.cat([x, proposals], -1))
        return self.confidence(x), self.residual(x)

    def measured(
        self, proposals: Tensor, outlines: Tensor, logits: Tensor, residuals: Tensor
    ) -> Refined:
        """What was said, logits (..., classes) and residuals (..., 8), put right by what is measured of
        proposals (..., classes + 11) longer than a car: reach and outlines (..., OUTLINE)."""
        length, width, height = proposals[..., self.classes :][..., :3].exp().split(1, -1)
        along, across, up = proposals[..., self.classes + 5 :][..., :5].split((2, 2, 1), -1)
        metres = [length, width, height, along * length, across * width, up * height]
        cells, face = outlines.split((OUTLINE - FACE, FACE), -1)
        said = logits.detach(), residuals.detach()
        shown = torch.cat([proposals, *metres, cells, *said, face, *_marks(face)], -1)
        sure, more, ends = self.outline(shown).split((self.classes, 8, ENDS), -1)
        large = (length > CAR).to(length.dtype)
        nearer = residuals + more * large
        longer = _place(ends) * large
        moved = _longer(nearer, longer, length, outlines)
        return Refined(logits + sure * large, moved, nearer, ends)


def far_side(towards: Tensor) -> Tensor:
    """1 where the far end of a box is the one ahead, else -1. towards: cosine of the direction to the
    sensor in the box's frame."""
    return torch.where(towards < 0.0, 1.0, -1.0).to(towards.dtype)


def end_places(like: Tensor) -> Tensor:
    """How much farther than else the places (ENDS,) are that the far end is chosen among, metres."""
    return torch.linspace(-LONGER, LONGER, ENDS, device=like.device, dtype=like.dtype)


def _place(ends: Tensor) -> Tensor:
    """The likeliest place (..., 1) of logits (..., ENDS), metres; not the mean, where two are likely."""
    return ((SHARPER * ends).softmax(-1) * end_places(ends)).sum(-1, keepdim=True)


def _longer(residuals: Tensor, longer: Tensor, length: Tensor, outlines: Tensor) -> Tensor:
    """Residuals (..., 8) of proposals so long (..., 1) with the far end farther (..., 1), metres."""
    x, between, size, rest = residuals.split((1, 2, 1, 4), -1)
    was = length * size.clamp(-1.0, 1.0).exp()
    share = (longer / was).clamp(min=-0.5)
    x = x + far_side(outlines[..., :1]) * share * was / (2.0 * length)
    # Nothing changes, not by rounding either, where nothing is longer.
    return torch.cat([x, between, size + (1.0 + share).log(), rest], -1)


def _marks(face: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Width (..., 1) of a face (..., FACE), and how near it and the height are to each mark."""
    width, top = face[..., 3:4] - face[..., 2:3], face[..., 4:5]
    near = []
    for value, (low, high) in ((width, WIDTHS), (top, TOPS)):
        step = (high - low) / (MARKS - 1)
        marks = torch.linspace(low, high, MARKS, device=face.device)
        near.append((-(((value - marks) / step) ** 2)).exp())
    return width, near[0], near[1]


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
