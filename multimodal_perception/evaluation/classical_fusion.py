"""Fusion without learning: mean, maximum, and the larger detail of a Laplacian pyramid.

Images are (H, W) float32 in [0, 1]; so are the results.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]


def mean(visible: Image, thermal: Image) -> Image:
    """The mean of both."""
    return (visible + thermal) * np.float32(0.5)


def maximum(visible: Image, thermal: Image) -> Image:
    """The brighter of both."""
    return np.maximum(visible, thermal)


def laplacian_pyramid(visible: Image, thermal: Image, levels: int = 5) -> Image:
    """At each scale the detail of larger magnitude, on the mean of what is left (Burt, Kolczynski 1993).

    Fewer levels are used where the image is too small for them.
    """
    levels = max(min(levels, int(np.log2(max(min(visible.shape), 1))) - 2), 0)
    one, other = _laplacian(visible, levels), _laplacian(thermal, levels)
    result = mean(one[-1], other[-1])
    for first, second in zip(one[-2::-1], other[-2::-1], strict=True):
        detail = np.where(np.abs(first) >= np.abs(second), first, second)
        result = cv2.pyrUp(result, dstsize=detail.shape[::-1]) + detail
    return np.clip(result, 0.0, 1.0)


def _laplacian(image: Image, levels: int) -> list[Image]:
    """Details from fine to coarse, and the low-pass that is left."""
    result = []
    for _ in range(levels):
        smaller = cv2.pyrDown(image)
        result.append(image - cv2.pyrUp(smaller, dstsize=image.shape[::-1]))
        image = smaller
    return [*result, image]
