"""The loss of the far ends of large vehicles."""

from __future__ import annotations

import math

import numpy as np
import torch

from multimodal_perception.detection.fusion.roi_features import PROFILE_FEATURES
from multimodal_perception.networks.refinement_head import (
    END_BINS,
    PROPOSAL_FEATURES,
    RefinementHead,
    RefinementOutput,
    apply_residuals,
)
from multimodal_perception.training.detector.targets_and_losses import ends_loss


def test_far_ends_are_learnt_for_all_positions_of_the_sensor() -> None:
    # Proposals of the near ends of buses before and behind the sensor; the last one is a car.
    proposals = torch.tensor(
        [
            [20.0, 3.0, 1.5, 9.0, 2.5, 3.0, 0.1],
            [20.0, 3.0, 1.5, 9.0, 2.5, 3.0, math.pi],
            [-15.0, 4.0, 1.5, 10.5, 2.5, 3.0, 0.0],
            [20.0, 0.0, 0.8, 4.5, 1.8, 1.5, 0.0],
        ]
    )[None]
    matched = proposals.clone()
    for k, more in enumerate((3.0, 3.0, -1.5)):
        x, y, yaw = (float(proposals[0, k, i]) for i in (0, 1, 6))
        axis = torch.tensor([math.cos(yaw), math.sin(yaw)])
        sign = 1.0 if float(axis @ torch.tensor([x, y])) > 0 else -1.0
        matched[0, k, :2] += axis * sign * more / 2
        matched[0, k, 3] += more
    head = RefinementHead(8, 8, 6, 16)
    length = proposals[..., 3:4]
    towards = -(proposals[..., 6].cos() * proposals[..., 0])[..., None]  # only the sign is used
    ends = torch.zeros(1, 4, END_BINS, requires_grad=True)
    optimizer = torch.optim.Adam([ends], 0.3)
    zeros = torch.zeros(1, 4, 8)
    for _ in range(200):
        loss = ends_loss(
            RefinementOutput(zeros, zeros, zeros, ends), proposals, matched, torch.ones(1, 4)
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert not ends[0, 3].detach().any()
    features, profile = (
        torch.zeros(1, 4, 6 + PROPOSAL_FEATURES),
        torch.zeros(1, 4, PROFILE_FEATURES),
    )
    features[..., 6:7], profile[..., :1] = length.log(), towards
    head.large_vehicle_head = FixedEnds(ends.detach())
    residuals = head.refine_dimensions(features, profile, zeros[..., :6], zeros).residuals
    np.testing.assert_allclose(apply_residuals(proposals, residuals), matched, atol=0.03)


class FixedEnds(torch.nn.Module):
    """A head with fixed logits of the ends and no other output."""

    def __init__(self, ends: torch.Tensor) -> None:
        super().__init__()
        self.ends = ends

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.cat([inputs.new_zeros(*inputs.shape[:-1], 6 + 8), self.ends], -1)
