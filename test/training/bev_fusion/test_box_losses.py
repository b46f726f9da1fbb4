"""The loss of the far ends of large vehicles."""

from __future__ import annotations

import math

import numpy as np
import torch

from multimodal_perception.detection.bev_fusion.roi_features import CAR_LENGTH, PROFILE_FEATURES
from multimodal_perception.networks.bev_fusion_refinement import RefinementOutputs
from multimodal_perception.networks.box_residuals import (
    END_BINS,
    apply_residuals,
    expected_shift,
    shift_far_end,
)
from multimodal_perception.training.bev_fusion.box_losses import ends_loss


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
    length = proposals[..., 3:4]
    towards = -(proposals[..., 6].cos() * proposals[..., 0])[..., None]  # only the sign is used
    ends = torch.zeros(1, 4, END_BINS, requires_grad=True)
    optimizer = torch.optim.Adam([ends], 0.3)
    zeros = torch.zeros(1, 4, 8)
    for _ in range(200):
        loss = ends_loss(
            RefinementOutputs(zeros, zeros, zeros, ends, zeros, zeros),
            proposals,
            matched,
            torch.ones(1, 4),
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert not ends[0, 3].detach().any()
    profile = torch.zeros(1, 4, PROFILE_FEATURES)
    profile[..., :1] = towards
    shift = expected_shift(ends.detach()) * (length > CAR_LENGTH)
    residuals = shift_far_end(zeros, shift, length, profile)
    np.testing.assert_allclose(apply_residuals(proposals, residuals), matched, atol=0.03)
