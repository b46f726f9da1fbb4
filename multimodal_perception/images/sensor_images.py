"""Images of cameras and thermal cameras as RGB pixels, for networks of visible images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.frame import SensorFrame
from multimodal_perception.images.thermal_to_camera import ThermalViews, has_pose


class SensorImages:
    """Selects the images of a frame and converts them.

    Thermal images become grey images, warm objects bright, with stable limits of contrast. counts: blank
    images by `sensor.blank`; it is updated.
    """

    def __init__(
        self, cameras: Sequence[str], counts: Counter[str], uses_thermal: bool = True
    ) -> None:
        """cameras: names of the sensors; empty for all."""
        self._cameras = tuple(cameras)
        self._uses_thermal = uses_thermal
        self._views = ThermalViews(counts)

    def names(self, frame: SensorFrame) -> list[str]:
        """Names of the sensors with an image, intrinsics and extrinsics."""
        present = [*frame.cameras, *(frame.thermals if self._uses_thermal else ())]
        return [n for n in self._cameras or present if n in present and has_pose(frame, n)]

    def rgb(self, frame: SensorFrame, name: str) -> NDArray[np.uint8] | None:
        """Pixels (H, W, 3) uint8 in RGB order; None for a blank image."""
        image = frame.cameras.get(name)
        if image is not None:
            return image.rgb() if self._views.is_usable(image) else None
        grey = self._views.normalised(frame.thermals[name])
        if grey is None:
            return None
        pixels = np.rint(255.0 * np.clip(grey, 0.0, 1.0)).astype(np.uint8)
        return np.repeat(pixels[..., None], 3, axis=2)
