"""Image pairs that the image fusion is trained on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Sample:
    """An image pair: three (H, W) uint8 images; foreground is 255 on objects that should stand out."""

    visible: NDArray[np.uint8]
    thermal: NDArray[np.uint8]
    foreground: NDArray[np.uint8]
