"""Measurement of the rotation error between two sensors from one frame.

A camera is compared with a LiDAR, and a thermal camera with the camera that shares its view. The data
of the reference sensor is rendered into the image sensor's view with the current extrinsics. The search
then finds the rotation that aligns both. A translation error of a few centimetres differs from a
rotation only in nearby objects; it is estimated from many frames (pose_error). A rotation error of half
a degree displaces an object at 20 m by 17 cm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from multimodal_perception.calibration_monitor.drift_estimation import (
    Fit,
    MotionModel,
    fit_motion,
    rotation_candidates,
    rotation_displacements,
)
from multimodal_perception.calibration_monitor.edge_matching import (
    Mask,
    edge_channels,
    match_blocks,
)
from multimodal_perception.calibration_monitor.lidar_rendering import (
    SPARSE_RINGS,
    fill_columns,
    fill_nearest,
    ring_distance,
)
from multimodal_perception.calibration_monitor.pose_error import (
    BlockShifts,
    block_inverse_distances,
    block_shifts,
)
from multimodal_perception.frame import CameraImage, SensorFrame
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.images.thermal_normalization import auto_gain
from multimodal_perception.images.view_warp import warp_between

# Maximum width of the compared views, px. Wider views cost time and do not improve the precision.
MAX_VIEW_WIDTH = 640
# Block size, minimum step between blocks (px) and approximate maximum number of blocks.
BLOCK_SIZE, MIN_BLOCK_STEP, MAX_BLOCKS = 64, 32, 90
# Largest rotation about each axis in the search, rad, and the displacement that it causes, px.
MAX_ROTATION, MAX_DISPLACEMENT = np.radians(2.5), 28
# Standard deviation of the displacement in one frame as a fraction of the distance of the rings.
RING_ERROR = 0.15
# Minimum fraction of the view that the reference sensor must cover.
MIN_OVERLAP = 0.1


@dataclass(frozen=True)
class Pair:
    """An image sensor and the reference sensor (LiDAR or camera) that it is compared with."""

    sensor: str
    reference: str
    kind: Literal["camera-lidar", "thermal-camera"]

    def __str__(self) -> str:
        return f"{self.sensor} to {self.reference}"


@dataclass(frozen=True)
class RotationMeasurement:
    """Rotation error of a pair, measured in one frame.

    rotation: (3,) rotation vector in the sensor's optical frame, rad. A direction d predicted by the
    extrinsics is observed at R(rotation) d. covariance: (3, 3), random error only. radians_per_pixel:
    (3,) rotation about each axis that moves the view by one pixel. focal: (2,) focal lengths x, y of
    the sensor's full-size image, px. inlier_fraction, peak_margin: see drift_estimation.Fit. blocks: of
    pairs with a LiDAR, for the estimate of the translation.
    """

    pair: Pair
    stamp_ns: int
    rotation: NDArray[np.float64]
    covariance: NDArray[np.float64]
    radians_per_pixel: NDArray[np.float64]
    focal: NDArray[np.float64]
    inlier_fraction: float
    peak_margin: float
    blocks: BlockShifts | None = None


@dataclass(frozen=True)
class PairViews:
    """The data of both sensors of a pair in the image sensor's view, downscaled.

    image: (H, W) uint8, grey image of the sensor. reference: images (H, W) float32 rendered from the
    reference sensor. valid: (H, W) bool, pixels covered by the reference sensor. ring_distance: of a
    LiDAR, px.
    """

    model: CameraModel
    image: NDArray[np.uint8]
    reference: tuple[NDArray[np.float32], ...]
    valid: Mask
    ring_distance: float = 0.0


def find_pairs(frame: SensorFrame) -> Iterator[Pair]:
    """All pairs of a frame whose readings and calibration are present. Sweeps must be deskewed."""
    cameras = [n for n in frame.cameras if _has_pose(frame, n)]
    for camera in cameras:
        for lidar, sweep in frame.lidars.items():
            # Without odometry a sweep is distorted by the vehicle's motion, by degrees at 10 m/s.
            if lidar in frame.base_from_sensor and sweep.time_offsets is None:
                yield Pair(camera, lidar, "camera-lidar")
    for thermal in frame.thermals:
        if _has_pose(frame, thermal) and cameras:
            axis = frame.base_from_sensor[thermal][:3, 2]
            nearest = max(cameras, key=lambda n: float(axis @ frame.base_from_sensor[n][:3, 2]))
            yield Pair(thermal, nearest, "thermal-camera")


def measure_rotation_error(
    frame: SensorFrame, pair: Pair, cancelled: Callable[[], bool] = lambda: False
) -> RotationMeasurement | None:
    """Measure the rotation error of a pair in one frame; None if the views share too few edges.

    cancelled: polled during the measurement; once it returns true, the measurement stops and returns
    None.
    """
    views = render_pair(frame, pair)
    if views is None or cancelled():
        return None
    channels = [edge_channels(image, views.valid) for image in views.reference]
    reference = np.asarray(np.sum([c for c, _ in channels], 0), np.float32)
    model = views.model
    area = (model.width - BLOCK_SIZE) * (model.height - BLOCK_SIZE)
    if area <= 0:
        return None
    step = max(MIN_BLOCK_STEP, int(np.sqrt(area / MAX_BLOCKS)))
    blocks = match_blocks(
        (reference, channels[0][1]),
        edge_channels(views.image),
        BLOCK_SIZE,
        step,
        MAX_DISPLACEMENT,
        cancelled,
    )
    if cancelled():
        return None
    focal = float(model.matrix[0, 0])
    motion_model = rotation_displacements(blocks.centres, model)
    fit = fit_motion(blocks, motion_model, rotation_candidates(MAX_ROTATION, focal))
    if fit is None or not np.isfinite(fit.covariance).all():
        return None
    # A rotation about the optical axis is converted at the mean radius of the view, 0.3 of its width.
    radians_per_pixel = np.array([1 / model.matrix[1, 1], 1 / focal, 1 / (0.3 * model.width)])
    # The edges of a LiDAR are between its rings, at places that change from frame to frame.
    gap = views.ring_distance if views.ring_distance >= SPARSE_RINGS else 0.0
    sampling = np.diag((RING_ERROR * gap * radians_per_pixel) ** 2)
    full_size = frame.intrinsics[pair.sensor].matrix
    return RotationMeasurement(
        pair,
        frame.readings[pair.sensor].stamp_ns,
        fit.values,
        fit.covariance + sampling,
        radians_per_pixel,
        full_size[(0, 1), (0, 1)],
        fit.inlier_fraction,
        fit.peak_margin,
        _block_shifts(views, pair, blocks.centres, fit, motion_model, reference),
    )


def _block_shifts(
    views: PairViews,
    pair: Pair,
    centres: NDArray[np.float64],
    fit: Fit,
    motion_model: MotionModel,
    channels: NDArray[np.float32],
) -> BlockShifts | None:
    """Shifts of the blocks with their distances; None for pairs without a LiDAR."""
    if pair.kind != "camera-lidar":
        return None
    distance, energy = np.exp(views.reference[0]), channels.sum(axis=0)
    inverse = block_inverse_distances(centres, BLOCK_SIZE, distance, views.valid, energy)
    # The displacements are linear in the rotation.
    by_rotation = np.moveaxis(motion_model(np.eye(3)), 0, -1)
    return block_shifts(views.model, centres, fit.peaks, fit.weights, inverse, by_rotation)


def render_pair(
    frame: SensorFrame, pair: Pair, rotation: NDArray[np.float64] | None = None
) -> PairViews | None:
    """Render both sensors of a pair into one view; None if they overlap too little.

    rotation: (3,) correction applied to the extrinsics first; see RotationMeasurement.
    """
    model = frame.intrinsics[pair.sensor]
    factor = min(1.0, MAX_VIEW_WIDTH / model.width)
    size = round(model.width * factor), round(model.height * factor)
    view = model.scaled(size[0] / model.width, size[1] / model.height)
    image = cv2.resize(_grey(frame, pair.sensor), size, interpolation=cv2.INTER_AREA)
    pose = frame.reference_from_sensor(pair.sensor)
    if rotation is not None:
        pose = rotated_pose(pose, rotation)
    reference: tuple[NDArray[np.float32], ...]
    rings = 0.0
    if pair.kind == "camera-lidar":
        depth, intensity, valid = render_lidar(frame, pair.reference, view, pose)
        rings = ring_distance(_projected(frame, pair.reference, view, pose)[0])
        # The median filter removes single wrong returns.
        reference = (cv2.medianBlur(np.log(np.maximum(depth, 0.5)), 5), intensity)
    else:
        warped, valid = _camera_image(frame, pair.reference, view, pose)
        reference = (warped.astype(np.float32),)
    if valid.mean() < MIN_OVERLAP:
        return None
    return PairViews(view, image, reference, valid, rings)


def rotated_pose(
    base_from_optical: NDArray[np.float64],
    rotation: NDArray[np.float64],
    translation: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """The sensor pose (4, 4) corrected by a measured rotation (see RotationMeasurement.rotation).

    translation: (3,), m, measured together with the rotation (see PoseError); zero by default.
    """
    error = np.eye(4)
    error[:3, :3] = Rotation.from_rotvec(np.asarray(rotation)).as_matrix()
    if translation is not None:
        error[:3, 3] = translation
    return base_from_optical @ poses.inverse(error)


def render_lidar(
    frame: SensorFrame, lidar: str, view: CameraModel, base_from_view: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.float32], Mask]:
    """Render a sweep into a view: depth (m) and intensity, both (H, W) float32, and a mask (H, W).

    The values between the points are filled in, see lidar_rendering.
    """
    pixels, distance, intensity = _projected(frame, lidar, view, base_from_view)
    sparse = ring_distance(pixels) >= SPARSE_RINGS
    fill = fill_columns if sparse else fill_nearest
    return fill(pixels, distance, intensity, view.width, view.height)


def _projected(
    frame: SensorFrame, lidar: str, view: CameraModel, base_from_view: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float32]]:
    """Pixels (N, 2), distances (N,) in metres and intensities (N,) of the points in a view."""
    sweep = frame.lidars[lidar]
    view_from_lidar = poses.inverse(base_from_view) @ frame.reference_from_sensor(lidar)
    local = poses.transform_points(view_from_lidar, sweep.points[:, :3].astype(np.float64))
    pixels, ok = view.project(local)
    return pixels[ok], np.linalg.norm(local[ok], axis=1), sweep.points[ok, 3]


def _camera_image(
    frame: SensorFrame, camera: str, view: CameraModel, base_from_view: NDArray[np.float64]
) -> tuple[NDArray[np.uint8], Mask]:
    """A camera's image warped into another view, and its mask.

    The warp uses the depth of the LiDARs where available, else the ground plane.
    """
    distance = np.full((view.height, view.width), np.nan)
    for lidar in frame.lidars:
        if lidar in frame.base_from_sensor:
            depth, _, known = render_lidar(frame, lidar, view, base_from_view)
            distance = np.where(known & ~(distance < depth), depth, distance)
    grey, source = _grey(frame, camera), frame.intrinsics[camera]
    shrink = min(1.0, view.matrix[0, 0] / source.matrix[0, 0])
    if shrink < 0.67:  # downscale first, or fine texture would alias
        size = round(source.width * shrink), round(source.height * shrink)
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
        source = source.scaled(size[0] / source.width, size[1] / source.height)
    pose = frame.reference_from_sensor(camera)
    warp = warp_between(
        view, base_from_view, source, pose, ground_z=frame.ground_z, distance=distance
    )
    return warp.apply(grey), warp.valid


def _grey(frame: SensorFrame, sensor: str) -> NDArray[np.uint8]:
    """Grey image (H, W) uint8 of a camera or thermal camera."""
    image = frame.readings[sensor]
    if not isinstance(image, CameraImage):
        return auto_gain(image.filled_pixels(), 16.0)  # type: ignore[union-attr]
    if image.encoding == "mono8":
        return np.ascontiguousarray(image.pixels)
    code = cv2.COLOR_RGB2GRAY if image.encoding == "rgb8" else cv2.COLOR_BGR2GRAY
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(image.pixels), code), np.uint8)


def _has_pose(frame: SensorFrame, sensor: str) -> bool:
    return sensor in frame.intrinsics and sensor in frame.base_from_sensor
