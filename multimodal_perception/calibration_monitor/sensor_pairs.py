"""One look at a pair of sensors in one frame: by how much an image sensor is turned against the other.

A camera is held against a LiDAR, a thermal camera against the camera that shares its view. What the
other sensor sees is drawn into the image's own view by the calibration as it is assumed, and the turn
that would make both fit is searched for. Shifts of a sensor by centimetres are told apart from turns
by nearby things alone, and are not searched for; a turn of half a degree moves what is 20 m away by
17 cm.
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
    fit_motion,
    rotation_grid,
    rotation_moves,
)
from multimodal_perception.calibration_monitor.edge_matching import Mask, match_blocks, structure
from multimodal_perception.frame import CameraImage, SensorFrame
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.images.thermal_normalization import gain_controlled
from multimodal_perception.images.view_warp import warp_between

# Views are made so wide at most, pixels; more costs time and is no more precise between sensors.
WIDEST = 640
BLOCK, LEAST_STEP, MOST_BLOCKS = 64, 32, 90
# Largest turn about each axis that is searched for, and the displacements that it takes, pixels.
REACH, DISPLACEMENT = np.radians(2.5), 28
# A LiDAR's point speaks for what lies within so many pixels, where none is nearer.
FILL = 8.0
# Of a view so much must be seen by the other sensor.
LEAST_OVERLAP = 0.1


@dataclass(frozen=True)
class Pair:
    """An image sensor, and the one that it is held against: a LiDAR or a camera."""

    sensor: str
    reference: str
    kind: Literal["camera-lidar", "thermal-camera"]

    def __str__(self) -> str:
        return f"{self.sensor} to {self.reference}"


@dataclass(frozen=True)
class Look:
    """What one frame says of a pair.

    turn: (3,) rotation vector in the sensor's optical frame, radians: directions that the calibration
    puts at d are seen at R(turn) d. covariance: (3, 3), of chance alone. pixel: (3,) radians about each
    axis that move the view by a pixel. focal: (2,) focal lengths x, y of the sensor's own image, pixels.
    support, distinct: see fit.Fit.
    """

    pair: Pair
    stamp_ns: int
    turn: NDArray[np.float64]
    covariance: NDArray[np.float64]
    pixel: NDArray[np.float64]
    focal: NDArray[np.float64]
    support: float
    distinct: float


@dataclass(frozen=True)
class Sight:
    """Both sensors of a pair in the sensor's own view, smaller.

    image: (H, W) uint8, its own. drawn: (H, W) float32 images of the other's, with seen (H, W).
    """

    model: CameraModel
    image: NDArray[np.uint8]
    drawn: tuple[NDArray[np.float32], ...]
    seen: Mask


def pairs_of(frame: SensorFrame) -> Iterator[Pair]:
    """The pairs that a frame's readings and calibration allow; sweeps must be deskewed."""
    cameras = [n for n in frame.cameras if _placed(frame, n)]
    for camera in cameras:
        for lidar, sweep in frame.lidars.items():
            # Where the vehicle's motion is not known a sweep is bent, by degrees at 10 m/s.
            if lidar in frame.base_from_sensor and sweep.time_offsets is None:
                yield Pair(camera, lidar, "camera-lidar")
    for thermal in frame.thermals:
        if _placed(frame, thermal) and cameras:
            axis = frame.base_from_sensor[thermal][:3, 2]
            nearest = max(cameras, key=lambda n: float(axis @ frame.base_from_sensor[n][:3, 2]))
            yield Pair(thermal, nearest, "thermal-camera")


def look(
    frame: SensorFrame, pair: Pair, cancelled: Callable[[], bool] = lambda: False
) -> Look | None:
    """One frame's word on a pair; None where the two share too little that can be told apart.

    cancelled: asked now and then; once it is true there is no answer, soon.
    """
    sight = see(frame, pair)
    if sight is None or cancelled():
        return None
    features = [structure(drawn, sight.seen) for drawn in sight.drawn]
    drawn = np.asarray(np.sum([f for f, _ in features], 0), np.float32)
    model = sight.model
    area = (model.width - BLOCK) * (model.height - BLOCK)
    if area <= 0:
        return None
    step = max(LEAST_STEP, int(np.sqrt(area / MOST_BLOCKS)))
    blocks = match_blocks(
        (drawn, features[0][1]), structure(sight.image), BLOCK, step, DISPLACEMENT, cancelled
    )
    if cancelled():
        return None
    focal = float(model.matrix[0, 0])
    fit = fit_motion(blocks, rotation_moves(blocks.centres, model), rotation_grid(REACH, focal))
    if fit is None or not np.isfinite(fit.covariance).all():
        return None
    # A turn about the axis moves what lies at the radius of the view's mean, 0.3 of its width.
    pixel = np.array([1 / model.matrix[1, 1], 1 / focal, 1 / (0.3 * model.width)])
    own = frame.intrinsics[pair.sensor].matrix
    return Look(
        pair,
        frame.readings[pair.sensor].stamp_ns,
        fit.values,
        fit.covariance,
        pixel,
        own[(0, 1), (0, 1)],
        fit.support,
        fit.distinct,
    )


def see(frame: SensorFrame, pair: Pair, turn: NDArray[np.float64] | None = None) -> Sight | None:
    """The pair in one view, the calibration turned by `turn`; None where they share too little."""
    model = frame.intrinsics[pair.sensor]
    factor = min(1.0, WIDEST / model.width)
    size = round(model.width * factor), round(model.height * factor)
    view = model.scaled(size[0] / model.width, size[1] / model.height)
    image = cv2.resize(_grey(frame, pair.sensor), size, interpolation=cv2.INTER_AREA)
    pose = frame.reference_from_sensor(pair.sensor)
    if turn is not None:
        pose = turned(pose, turn)
    drawn: tuple[NDArray[np.float32], ...]
    if pair.kind == "camera-lidar":
        *drawn_list, seen = lidar_images(frame, pair.reference, view, pose)
        # A single wrong return is no edge.
        drawn = (cv2.medianBlur(np.log(np.maximum(drawn_list[0], 0.5)), 5), drawn_list[1])
    else:
        warped, seen = _camera_image(frame, pair.reference, view, pose)
        drawn = (warped.astype(np.float32),)
    if seen.mean() < LEAST_OVERLAP:
        return None
    return Sight(view, image, drawn, seen)


def turned(
    base_from_optical: NDArray[np.float64], turn: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The pose (4, 4) that a sensor has if everything is seen turned by `turn` (see Look)."""
    back = np.eye(4)
    back[:3, :3] = Rotation.from_rotvec(-np.asarray(turn)).as_matrix()
    return base_from_optical @ back


def lidar_images(
    frame: SensorFrame, lidar: str, view: CameraModel, base_from_view: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.float32], Mask]:
    """Depth (metres) and intensity (H, W) float32 of a sweep in a view, each pixel as the nearest point
    says, and which pixels (H, W) have one within FILL."""
    sweep = frame.lidars[lidar]
    view_from_lidar = poses.inverse(base_from_view) @ frame.reference_from_sensor(lidar)
    local = poses.transform_points(view_from_lidar, sweep.points[:, :3].astype(np.float64))
    pixels, ok = view.project(local)
    depth, intensity = (np.zeros((view.height, view.width), np.float32) for _ in range(2))
    # The nearest is written last, over what it hides.
    order = np.flatnonzero(ok)[np.argsort(-local[ok, 2], kind="stable")]
    at = np.rint(pixels[order]).astype(np.int64)
    depth[at[:, 1], at[:, 0]] = np.linalg.norm(local[order], axis=1)
    intensity[at[:, 1], at[:, 0]] = sweep.points[order, 3]
    if not len(order):
        return depth, intensity, np.zeros(depth.shape, np.bool_)
    away, label = cv2.distanceTransformWithLabels(
        (depth == 0).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    told = depth > 0
    result = []
    for values in (depth, intensity):
        of_label = np.zeros(int(label.max()) + 1, np.float32)
        of_label[label[told]] = values[told]
        result.append(of_label[label])
    return result[0], result[1], away <= FILL


def _camera_image(
    frame: SensorFrame, camera: str, view: CameraModel, base_from_view: NDArray[np.float64]
) -> tuple[NDArray[np.uint8], Mask]:
    """A camera's image in another view, placed by the LiDARs' depth where they see, else the ground."""
    distance = np.full((view.height, view.width), np.nan)
    for lidar in frame.lidars:
        if lidar in frame.base_from_sensor:
            depth, _, known = lidar_images(frame, lidar, view, base_from_view)
            distance = np.where(known & ~(distance < depth), depth, distance)
    grey, source = _grey(frame, camera), frame.intrinsics[camera]
    shrink = min(1.0, view.matrix[0, 0] / source.matrix[0, 0])
    if shrink < 0.67:  # else fine texture of the camera would become noise
        size = round(source.width * shrink), round(source.height * shrink)
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
        source = source.scaled(size[0] / source.width, size[1] / source.height)
    pose = frame.reference_from_sensor(camera)
    warp = warp_between(view, base_from_view, source, pose, distance=distance)
    return warp.apply(grey), warp.seen


def _grey(frame: SensorFrame, sensor: str) -> NDArray[np.uint8]:
    """An image (H, W) uint8."""
    image = frame.readings[sensor]
    if not isinstance(image, CameraImage):
        return gain_controlled(image.pixels, 16.0)  # type: ignore[union-attr]
    if image.encoding == "mono8":
        return np.ascontiguousarray(image.pixels)
    code = cv2.COLOR_RGB2GRAY if image.encoding == "rgb8" else cv2.COLOR_BGR2GRAY
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(image.pixels), code), np.uint8)


def _placed(frame: SensorFrame, sensor: str) -> bool:
    return sensor in frame.intrinsics and sensor in frame.base_from_sensor
