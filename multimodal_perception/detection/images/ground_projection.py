"""Projection of 2D boxes in images onto the ground plane: monocular 3D boxes without depth.

The centre of a box's lower edge is taken as the point where the object meets the ground. Its viewing
ray, from the exact camera model, gives the position; the class gives the size. For people and cyclists,
whose heights vary little, the box's height gives a second estimate of the distance, and the two are
combined by their variances (a kerb alone shifts the first estimate by up to a tenth).

The covariance covers what cannot be known from one image: pitch of the vehicle, slope of the road,
heading of the object, and errors of the box's edges. The score is the 2D box's score times the
probability that the position error is below SCORE_RADIUS.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf

from multimodal_perception.frame import CLASS_NAMES, Boxes3D, SensorFrame
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.boxes import non_maximum_suppression
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.geometry.image_boxes import areas, intersections
from multimodal_perception.perception import Boxes2D

# A projected box counts as correct within this distance of the object, metres.
SCORE_RADIUS = 2.0
# Boxes closer than this to the image border are considered truncated by it, pixels.
BORDER_MARGIN = 1.5
# Factor on the position's standard deviation if another, closer box covers the lower edge: the object's
# contact with the ground may be occluded.
OCCLUSION_STD_FACTOR = 3.0
# Fraction of the lower edge that the other box must cover.
OCCLUDED_FRACTION = 0.5
# merge_with_nms drops the box of lower score where the BEV overlap (IoU) is larger.
MERGE_NMS_IOU = 0.2
# A box's height on the ground may exceed the range of its class by these factors.
MIN_HEIGHT_FACTOR, MAX_HEIGHT_FACTOR = 0.6, 1.6
# Standard deviation of the edges of a 2D box as a fraction of its height.
EDGE_STD_RATIO = 0.03


@dataclass(frozen=True)
class ClassPrior:
    """Dimensions of a class of the image detector. Metres.

    label: name in CLASS_NAMES. size: mean length, width and height. heights: minimum and maximum height.
    centre_std: standard deviation of the object's half extent along the viewing direction. inset:
    distance from the outline to the visible contact with the ground. height_std_ratio: standard
    deviation of the height as a fraction of it; infinite if the height is not used for the distance.
    """

    label: str
    size: tuple[float, float, float]
    heights: tuple[float, float]
    centre_std: float
    inset: float
    height_std_ratio: float


CLASS_PRIORS = {
    "vehicle": ClassPrior("car", (4.5, 1.8, 1.6), (1.2, 4.0), 0.7, 0.9, np.inf),
    "person": ClassPrior("pedestrian", (0.6, 0.6, 1.65), (1.1, 2.0), 0.2, 0.2, 0.09),
    "cyclist": ClassPrior("cyclist", (1.75, 0.6, 1.72), (1.4, 2.1), 0.4, 0.2, 0.07),
}


@dataclass(frozen=True)
class GroundProjectionConfig:
    """Projection of 2D boxes onto the ground plane.

    Attributes:
        max_range: Boxes that would be farther away are dropped. Increase it for high-resolution cameras;
            the position error grows with the square of the distance.
        ground_std: Standard deviation of the ground's height below an object, kerbs included. Increase
            it for uneven terrain; positions are then reported as less certain.
        pitch_std_deg: Standard deviation of the camera's pitch relative to the ground, including slopes.
            Increase it for vehicles with soft suspension or hilly roads.
        edge_std: Standard deviation of the edges of a 2D box, in addition to 3 % of its height. Increase
            it if the image detector's boxes are imprecise.
    """

    max_range: float = field(default=50.0, metadata={"min": 1.0, "max": 200.0, "unit": "m"})
    ground_std: float = field(default=0.07, metadata={"min": 0.0, "max": 5.0, "unit": "m"})
    pitch_std_deg: float = field(default=0.25, metadata={"min": 0.0, "max": 10.0, "unit": "deg"})
    edge_std: float = field(default=1.0, metadata={"min": 0.0, "max": 50.0, "unit": "px"})


def project_image_boxes(
    boxes2d: Boxes2D,
    model: CameraModel,
    base_from_camera: NDArray[np.float64],
    stamp_ns: int,
    frame_id: str,
    config: GroundProjectionConfig | None = None,
    ground_z: float = 0.0,
) -> Boxes3D:
    """3D boxes on the ground from the 2D boxes of one image, highest score first, with covariances.

    model: camera model at the size of the boxes' image. base_from_camera: (4, 4) pose of the optical
    frame in frame_id. ground_z: height of the ground plane in frame_id, metres.

    Boxes are dropped if their class has no prior, if the lower image border truncates them, if the ray
    of the lower edge does not meet the ground within max_range, or if their height is implausible for
    the class.
    """
    config = config or GroundProjectionConfig()
    rows, scores, labels, covariances = [], [], [], []
    occluded = _occluded_at_ground(boxes2d.boxes)
    for i in range(len(boxes2d)):
        prior = CLASS_PRIORS.get(boxes2d.class_names[boxes2d.labels[i]])
        if prior is None:
            continue
        projected = _project_box(
            boxes2d.boxes[i], prior, model, base_from_camera, bool(occluded[i]), config, ground_z
        )
        if projected is None:
            continue
        row, radial_std, lateral_std, bearing = projected
        rows.append(row)
        covariances.append(_covariance(radial_std, lateral_std, bearing, prior))
        std = max(radial_std, lateral_std, 1e-6)
        probability = erf(SCORE_RADIUS / (np.sqrt(2.0) * std))
        scores.append(float(boxes2d.scores[i]) * float(probability))
        labels.append(CLASS_NAMES.index(prior.label))
    order = np.argsort(-np.array(scores), kind="stable").astype(np.int64)
    return Boxes3D(
        stamp_ns,
        frame_id,
        np.array(rows, np.float32).reshape(-1, 7)[order],
        np.array(scores, np.float32)[order],
        np.array(labels, np.int64)[order],
        covariances=np.array(covariances, np.float32).reshape(-1, 6, 6)[order],
    )


def project_frame_boxes(
    boxes2d: Mapping[str, Boxes2D], frame: SensorFrame, config: GroundProjectionConfig | None = None
) -> Boxes3D:
    """3D boxes on the ground from the 2D boxes of all images, in the frame's base_link at its stamp.

    boxes2d: by sensor. Duplicates from overlapping images are merged.
    """
    boxes = Boxes3D.empty(frame.stamp_ns, frame.base_frame)
    for name, image_boxes in boxes2d.items():
        pose = frame.reference_from_sensor(name)
        model = frame.intrinsics[name]
        projected = project_image_boxes(
            image_boxes, model, pose, frame.stamp_ns, frame.base_frame, config, frame.ground_z
        )
        boxes = merge_with_nms(boxes, projected)
    return boxes


def merge_with_nms(first: Boxes3D, second: Boxes3D) -> Boxes3D:
    """Boxes of two detectors of one frame after non-maximum suppression, highest score first.

    Boxes without covariance get zeros, which means unknown.
    """
    if not len(second):
        return first
    parts = [b for b in (first, second) if len(b)]
    covariances = [
        np.zeros((len(b), 6, 6), np.float32) if b.covariances is None else b.covariances
        for b in parts
    ]
    boxes = np.concatenate([b.boxes for b in parts])
    scores = np.concatenate([b.scores for b in parts])
    merged = Boxes3D(
        first.stamp_ns,
        first.frame_id,
        boxes,
        scores,
        np.concatenate([b.labels for b in parts]),
        covariances=np.concatenate(covariances),
    )
    return merged.select(non_maximum_suppression(boxes, scores, MERGE_NMS_IOU))


def _project_box(
    box: NDArray[np.float32],
    prior: ClassPrior,
    model: CameraModel,
    base_from_camera: NDArray[np.float64],
    occluded: bool,
    config: GroundProjectionConfig,
    ground_z: float,
) -> tuple[NDArray[np.float64], float, float, float] | None:
    """Box (7,), radial and lateral standard deviation in metres, and bearing; None if it is dropped.

    Radial is along the horizontal viewing direction, lateral perpendicular to it.
    """
    x1, y1, x2, y2 = (float(v) for v in box)
    if y2 > model.height - BORDER_MARGIN:
        return None
    centre_x, edge = (x1 + x2) / 2 - 0.5, config.edge_std + EDGE_STD_RATIO * (y2 - y1)
    # Lower edge, upper edge, lower left, lower right, and the lower edge one standard deviation higher.
    pixels = [
        (centre_x, y2 - 0.5),
        (centre_x, y1 - 0.5),
        (x1 - 0.5, y2 - 0.5),
        (x2 - 0.5, y2 - 0.5),
    ]
    pixels += [(centre_x, y2 - 0.5 - edge)]
    rays = model.unproject(pixels) @ base_from_camera[:3, :3].T  # (5, 3)
    if not np.isfinite(rays).all():
        return None
    camera = base_from_camera[:3, 3]
    camera_height = camera[2] - ground_z
    horizontal = np.linalg.norm(rays[:, :2], axis=1)
    depression = np.arctan2(-rays[:, 2], horizontal)
    if camera_height <= 0.0 or depression[0] <= 0.0:
        return None
    distance = camera_height / np.tan(depression[0])
    edge_angle = abs(depression[0] - depression[4])
    if distance > config.max_range:
        return None
    # d = h / tan(a): an angle error is amplified by (d^2 + h^2) / h.
    angle_std = np.hypot(np.radians(config.pitch_std_deg), edge_angle)
    radial_std = angle_std * (distance**2 + camera_height**2) / camera_height
    radial_std = np.hypot(radial_std, distance * config.ground_std / camera_height)
    radial_std = radial_std * (OCCLUSION_STD_FACTOR if occluded else 1.0)
    if np.isfinite(prior.height_std_ratio):
        distance, radial_std = _fuse_height_estimate(
            distance, radial_std, depression, edge_angle, prior
        )
    bearing = float(np.arctan2(rays[0, 1], rays[0, 0]))
    sides = np.arctan2(rays[2:4, 1], rays[2:4, 0])
    apparent_width = distance * abs(poses.wrap_angle(sides[0] - sides[1]))
    yaw = _estimate_yaw(prior, bearing, float(apparent_width))
    distance += _half_extent(prior, yaw - bearing) - prior.inset
    height = camera_height - distance * np.tan(depression[1])
    if not (MIN_HEIGHT_FACTOR * prior.heights[0] <= height <= MAX_HEIGHT_FACTOR * prior.heights[1]):
        return None
    height = float(np.clip(height, *prior.heights))
    x, y = camera[:2] + distance * np.array([np.cos(bearing), np.sin(bearing)])
    row = np.array([x, y, ground_z + height / 2, *prior.size[:2], height, yaw])
    truncated = x1 < BORDER_MARGIN or x2 > model.width - BORDER_MARGIN
    lateral_std = np.hypot(
        distance * edge_angle, prior.size[0] / 2 if truncated else prior.centre_std / 2
    )
    return row, float(np.hypot(radial_std, prior.centre_std)), float(lateral_std), bearing


def _fuse_height_estimate(
    distance: float,
    radial_std: float,
    depression: NDArray[np.float64],
    edge_angle: float,
    prior: ClassPrior,
) -> tuple[float, float]:
    """A distance and its standard deviation, combined with the estimate from the class's height."""
    height_per_distance = np.tan(depression[0]) - np.tan(depression[1])
    by_height = prior.size[2] / height_per_distance
    by_height_std = by_height * np.hypot(
        prior.height_std_ratio, np.sqrt(2.0) * edge_angle / height_per_distance
    )
    weight = radial_std**2 / (radial_std**2 + by_height_std**2)
    fused_std = radial_std * by_height_std / np.hypot(radial_std, by_height_std)
    return distance + weight * (by_height - distance), fused_std


def _estimate_yaw(prior: ClassPrior, bearing: float, apparent_width: float) -> float:
    """0 or pi / 2, whichever explains the apparent width better; the image gives no better heading."""
    widths = []
    for yaw in (0.0, np.pi / 2):
        widths.append(2 * _half_extent(prior, yaw - bearing + np.pi / 2))
    return 0.0 if abs(widths[0] - apparent_width) <= abs(widths[1] - apparent_width) else np.pi / 2


def _half_extent(prior: ClassPrior, angle: float) -> float:
    """Half the extent of a footprint along a direction at an angle to its length."""
    length, width = prior.size[:2]
    return float(0.5 * (length * abs(np.cos(angle)) + width * abs(np.sin(angle))))


def _covariance(
    radial_std: float, lateral_std: float, bearing: float, prior: ClassPrior
) -> NDArray[np.float64]:
    """Covariance (6, 6) of x, y, z, roll, pitch, yaw. z: a tenth of the height; yaw: 45 degrees."""
    c, s = np.cos(bearing), np.sin(bearing)
    rotation = np.array([[c, -s], [s, c]])
    covariance = np.zeros((6, 6))
    covariance[:2, :2] = rotation @ np.diag([radial_std**2, lateral_std**2]) @ rotation.T
    covariance[2, 2] = (0.1 * prior.size[2]) ** 2
    covariance[3, 3] = covariance[4, 4] = np.radians(3.0) ** 2
    covariance[5, 5] = (np.pi / 4) ** 2
    return covariance


def _occluded_at_ground(boxes: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Mask (N,) of boxes (N, 4) whose lower edge is covered by a box that extends further down."""
    edges = boxes.copy()
    edges[:, 1] = boxes[:, 3] - 1.0
    covered = intersections(edges, boxes) / np.maximum(areas(edges), 1e-6)[:, None]
    extends_lower = boxes[None, :, 3] > boxes[:, None, 3] + 2.0
    return np.asarray((extends_lower & (covered > OCCLUDED_FRACTION)).any(axis=1), np.bool_)
