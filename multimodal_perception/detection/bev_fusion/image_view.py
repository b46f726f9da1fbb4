"""The camera model and pose of one image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.geometry.cameras import CameraModel


@dataclass(frozen=True)
class ImageView:
    """Geometry of one image.

    model: camera model of the image scaled to the network's input size. base_from_optical: (4, 4).
    """

    model: CameraModel
    base_from_optical: NDArray[np.float64]
