"""3D boxes of the 2D boxes in images without depth: fit to the ground plane and to sizes of the class.

Each 2D box is fitted by a 3D box that stands on the ground, by the exact camera model (see
monocular_fit). The covariance covers what cannot be known from one image: pitch of the vehicle, slope of
the road, size and heading of the object, and errors of the box's edges. The score is the 2D box's score
times the probability that the position error is below SCORE_RADIUS.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf

from multimodal_perception.detection.images.class_priors import CLASS_PRIORS
from multimodal_perception.detection.images.monocular_fit import FIT_COLUMNS, fit_boxes
from multimodal_perception.frame import CLASS_NAMES, Boxes3D
from multimodal_perception.geometry.boxes import non_maximum_suppression
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.geometry.image_boxes import areas, intersections
from multimodal_perception.perception import Boxes2D

# A 3D box counts as correct within this distance of the object, metres.
SCORE_RADIUS = 2.0
# Edges closer than this to the image border are considered cut by it, pixels and fraction of the width.
BORDER_MARGIN, BORDER_MARGIN_RATIO = 1.5, 0.004
# Factor on the standard deviation of the lower edge if another, closer box covers it: the object's
# contact with the ground may be occluded.
OCCLUSION_STD_FACTOR = 8.0
# Fraction of the lower edge that the other box must cover.
OCCLUDED_FRACTION = 0.5
# merge_with_nms drops the box of lower score where the BEV overlap (IoU) is larger.
MERGE_NMS_IOU = 0.2
# Standard deviation of the edges of a 2D box as a fraction of its width or height.
EDGE_STD_RATIO = 0.04
# Fits whose squared residuals sum up to more contradict the class or the ground plane: quantile 0.999 of
# the chi-squared distribution with four degrees of freedom.
MAX_COST = 18.5


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
        edge_std: Standard deviation of the edges of a 2D box, in addition to 4 % of its width or height.
            Increase it if the image detector's boxes are imprecise.
        max_age_s: Time for which the boxes of an image that is not processed in every frame are kept,
            if there is odometry. Increase it for many images that are processed in turns; 0 keeps
            nothing.
    """

    max_range: float = field(default=50.0, metadata={"min": 1.0, "max": 200.0, "unit": "m"})
    ground_std: float = field(default=0.1, metadata={"min": 0.0, "max": 5.0, "unit": "m"})
    pitch_std_deg: float = field(default=1.0, metadata={"min": 0.0, "max": 10.0, "unit": "deg"})
    edge_std: float = field(default=1.0, metadata={"min": 0.0, "max": 50.0, "unit": "px"})
    max_age_s: float = field(default=0.5, metadata={"min": 0.0, "max": 5.0, "unit": "s"})


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

    Boxes are dropped if their class has no size, if the camera is below the ground, or if no object of
    the class on the ground within max_range projects to the box.
    """
    boxes3d = fit_image_boxes(
        boxes2d, model, base_from_camera, stamp_ns, frame_id, config, ground_z
    )[0]
    return boxes3d.select(np.argsort(-boxes3d.scores, kind="stable"))


def fit_image_boxes(
    boxes2d: Boxes2D,
    model: CameraModel,
    base_from_camera: NDArray[np.float64],
    stamp_ns: int,
    frame_id: str,
    config: GroundProjectionConfig | None = None,
    ground_z: float = 0.0,
) -> tuple[Boxes3D, NDArray[np.int64]]:
    """As project_image_boxes, in the order of the 2D boxes; and the index (K,) of each one's 2D box."""
    config = config or GroundProjectionConfig()
    priors = [CLASS_PRIORS.get(boxes2d.class_names[k], ()) for k in boxes2d.labels]
    usable = np.array([bool(p) for p in priors], np.bool_)
    if base_from_camera[2, 3] <= ground_z:
        usable[:] = False
    sources = np.flatnonzero(usable)
    edges = _snap_to_border(boxes2d.boxes[sources].astype(np.float64), model)
    fits = fit_boxes(
        edges,
        _edge_stds(boxes2d.boxes, config)[sources],
        [np.array([p.row for p in priors[i]]) for i in sources],
        model,
        base_from_camera,
        ground_z,
        np.radians(config.pitch_std_deg),
        config.ground_std,
        config.max_range,
    )
    found = np.flatnonzero(fits[:, FIT_COLUMNS - 2] <= MAX_COST)
    fits, sources = fits[found], sources[found]
    labels = np.array(
        [
            CLASS_NAMES.index(priors[i][int(k)].label)
            for i, k in zip(sources, fits[:, 12], strict=True)
        ],
        np.int64,
    )
    rows = np.zeros((len(fits), 7), np.float32)
    rows[:, :2], rows[:, 3:6], rows[:, 6] = fits[:, :2], fits[:, 3:6], fits[:, 2]
    rows[:, 6] = np.mod(rows[:, 6] + np.pi / 2, np.pi) - np.pi / 2
    rows[:, 2] = ground_z + fits[:, 5] / 2
    covariances = _covariances(fits)
    std = np.sqrt(np.linalg.eigvalsh(covariances[:, :2, :2]).max(axis=1, initial=1e-12))
    probability = erf(SCORE_RADIUS / (np.sqrt(2.0) * std))
    boxes3d = Boxes3D(
        stamp_ns,
        frame_id,
        rows,
        (boxes2d.scores[sources] * probability).astype(np.float32),
        labels,
        covariances=covariances.astype(np.float32),
    )
    return boxes3d, sources


def compile_kernels() -> None:
    """Compile the kernels of the fit, or load them from the cache, before the first image."""
    model = CameraModel.pinhole(640, 360, 420.0)
    base_from_camera = np.array(
        [[0.0, 0.0, 1.0, 0.0], [-1.0, 0.0, 0.0, 0.0], [0.0, -1.0, 0.0, 1.5], [0.0, 0.0, 0.0, 1.0]]
    )
    label = next(iter(CLASS_PRIORS))
    box = Boxes2D(
        "",
        0,
        np.array([[280.0, 170.0, 360.0, 230.0]], np.float32),
        np.ones(1, np.float32),
        np.zeros(1, np.int64),
        (label,),
        (640, 360),
    )
    project_image_boxes(box, model, base_from_camera, 0, "")


def merge_with_nms(first: Boxes3D, second: Boxes3D) -> Boxes3D:
    """Boxes of two detectors of one frame after non-maximum suppression, highest score first.

    Optional values that only one of them has are unknown for the other, see Boxes3D.concatenate.
    """
    if not len(second):
        return first
    merged = Boxes3D.concatenate([b for b in (first, second) if len(b)])
    return merged.select(non_maximum_suppression(merged.boxes, merged.scores, MERGE_NMS_IOU))


def _covariances(fits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Covariances (N, 6, 6) of x, y, z, roll, pitch, yaw of fits (N, FIT_COLUMNS)."""
    result = np.zeros((len(fits), 6, 6))
    result[:, 0, 0], result[:, 1, 1] = fits[:, 6], fits[:, 7]
    result[:, 0, 1] = result[:, 1, 0] = fits[:, 8]
    result[:, 2, 2] = fits[:, 9]
    result[:, 3, 3] = result[:, 4, 4] = np.radians(3.0) ** 2
    # The heading is uniformly distributed where the image does not determine it.
    result[:, 5, 5] = np.minimum(fits[:, 10], np.pi**2 / 12)
    return result


def _edge_stds(boxes: NDArray[np.float32], config: GroundProjectionConfig) -> NDArray[np.float64]:
    """Standard deviations (N, 4) of the edges of boxes (N, 4), pixels."""
    sides = boxes[:, 2:] - boxes[:, :2]
    stds = config.edge_std + EDGE_STD_RATIO * np.concatenate([sides, sides], axis=1).astype(
        np.float64
    )
    stds[:, 3] *= np.where(_occluded_at_ground(boxes), OCCLUSION_STD_FACTOR, 1.0)
    return np.maximum(stds, 0.1)


def _snap_to_border(boxes: NDArray[np.float64], model: CameraModel) -> NDArray[np.float64]:
    """Boxes (N, 4) whose edges close to the image border are on it."""
    margin = max(BORDER_MARGIN, BORDER_MARGIN_RATIO * model.width)
    low = np.where(boxes[:, :2] < margin, 0.0, boxes[:, :2])
    size = np.array([model.width, model.height], np.float64)
    high = np.where(boxes[:, 2:] > size - margin, size, boxes[:, 2:])
    return np.concatenate([low, high], axis=1)


def _occluded_at_ground(boxes: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Mask (N,) of boxes (N, 4) whose lower edge is covered by a box that extends further down."""
    edges = boxes.copy()
    edges[:, 1] = boxes[:, 3] - 1.0
    covered = intersections(edges, boxes) / np.maximum(areas(edges), 1e-6)[:, None]
    extends_lower = boxes[None, :, 3] > boxes[:, None, 3] + 2.0
    return np.asarray((extends_lower & (covered > OCCLUDED_FRACTION)).any(axis=1), np.bool_)
