"""Fused brightness with the visible image's colour."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray


def with_luma(rgb: NDArray[np.uint8], luma: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The image (H, W, 3) uint8 with another brightness (H, W) float32 in [0, 1], its chroma kept."""
    ycrcb = cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2YCrCb)
    ycrcb[..., 0] = np.clip(np.rint(255.0 * luma), 0, 255).astype(np.uint8)
    return cv2.cvtColor(ycrcb, cv2.COLOR_YCrCb2RGB)
