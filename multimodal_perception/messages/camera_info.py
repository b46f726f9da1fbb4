"""Decode sensor_msgs/CameraInfo to the calibration of the images that a camera publishes.

A CameraInfo describes two images: the raw image by K and the distortion coefficients D, and the
rectified image by P. A point X in the optical frame is projected to the rectified pixel P [R X; 1]. The
fourth column of P, (-fx B, 0, 0) for the second camera of a horizontal stereo pair, displaces the
optical centre by the baseline B (sensor_msgs/CameraInfo, image_geometry).
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.geometry.camera_calibration import (
    CameraCalibration,
    implausible_intrinsics,
)
from multimodal_perception.geometry.cameras import DISTORTION_COUNTS, CameraModel, Distortion
from multimodal_perception.image_topics import RAW_WORDS, RECTIFIED_WORDS, TRANSPORTS
from multimodal_perception.messages.accepted import Accepted
from multimodal_perception.messages.errors import MessageError

# Model of CameraModel by the name in distortion_model, in lower case and with _ for spaces and hyphens.
DISTORTION_MODELS: dict[str, Distortion] = {
    "": "pinhole",
    "none": "pinhole",
    "pinhole": "pinhole",
    "no_distortion": "pinhole",
    "perspective": "pinhole",
    "plumb_bob": "plumb_bob",
    "radtan": "plumb_bob",
    "radial_tangential": "plumb_bob",
    "brown_conrady": "plumb_bob",
    "rational_polynomial": "rational_polynomial",
    "rational": "rational_polynomial",
    "thin_prism": "rational_polynomial",
    "equidistant": "equidistant",
    "equi": "equidistant",
    "fisheye": "equidistant",
    "kannala_brandt": "equidistant",
    "kannala_brandt4": "equidistant",
}
# A rotation matrix that was rounded, for example by a YAML file, is corrected up to this deviation.
MAX_ROTATION_ERROR = 1e-2


def calibration_from_message(
    msg: Any, rectified: bool | None = False, apply_baseline: bool = True
) -> CameraCalibration:
    """Decode a CameraInfo, including its region of interest and binning.

    rectified: whether the images are rectified, so that P and R are used instead of K and D. None means
    unknown: K and D are used, or P if K is zero. apply_baseline: whether the optical frame of the
    messages is that of the first camera of a stereo pair, as sensor_msgs defines, so that the fourth
    column of P displaces the camera.

    Raises MessageError("bad_camera_info") if the camera is not calibrated or values are invalid.
    """
    if len(msg.k) != 9:
        raise MessageError("bad_camera_info", f"k has {len(msg.k)} values, not 9")
    k = np.array(msg.k, np.float64).reshape(3, 3)
    projection = _projection(msg)
    notices: list[str] = []
    if rectified is None and not k[:2].any() and projection is not None:
        if np.any(msg.d):
            raise MessageError(
                "bad_camera_info", "K is zero, but D is not: the camera matrix is missing"
            )
        rectified = True
        notices.append("K of the CameraInfo is zero: the images are taken as rectified (P)")
    try:
        if rectified:
            calibration = _rectified(msg, k, projection, apply_baseline, notices)
        else:
            model, coefficients = distortion_from_message(msg.distortion_model, msg.d, notices)
            full = CameraModel(int(msg.width), int(msg.height), k, model, coefficients)
            calibration = CameraCalibration(full, "K and D of the CameraInfo")
        notices += implausible_intrinsics(calibration.model)
        full = calibration.model
        part = _binned(_cropped(full, msg.roi, notices), msg)
        return replace(
            calibration,
            model=part,
            full_model=None if part is full else full,
            notices=tuple(notices),
            frame_id=str(getattr(getattr(msg, "header", None), "frame_id", "")),
        )
    except ValueError as error:
        if isinstance(error, MessageError):
            raise
        raise MessageError("bad_camera_info", str(error)) from error


def camera_model_from_message(msg: Any) -> CameraModel:
    """Return the intrinsics of the raw images of a CameraInfo. Raises MessageError."""
    return calibration_from_message(msg).model


def distortion_from_message(
    name: str, values: Any, notices: list[str]
) -> tuple[Distortion, NDArray[np.float64]]:
    """Return the distortion model and its coefficients.

    Trailing zeros beyond the coefficients of the model are dropped. All coefficients zero mean pinhole,
    except for equidistant, where they mean an ideal fisheye lens. Raises ValueError.
    """
    coefficients = np.array(values, np.float64).reshape(-1)
    if not np.isfinite(coefficients).all():
        raise ValueError("distortion coefficients must be finite")
    key = re.sub(r"[\s\-]+", "_", str(name).strip().lower())
    model = DISTORTION_MODELS.get(key)
    if model is None:
        if coefficients.any() or not key.isascii():
            known = ", ".join(sorted(k for k in DISTORTION_MODELS if k))
            raise ValueError(f"distortion model {str(name)[:40]!r}; known: {known}")
        # Models such as omnidirectional ones are not perspective even with zero coefficients.
        if not key.startswith(("inverse_brown", "modified_brown")):
            raise ValueError(
                f"distortion model {str(name)[:40]!r} with zero coefficients is unknown"
            )
        model = "pinhole"
    if model != "equidistant" and not coefficients.any():
        return "pinhole", np.zeros(0)
    counts = DISTORTION_COUNTS[model]
    used = int(np.flatnonzero(coefficients)[-1]) + 1 if coefficients.any() else 0
    count = coefficients.size
    if count not in counts and count > min(counts):
        count = next((c for c in counts if c >= used), count)
        if count < coefficients.size:
            notices.append(
                f"{name} with {coefficients.size} coefficients: the last "
                f"{coefficients.size - count}, which are zero, are dropped"
            )
    return model, coefficients[:count]


def _projection(msg: Any) -> NDArray[np.float64] | None:
    """Return P (3, 4), or None if it is missing or zero."""
    values = np.array(getattr(msg, "p", ()), np.float64)
    if values.size != 12 or not values.reshape(3, 4)[:2, :3].any():
        return None
    return values.reshape(3, 4)


def _rectified(
    msg: Any,
    k: NDArray[np.float64],
    projection: NDArray[np.float64] | None,
    apply_baseline: bool,
    notices: list[str],
) -> CameraCalibration:
    """Calibration of the full rectified image. Raises ValueError."""
    size = int(msg.width), int(msg.height)
    rotation = _rectification(msg, notices)
    pose = np.eye(4)
    pose[:3, :3] = rotation
    if projection is None:
        notices.append(
            "rectified images, but P of the CameraInfo is zero: K is used without distortion, as if the "
            "images were rectified with K"
        )
        full, source = CameraModel(*size, k), "K of the CameraInfo"
    else:
        if not np.isfinite(projection).all() or projection[2, 3] != 0:
            raise ValueError("P must be finite and its last row 0 0 1 0")
        full, source = CameraModel(*size, projection[:, :3]), "P of the CameraInfo"
        if apply_baseline:
            pose[:3, 3] = np.linalg.solve(projection[:, :3], projection[:, 3])
        notices.append(_describe_rectified(pose, projection, apply_baseline))
    identity = np.array_equal(pose, np.eye(4))
    return CameraCalibration(full, source, None if identity else pose)


def _describe_rectified(
    pose: NDArray[np.float64], projection: NDArray[np.float64], apply_baseline: bool
) -> str:
    text = "rectified images: P[:, :3] of the CameraInfo is used without D"
    cosine = (np.trace(pose[:3, :3]) - 1) / 2
    degrees = float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
    if degrees > 1e-4:
        text += f", rotated by R ({degrees:.3g} deg)"
    if apply_baseline and pose[:3, 3].any():
        x, y, _ = 0.0 - pose[:3, 3]
        text += (
            f", optical centre displaced by ({x:.4g}, {y:.4g}) m as the fourth column of P states "
            "(set apply_baseline: false if frame_id is the camera's own frame)"
        )
    elif projection[:, 3].any():
        text += ", the fourth column of P is ignored (apply_baseline: false)"
    return text


def _rectification(msg: Any, notices: list[str]) -> NDArray[np.float64]:
    """Return the rotation R (3, 3). Raises ValueError if it is neither zero nor a rotation."""
    values = np.array(getattr(msg, "r", ()), np.float64)
    if values.size == 0 or (values.size == 9 and not values.any()):
        notices.append("R of the CameraInfo is zero: the identity is used")
        return np.eye(3)
    if values.size != 9 or not np.isfinite(values).all():
        raise ValueError("R must have 9 finite values")
    rotation = values.reshape(3, 3)
    if np.abs(rotation).max() > 2 or np.linalg.det(rotation) <= 0:
        raise ValueError("R is not a rotation matrix")
    error = float(np.abs(rotation @ rotation.T - np.eye(3)).max())
    if error < 1e-9:
        return rotation
    if error > MAX_ROTATION_ERROR:
        raise ValueError(f"R is not a rotation matrix (deviation {error:.2g})")
    u, _, vt = np.linalg.svd(rotation)
    return np.asarray(u @ vt)


def _cropped(full: CameraModel, roi: Any, notices: list[str]) -> CameraModel:
    """Return the model of the region of interest. Raises ValueError if it exceeds the image."""
    x, y, width, height = (int(v) for v in (roi.x_offset, roi.y_offset, roi.width, roi.height))
    if not (width or height):
        if x or y:
            notices.append(f"roi of size 0 at ({x}, {y}): taken as the full image")
        return full
    if not (width and height):
        notices.append(f"roi of size {width}x{height}: taken as the full image")
        return full
    if (x, y, width, height) == (0, 0, full.width, full.height):
        return full
    if x + width > full.width or y + height > full.height:
        raise ValueError(
            f"roi {width}x{height} at ({x}, {y}) exceeds the image of {full.width}x{full.height}"
        )
    matrix = full.matrix.copy()
    matrix[:2, 2] -= x, y
    return CameraModel(width, height, matrix, full.model, full.coefficients)


def _binned(model: CameraModel, msg: Any) -> CameraModel:
    """Return the model of the binned image; an incomplete last column or row is cut off."""
    columns, rows = max(int(msg.binning_x), 1), max(int(msg.binning_y), 1)
    if columns == 1 and rows == 1:
        return model
    matrix = np.diag([1 / columns, 1 / rows, 1.0])
    matrix[:2, 2] = (1 / columns - 1) / 2, (1 / rows - 1) / 2
    return CameraModel(
        model.width // columns,
        model.height // rows,
        matrix @ model.matrix,
        model.model,
        model.coefficients,
    )


def _names(model: str) -> str:
    return ", ".join(repr(k) for k, v in DISTORTION_MODELS.items() if v == model)


ACCEPTED: tuple[Accepted, ...] = (
    Accepted(
        "sensor_msgs/CameraInfo: matrix of raw images",
        ("K (9 values) with D",),
        "If K is zero, P is valid and D is zero, the images are taken as rectified (notice).",
        "Dropped and counted as bad_camera_info; a notice states why.",
    ),
    Accepted(
        "sensor_msgs/CameraInfo: matrix of rectified images",
        ("P (12 values) with R", "K if P is zero (notice)"),
        "Pixel = P [R X; 1] for a point X in the optical frame; D is not used. The fourth column of "
        "P displaces the optical centre (apply_baseline). R of zeros is taken as the identity (notice).",
        "R that is not a rotation, or P with another last row than 0 0 1 0: bad_camera_info.",
    ),
    Accepted(
        "Rectified or raw image (rig key rectified: auto)",
        (*RECTIFIED_WORDS, *(f"not: {w}" for w in RAW_WORDS)),
        "A word of the image topic or, if it has none, of the CameraInfo topic, separated by / or _; "
        f"the last three segments count, without {', '.join(TRANSPORTS)}.",
        "Taken as raw: K and D.",
    ),
    *(
        Accepted(
            f"sensor_msgs/CameraInfo: distortion_model {_names(model)}",
            tuple(f"{n} coefficients" for n in counts),
            "Coefficients in the order of OpenCV; trailing zeros beyond these counts are dropped. "
            + ("" if model == "equidistant" else "All zero: pinhole."),
            "Other names or counts: bad_camera_info.",
        )
        for model, counts in DISTORTION_COUNTS.items()
    ),
    Accepted(
        "sensor_msgs/CameraInfo: binning and roi",
        ("binning 0 or 1: none", "binning n", "roi inside the image", "roi of size 0: full image"),
        "The principal point is shifted by the offset of the roi; the size is divided by the binning "
        "and rounded down. Images of the full size use the full intrinsics (notice).",
        "A roi that exceeds the image: bad_camera_info.",
    ),
    Accepted(
        "Image size and CameraInfo",
        ("equal size", "exactly equal aspect ratio"),
        "Intrinsics are scaled to images of the same aspect ratio (notice).",
        "Dropped and counted as image_size; a notice states both sizes.",
    ),
)
