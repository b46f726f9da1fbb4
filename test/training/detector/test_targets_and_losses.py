"""Targets and losses of the refinement's far ends, in closed form."""

from __future__ import annotations

import math

import numpy as np
import torch

from multimodal_perception.networks.local_fusion import (
    ENDS,
    OUTLINE,
    PROPOSAL,
    Refined,
    RefinementHead,
    refined_boxes,
)
from multimodal_perception.training.detector.targets_and_losses import ends_loss


def test_far_ends_are_learned_wherever_the_sensor_is() -> None:
    # Buses ahead and behind, of which ends are proposed; the last is a car, which has no ends to choose.
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
        away = 1.0 if float(axis @ torch.tensor([x, y])) > 0 else -1.0
        matched[0, k, :2] += axis * away * more / 2
        matched[0, k, 3] += more
    head = RefinementHead(8, 8, 6, 16)
    length = proposals[..., 3:4]
    towards = -(proposals[..., 6].cos() * proposals[..., 0])[..., None]  # its sign is enough
    ends = torch.zeros(1, 4, ENDS, requires_grad=True)
    optimizer = torch.optim.Adam([ends], 0.3)
    nothing = torch.zeros(1, 4, 8)
    for _ in range(200):
        loss = ends_loss(
            Refined(nothing, nothing, nothing, ends), proposals, matched, torch.ones(1, 4)
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert not ends[0, 3].detach().any()
    told, outlines = torch.zeros(1, 4, 6 + PROPOSAL), torch.zeros(1, 4, OUTLINE)
    told[..., 6:7], outlines[..., :1] = length.log(), towards
    head.outline = Said(ends.detach())
    residuals = head.measured(told, outlines, nothing[..., :6], nothing).residuals
    np.testing.assert_allclose(refined_boxes(proposals, residuals), matched, atol=0.03)


class Said(torch.nn.Module):
    """Says these ends, whatever it is shown."""

    def __init__(self, ends: torch.Tensor) -> None:
        super().__init__()
        self.ends = ends

    def forward(self, shown: torch.Tensor) -> torch.Tensor:
        return torch.cat([shown.new_zeros(*shown.shape[:-1], 6 + 8), self.ends], -1)
