"""The bird's-eye-view backbone: three scales and a neck, FPN or RCNet's."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def convolution(inputs: int, outputs: int, stride: int = 1, kernel: int = 3) -> nn.Sequential:
    """Convolution, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.03),
        nn.ReLU(),
    )


class BevBackbone(nn.Module):
    """Canvas to features at a half, a quarter and an eighth of its size."""

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

    def forward(self, canvas: Tensor, beside: Tensor) -> list[Tensor]:
        """(B, C, S, S) and (B, D, S, S), C + D as inputs -> scales of a half, a quarter and an eighth.

        [(B, C1, S/2, S/2), (B, C2, S/4, S/4), (B, C3, S/8, S/8)].
        """
        features = []
        for k, stage in enumerate(self.stages):
            assert isinstance(stage, nn.Sequential)
            canvas = stage(canvas) if k else stage[1:](_both(stage[0], canvas, beside))
            features.append(canvas)
        return features


def _both(layer: nn.Module, x: Tensor, beside: Tensor) -> Tensor:
    """A `convolution` of x and what lies beside it. Run, not trained: as a sum of two, because ONNX
    Runtime has no fast convolution of a number of channels that its blocks do not divide."""
    if layer.training:
        return layer(torch.cat([x, beside], 1))
    convolve, norm, activate = layer.children()
    assert isinstance(convolve, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
    assert norm.running_var is not None
    own, other = convolve.weight[:, : x.shape[1]], convolve.weight[:, x.shape[1] :]
    other = other * (norm.weight / (norm.running_var + norm.eps).sqrt())[:, None, None, None]
    stride, padding = convolve.stride[0], convolve.kernel_size[0] // 2
    added = F.conv2d(beside, other, None, stride, padding)
    return activate(norm(F.conv2d(x, own, None, stride, padding)) + added)


class FeaturePyramid(nn.Module):
    """FPN (Lin et al. 2017): coarse scales come down to the fine one."""

    def __init__(self, widths: tuple[int, int, int], channels: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList([nn.Conv2d(w, channels, 1) for w in widths])
        self.smooth = convolution(channels, channels)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Three scales -> (B, channels, S/2, S/2)."""
        top = self.lateral[2](features[2])
        for level in (1, 0):
            up = F.interpolate(top, scale_factor=2.0, mode="nearest")
            top = F.relu(self.lateral[level](features[level]) + up)
        return self.smooth(top)


class ReversePyramid(nn.Module):
    """RCNet (Zong et al. 2021): fine scales go up first, then a shift of channels across scales.

    Reverse feature pyramid: each scale takes in the two finer ones at once, weighted by learned gates
    (section 3.2); cross-scale shift: channels move between neighbouring scales (section 3.3).
    """

    def __init__(self, widths: tuple[int, int, int], channels: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList([nn.Conv2d(w, channels, 1) for w in widths])
        self.gates = nn.Parameter(torch.ones(2, 2))
        self.merge = nn.ModuleList([convolution(channels, channels) for _ in range(2)])
        self.shifted = channels // 4
        self.after = nn.Conv2d(3 * channels, channels, 1)
        self.smooth = convolution(channels, channels)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Three scales -> (B, channels, S/2, S/2)."""
        levels = [lateral(f) for lateral, f in zip(self.lateral, features, strict=True)]
        for k in (1, 2):
            gates = self.gates[k - 1].softmax(0)
            finer = F.max_pool2d(levels[k - 1], 2)
            levels[k] = self.merge[k - 1](gates[0] * levels[k] + gates[1] * finer)
        fine, middle, coarse = (
            levels[0],
            F.interpolate(levels[1], scale_factor=2.0, mode="nearest"),
            F.interpolate(levels[2], scale_factor=4.0, mode="nearest"),
        )
        n = self.shifted
        stack = [fine, middle, coarse]
        shifted = [
            torch.cat([stack[(k + 1) % 3][:, :n], stack[k][:, n:-n], stack[(k - 1) % 3][:, -n:]], 1)
            for k in range(3)
        ]
        return self.smooth(F.relu(self.after(torch.cat(shifted, 1)) + fine))
