"""Thermal images in the views of cameras, frame after frame: which one, its contrast, its warp."""

from __future__ import annotations

from collections import Counter

import cv2
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.frame import CameraImage, SensorFrame, ThermalImage
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.images.thermal_normalization import (
    Pixels,
    ThermalNormaliser,
    anchoring_power,
)
from multimodal_perception.images.view_warp import Warp, warp_between

# An image whose values span less than this, of 8 bits, shows nothing: a covered or blinded sensor.
LEAST_SPAN = 4
# A thermal camera counts for a camera when it sees this share of its view.
LEAST_OVERLAP = 0.05


class ThermalViews:
    """Brings thermal images into cameras' views. counts: what was wrong with images, `sensor.reason`.

    Contrast and warps are kept from frame to frame. ground_z: height of the ground in base_link,
    metres. quartile: what each image's upper quartile is brought to (see anchoring_power); None
    leaves it.
    """

    def __init__(
        self, ground_z: float, counts: Counter[str], quartile: float | None = None
    ) -> None:
        self._ground_z = ground_z
        self._counts = counts
        self._quartile = quartile
        self._normalisers: dict[str, ThermalNormaliser] = {}
        self._warps: dict[tuple[str, str], tuple[tuple[bytes, ...], Warp]] = {}

    def best(self, frame: SensorFrame, camera: str) -> tuple[str, float]:
        """The thermal camera that sees most of a camera's view, and the share; "" for none."""
        best, share = "", 0.0
        model = frame.intrinsics[camera]
        coarse = model.scaled(32 / model.width, 32 / model.height)
        for name in frame.thermals:
            if placed(frame, name):
                warp = self._warp(frame, camera, coarse, name, frame.intrinsics[name])
                if warp.seen.mean() > max(share, LEAST_OVERLAP):
                    best, share = name, float(warp.seen.mean())
        return best, share

    def normalised(self, image: ThermalImage) -> NDArray[np.float32] | None:
        """A thermal image (H, W) in [0, 1], its contrast steady; None where it shows nothing."""
        if not self.usable(image):
            return None
        pixels: Pixels = image.pixels
        if bytes_are_swapped(pixels):
            self._counts[f"{image.sensor}.byte_order"] += 1
            pixels = pixels.byteswap()
        normaliser = self._normalisers.setdefault(image.sensor, ThermalNormaliser())
        grey = normaliser.normalise(pixels, image.stamp_ns)
        return grey if self._quartile is None else grey ** anchoring_power(grey, self._quartile)

    def view(
        self, frame: SensorFrame, camera: str, view: CameraModel, thermal: str
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]] | None:
        """The thermal image (H, W) in [0, 1] in a camera's view, zero where it is not seen, and where
        it is. None where it shows nothing."""
        grey = self.normalised(frame.thermals[thermal])
        if grey is None:
            return None
        source = frame.intrinsics[thermal]
        # A finer image than the view's is made coarser first, or it would flicker.
        shrink = min(1.0, view.matrix[0, 0] / source.matrix[0, 0])
        if shrink < 0.67:
            size = round(source.width * shrink), round(source.height * shrink)
            grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
            source = source.scaled(size[0] / source.width, size[1] / source.height)
        warp = self._warp(frame, camera, view, thermal, source)
        return np.where(warp.seen, warp.apply(grey), np.float32(0.0)), warp.seen

    def usable(self, image: CameraImage | ThermalImage) -> bool:
        """Whether an image shows anything: not all black, all saturated or all of one value."""
        pixels: NDArray[np.integer] = image.pixels[::4, ::4]
        low, high = np.percentile(pixels, (1, 99)).tolist()
        if high - low >= LEAST_SPAN:
            return True
        self._counts[f"{image.sensor}.blank"] += 1
        return False

    def _warp(
        self, frame: SensorFrame, camera: str, view: CameraModel, thermal: str, source: CameraModel
    ) -> Warp:
        poses = [frame.reference_from_sensor(n) for n in (camera, thermal)]
        # A millimetre or a milliradian between the stamps is worth no new warp.
        still = np.round(np.linalg.inv(poses[0]) @ poses[1], 3)
        parts = [still, np.round(poses[0][2], 3), view.matrix, view.coefficients]
        parts += [source.matrix, source.coefficients]
        key = tuple(np.ascontiguousarray(p + 0.0).tobytes() for p in parts)
        place = camera, f"{thermal} {view.width}x{view.height}"
        known = self._warps.get(place)
        if known is None or known[0] != key:
            warp = warp_between(view, poses[0], source, poses[1], self._ground_z)
            self._warps[place] = known = key, warp
        return known[1]


def placed(frame: SensorFrame, name: str) -> bool:
    """Whether a sensor's intrinsics and place are known."""
    return name in frame.intrinsics and name in frame.base_from_sensor


def bytes_are_swapped(pixels: Pixels) -> bool:
    """Whether 16-bit counts (H, W) have their bytes the wrong way round, as a driver sent them.

    Neighbours differ by little in the right order, by any amount in the wrong one, where the counts'
    low byte, mostly noise, weighs most.
    """
    if pixels.dtype != np.uint16 or pixels.shape[1] < 2:
        return False
    rows = pixels[::4]
    given, swapped = (
        float(np.abs(np.diff(values.astype(np.float32), axis=1)).mean())
        for values in (rows, rows.byteswap())
    )
    return swapped < given / 4
