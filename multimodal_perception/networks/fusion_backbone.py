"""Backbone and the neck RCNet of the fusion detector."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from multimodal_perception.networks.bev_backbone import concatenated_convolution, convolution


class BevBackbone(nn.Module):
    """BEV canvas to features at strides 2, 4 and 8."""

    def __init__(
        self, inputs: int, widths: tuple[int, int, int], depths: tuple[int, int, int]
    ) -> None:
        super().__init__()
        stages = []
        for width, depth in zip(widths, depths, strict=True):
            layers = [convolution(inputs, width, 2)]
            layers += [convolution(width, width) for _ in range(depth)]
            stages.append(nn.Sequential(*layers))
            inputs = width
        self.stages = nn.ModuleList(stages)

    def forward(self, canvas: Tensor, extra: Tensor) -> list[Tensor]:
        """Features of the concatenated channels of canvas (B, C, S, S) and extra (B, D, S, S).

        C + D = inputs. Returns [(B, C1, S/2, S/2), (B, C2, S/4, S/4), (B, C3, S/8, S/8)].
        """
        features = []
        for k, stage in enumerate(self.stages):
            assert isinstance(stage, nn.Sequential)
            canvas = (
                stage(canvas) if k else stage[1:](concatenated_convolution(stage[0], canvas, extra))
            )
            features.append(canvas)
        return features


class RCNetPyramid(nn.Module):
    """A simplified RCNet (Zong et al., ACM MM 2021): bottom-up fusion, then a cross-scale channel shift.

    Bottom-up fusion (after RevFP, section 3.2): each scale is fused with the next finer one, weighted by
    a softmax of two learned scalars. Cross-scale shift (after CSN, section 3.3): a quarter of the
    channels is exchanged with each of the other two scales.

    Differences from the paper: its RevFP fuses each scale with both the finer and the coarser one, with
    weights that depend on the input; here only the finer scale is fused, and the gates are constant
    after training. Guided upsampling and global context are left out. All scales are upsampled to the
    finest one before the shift, and one map is returned instead of a pyramid.
    """

    def __init__(self, widths: tuple[int, int, int], channels: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList([nn.Conv2d(w, channels, 1) for w in widths])
        self.gates = nn.Parameter(torch.ones(2, 2))
        self.merge = nn.ModuleList([convolution(channels, channels) for _ in range(2)])
        self.shifted_channels = channels // 4
        self.reduce = nn.Conv2d(3 * channels, channels, 1)
        self.smooth = convolution(channels, channels)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Three scales -> (B, channels, S/2, S/2)."""
        levels = [lateral(f) for lateral, f in zip(self.lateral, features, strict=True)]
        for k in (1, 2):
            gates = self.gates[k - 1].softmax(0)
            finer = F.max_pool2d(levels[k - 1], 2)
            levels[k] = self.merge[k - 1](gates[0] * levels[k] + gates[1] * finer)
        scales = [  # (B, channels, S/2, S/2) each
            levels[0],
            F.interpolate(levels[1], scale_factor=2.0, mode="nearest"),
            F.interpolate(levels[2], scale_factor=4.0, mode="nearest"),
        ]
        n = self.shifted_channels
        shifted = [
            torch.cat(
                [scales[(k + 1) % 3][:, :n], scales[k][:, n:-n], scales[(k - 1) % 3][:, -n:]], 1
            )
            for k in range(3)
        ]
        return self.smooth(F.relu(self.reduce(torch.cat(shifted, 1)) + scales[0]))
