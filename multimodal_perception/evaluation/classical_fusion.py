"""Image fusion without learning: mean, maximum, and Laplacian pyramid.

Inputs and results are images (H, W) float32 in [0, 1].
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]


def mean(visible: Image, thermal: Image) -> Image:
    """The pixel-wise mean of both images."""
    return (visible + thermal) * np.float32(0.5)


def maximum(visible: Image, thermal: Image) -> Image:
    """The pixel-wise maximum of both images."""
    return np.maximum(visible, thermal)


def laplacian_pyramid(visible: Image, thermal: Image, levels: int = 5) -> Image:
    """Fusion of Laplacian pyramids (Burt, Kolczynski 1993).

    At each level it selects the coefficient of larger magnitude. The low-pass residuals are averaged.
    Fewer levels are used if the image is too small.
    """
    levels = max(min(levels, int(np.log2(max(min(visible.shape), 1))) - 2), 0)
    first, second = _laplacian_pyramid(visible, levels), _laplacian_pyramid(thermal, levels)
    result = mean(first[-1], second[-1])
    for a, b in zip(first[-2::-1], second[-2::-1], strict=True):
        detail = np.where(np.abs(a) >= np.abs(b), a, b)
        result = cv2.pyrUp(result, dstsize=detail.shape[::-1]) + detail
    return np.clip(result, 0.0, 1.0)


def _laplacian_pyramid(image: Image, levels: int) -> list[Image]:
    """The detail images from fine to coarse, followed by the low-pass residual."""
    result = []
    for _ in range(levels):
        smaller = cv2.pyrDown(image)
        result.append(image - cv2.pyrUp(smaller, dstsize=image.shape[::-1]))
        image = smaller
    return [*result, image]
