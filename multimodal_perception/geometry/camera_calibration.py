"""Calibration of a camera for the images that it actually publishes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.geometry import poses
from multimodal_perception.geometry.cameras import CameraModel


@dataclass(frozen=True)
class CameraCalibration:
    """Intrinsics of one camera and the pose of the camera that they describe.

    model: intrinsics for images of the size model.width x model.height.
    source: where the intrinsics come from, for example "K and D of the CameraInfo".
    camera_from_optical: (4, 4) pose from the optical frame of the messages to the frame of `model`. It
    differs from the identity for rectified images: rotation R and the baseline of a stereo camera.
    full_model: intrinsics of the full image if `model` describes a binned image or a region of interest.
    notices: assumptions and implausible values, for the user. frame_id: of the CameraInfo, or empty.
    """

    model: CameraModel
    source: str
    camera_from_optical: NDArray[np.float64] | None = None
    full_model: CameraModel | None = None
    notices: tuple[str, ...] = ()
    frame_id: str = ""

    def base_from_camera(self, base_from_optical: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the pose (4, 4) of the camera of `model` for the pose of the optical frame."""
        if self.camera_from_optical is None:
            return base_from_optical
        return base_from_optical @ poses.inverse(self.camera_from_optical)

    def fitted(self, width: int, height: int) -> tuple[CameraModel | None, str]:
        """Return the intrinsics for an image size and what was assumed, an empty text if nothing was.

        The intrinsics are scaled if the image has exactly the same aspect ratio, as published by drivers
        that resize images without changing the CameraInfo. For other sizes the result is None.
        """
        model = self.model
        if (width, height) == (model.width, model.height):
            return model, ""
        stated = f"{model.width}x{model.height}"
        full = self.full_model
        if full is not None and (width, height) == (full.width, full.height):
            return full, (
                f"images have the full size {width}x{height}: binning and region of interest "
                f"({stated}) of the {self.source} are ignored"
            )
        if width * model.height != height * model.width:
            return None, (
                f"images of {width}x{height} are dropped: the {self.source} is for {stated}, "
                "which has another aspect ratio"
            )
        # The factor is applied to the exact size, not to the size rounded by CameraModel.scaled.
        scaled = model.scaled(width / model.width, height / model.height)
        return replace(scaled, width=width, height=height), (
            f"images of {width}x{height} with the {self.source} for {stated}: taken as resized, the "
            f"intrinsics are scaled by {width / model.width:.4g}"
        )


def implausible_intrinsics(camera: CameraModel) -> list[str]:
    """Return a description of each implausible value of the intrinsics of a full image."""
    fx, fy = float(camera.matrix[0, 0]), float(camera.matrix[1, 1])
    cx, cy = float(camera.matrix[0, 2]), float(camera.matrix[1, 2])
    width, height = camera.width, camera.height
    result = []
    point = f"the principal point ({cx:.1f}, {cy:.1f}) px"
    if not (-0.5 <= cx <= width - 0.5 and -0.5 <= cy <= height - 0.5):
        result.append(f"implausible: {point} is outside the image of {width}x{height}")
    elif (
        abs(cx + 0.5 - width / 2) > MAX_OFF_CENTRE * width
        or abs(cy + 0.5 - height / 2) > MAX_OFF_CENTRE * height
    ):
        result.append(f"implausible: {point} is far from the centre of {width}x{height}")
    if not 1 / MAX_FOCAL_RATIO <= fx / fy <= MAX_FOCAL_RATIO:
        result.append(f"implausible: the focal lengths {fx:.4g} and {fy:.4g} px differ")
    for name, size, focal in (("horizontal", width, fx), ("vertical", height, fy)):
        if camera.model == "equidistant":
            degrees, limit = float(np.degrees(size / focal)), MAX_FISHEYE_VIEW_DEG
        else:
            degrees = float(np.degrees(2 * np.arctan(size / (2 * focal))))
            limit = MAX_PERSPECTIVE_VIEW_DEG
        if not MIN_VIEW_DEG <= degrees <= limit:
            result.append(
                f"implausible: a focal length of {focal:.4g} px means a {name} field of view of "
                f"{degrees:.3g} deg ({camera.model}: {MIN_VIEW_DEG:g} to {limit:g} deg)"
            )
    return result


# Distance of a plausible principal point from the image centre, relative to the image size.
MAX_OFF_CENTRE = 0.3
# Ratio of plausible focal lengths in x and y.
MAX_FOCAL_RATIO = 1.25
# Plausible fields of view.
MIN_VIEW_DEG = 0.5
MAX_PERSPECTIVE_VIEW_DEG = 150.0
MAX_FISHEYE_VIEW_DEG = 280.0
