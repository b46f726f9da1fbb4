"""Convolutions of the bird's-eye-view (BEV) backbone, and its neck, a feature pyramid (FPN)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def convolution(inputs: int, outputs: int, stride: int = 1, kernel: int = 3) -> nn.Sequential:
    """Convolution, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.03),
        nn.ReLU(),
    )


def concatenated_convolution(layer: nn.Module, x: Tensor, extra: Tensor) -> Tensor:
    """Apply a `convolution` to the concatenation of x and extra.

    It is computed as the sum of two convolutions, because ONNX Runtime and oneDNN are slow if the number
    of channels is not a multiple of their block size. For inference, the scale of the normalisation is
    part of the second one.
    """
    conv, norm, activate = layer.children()
    assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
    assert norm.running_var is not None
    weight_x, weight_extra = conv.weight[:, : x.shape[1]], conv.weight[:, x.shape[1] :]
    stride, padding = conv.stride[0], conv.kernel_size[0] // 2
    if layer.training:
        added = F.conv2d(extra, weight_extra, None, stride, padding)
        return activate(norm(F.conv2d(x, weight_x, None, stride, padding) + added))
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    weight_extra = weight_extra * scale[:, None, None, None]
    added = F.conv2d(extra, weight_extra, None, stride, padding)
    return activate(norm(F.conv2d(x, weight_x, None, stride, padding)) + added)


class FeaturePyramid(nn.Module):
    """FPN (Lin et al. 2017): top-down fusion of three scales into the finest one."""

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
