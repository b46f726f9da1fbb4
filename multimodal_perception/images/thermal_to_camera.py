"""Thermal images normalised and warped into the views of cameras."""

from __future__ import annotations

from collections import Counter

import cv2
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.frame import CameraImage, SensorFrame, ThermalImage
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.images.byte_order import has_swapped_bytes
from multimodal_perception.images.thermal_normalization import (
    Pixels,
    ThermalNormaliser,
    quartile_gamma,
)
from multimodal_perception.images.view_warp import Warp, warp_between

# Minimum range of the values of an image, in counts. Below it the image is blank (a covered sensor).
MIN_VALUE_RANGE = 4
# Minimum fraction of a camera's view that a thermal camera must cover to be used for it.
MIN_OVERLAP = 0.05
# Maximum number of warps that are kept between frames.
MAX_WARPS = 256


class ThermalViews:
    """Warps thermal images into the views of cameras.

    The contrast limits and the warps are kept between frames. counts: rejected and corrected images
    by `sensor.reason`; it is updated. quartile: value in (0, 1) that the upper quartile of each
    image is mapped to (see quartile_gamma); None leaves the image unchanged.
    """

    def __init__(self, counts: Counter[str], quartile: float | None = None) -> None:
        self._counts = counts
        self._quartile = quartile
        self._normalisers: dict[str, ThermalNormaliser] = {}
        self._warps: dict[tuple[str, str], tuple[tuple[bytes, ...], Warp]] = {}

    def best_match(self, frame: SensorFrame, camera: str) -> tuple[str, float]:
        """The thermal camera that covers most of a camera's view ("" for none), and the fraction."""
        best, overlap = "", 0.0
        model = frame.intrinsics[camera]
        coarse = model.scaled(32 / model.width, 32 / model.height)
        for name in frame.thermals:
            if has_pose(frame, name):
                warp = self._warp(frame, camera, coarse, name, frame.intrinsics[name])
                if warp.valid.mean() > max(overlap, MIN_OVERLAP):
                    best, overlap = name, float(warp.valid.mean())
        return best, overlap

    def normalised(self, image: ThermalImage) -> NDArray[np.float32] | None:
        """A thermal image (H, W) normalised to [0, 1] with stable limits; None if it is blank."""
        if not self.is_usable(image):
            return None
        pixels: Pixels = image.filled_pixels()
        if has_swapped_bytes(pixels):
            self._counts[f"{image.sensor}.byte_order"] += 1
            pixels = pixels.byteswap()
        normaliser = self._normalisers.setdefault(image.sensor, ThermalNormaliser())
        grey = normaliser.normalise(pixels, image.stamp_ns)
        return grey if self._quartile is None else grey ** quartile_gamma(grey, self._quartile)

    def warped(
        self, frame: SensorFrame, camera: str, view: CameraModel, thermal: str
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]] | None:
        """A thermal image in a camera's view (H, W) in [0, 1], and its mask (H, W); None if it is blank.

        view: camera model of the output size. Pixels outside the thermal camera's field of view are 0.
        """
        grey = self.normalised(frame.thermals[thermal])
        if grey is None:
            return None
        source = frame.intrinsics[thermal]
        # An image of higher resolution than the view is downscaled first to avoid aliasing.
        shrink = min(1.0, view.matrix[0, 0] / source.matrix[0, 0])
        if shrink < 0.67:
            size = round(source.width * shrink), round(source.height * shrink)
            grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
            source = source.scaled(size[0] / source.width, size[1] / source.height)
        warp = self._warp(frame, camera, view, thermal, source)
        return np.where(warp.valid, warp.apply(grey), np.float32(0.0)), warp.valid

    def is_usable(self, image: CameraImage | ThermalImage) -> bool:
        """Whether an image has content; blank (black, saturated, constant) images are counted."""
        pixels: NDArray[np.integer] = image.pixels[::4, ::4]
        low, high = np.percentile(pixels, (1, 99)).tolist()
        if high - low >= MIN_VALUE_RANGE:
            return True
        self._counts[f"{image.sensor}.blank"] += 1
        return False

    def _warp(
        self, frame: SensorFrame, camera: str, view: CameraModel, thermal: str, source: CameraModel
    ) -> Warp:
        poses = [frame.reference_from_sensor(n) for n in (camera, thermal)]
        # Rounded, so that motion of less than a millimetre or milliradian does not cause a new warp.
        relative_pose = np.round(np.linalg.inv(poses[0]) @ poses[1], 3)
        parts = [relative_pose, np.round(poses[0][2], 3), view.matrix, view.coefficients]
        parts += [source.matrix, source.coefficients, np.float64(frame.ground_z)]
        key = tuple(np.ascontiguousarray(p + 0.0).tobytes() for p in parts)
        # Tiles of an image differ in their principal point.
        centre = "{:.0f},{:.0f}".format(*view.matrix[:2, 2])
        slot = camera, f"{thermal} {view.width}x{view.height} {centre}"
        cached = self._warps.get(slot)
        if cached is None or cached[0] != key:
            if len(self._warps) >= MAX_WARPS:
                self._warps.clear()
            warp = warp_between(view, poses[0], source, poses[1], frame.ground_z)
            self._warps[slot] = cached = key, warp
        return cached[1]


def has_pose(frame: SensorFrame, name: str) -> bool:
    """Whether the intrinsics and extrinsics of a sensor are known."""
    return name in frame.intrinsics and name in frame.base_from_sensor
