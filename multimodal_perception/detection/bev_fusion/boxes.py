"""Detections between and after the networks: selection, scores, velocities and covariances."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.detection.bev_fusion.network_config import VARIANCES
from multimodal_perception.detection.bev_fusion.proposals import shift_heights
from multimodal_perception.frame import Boxes3D
from multimodal_perception.geometry.boxes import non_maximum_suppression
from multimodal_perception.pointcloud.ground_segmentation import GroundModel

# Boxes are horizontal, but the ground below them may not be: variance of their roll and pitch, rad^2.
TILT_VARIANCE = np.radians(3.0) ** 2
# Variance of the velocity of proposals without one, m^2/s^2, and of a uniformly distributed yaw, rad^2.
UNKNOWN_VELOCITY_VARIANCE, UNKNOWN_YAW_VARIANCE = 100.0, np.pi**2 / 12
# Standard deviation of the log size of external proposals.
EXTERNAL_LOG_SIZE_STD = 0.2
# Scores are limited to this distance from 0 and 1 before their logit is taken.
MIN_SCORE = 1e-6


@dataclass(frozen=True)
class BevDetections:
    """Boxes of the networks, z above the ground.

    boxes: (N, 7). scores: (N,). labels: (N,), index into the network's classes. velocities: (N, 2), m/s
    over ground. variances: (N, VARIANCES) in m^2, rad^2, m^2/s^2. log_variances: (N, VARIANCES) in the
    units of the first stage (see networks.bev_fusion.BevOutputs).
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    velocities: NDArray[np.float32]
    variances: NDArray[np.float32]
    log_variances: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.boxes)

    def select(self, index: NDArray) -> BevDetections:
        """The detections selected by a mask or by indices, in that order."""
        return BevDetections(*(getattr(self, name)[index] for name in self.__dataclass_fields__))

    def with_scores(self, scores: NDArray[np.float32]) -> BevDetections:
        """The same boxes with other scores."""
        return replace(self, scores=scores)

    def concatenate(self, other: BevDetections) -> BevDetections:
        """These detections followed by others."""
        return BevDetections(
            *(
                np.concatenate([getattr(self, name), getattr(other, name)])
                for name in self.__dataclass_fields__
            )
        )


def external_proposals(
    boxes: Boxes3D, classes: NDArray[np.int64], ground: GroundModel
) -> BevDetections:
    """Boxes of another detector as proposals.

    boxes: in base_link. classes: (K,) index into CLASS_NAMES of the network's classes; boxes of other
    classes are left out.
    """
    boxes = boxes.select(np.isin(boxes.labels, classes))
    order = np.argsort(classes)
    labels = order[np.searchsorted(classes, boxes.labels, sorter=order)]
    count = len(boxes)
    log_variances = np.zeros((count, VARIANCES))
    log_variances[:, 3:6] = 2 * np.log(EXTERNAL_LOG_SIZE_STD)
    log_variances[:, 6] = np.log(UNKNOWN_YAW_VARIANCE)
    log_variances[:, 7:] = np.log(UNKNOWN_VELOCITY_VARIANCE)
    if boxes.covariances is not None:
        diagonal = np.diagonal(boxes.covariances, axis1=1, axis2=2)
        known = np.clip(np.nan_to_num(diagonal, nan=1.0), 1e-3, 1e3)
        log_variances[:, [0, 1, 2, 6]] = np.log(known[:, [0, 1, 2, 5]])
    variances = np.exp(log_variances)
    variances[:, 3:6] *= boxes.boxes[:, 3:6] ** 2
    return BevDetections(
        shift_heights(boxes.boxes, ground, -1.0),
        boxes.scores,
        labels.astype(np.int64),
        np.zeros((count, 2), np.float32),
        variances.astype(np.float32),
        log_variances.astype(np.float32),
    )


def calibrated_scores(
    scores: NDArray[np.floating], labels: NDArray[np.int64], calibration: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Scores (N,) as probabilities. calibration: see model_cards.score_calibration."""
    clipped = np.clip(np.asarray(scores, np.float64), MIN_SCORE, 1.0 - MIN_SCORE)
    logits = np.log(clipped / (1.0 - clipped))
    slope, offset = calibration[labels].T
    return (1.0 / (1.0 + np.exp(-(slope * logits + offset)))).astype(np.float32)


def select_boxes(
    detections: BevDetections,
    calibration: NDArray[np.float64],
    min_score: float,
    nms_iou: float,
) -> BevDetections:
    """Detections with calibrated scores of at least min_score after NMS, the highest scores first."""
    scores = calibrated_scores(detections.scores, detections.labels, calibration)
    keep = np.flatnonzero(scores >= min_score)
    kept = keep[non_maximum_suppression(detections.boxes[keep], scores[keep], nms_iou)]
    return detections.select(kept).with_scores(scores[kept])


def to_boxes3d(
    detections: BevDetections,
    classes: NDArray[np.int64],
    ground: GroundModel,
    stamp_ns: int,
    frame_id: str,
    with_velocities: bool,
) -> Boxes3D:
    """Boxes in base_link with covariances, and with velocities if they are over ground.

    with_velocities: whether the vehicle's motion is known, so that the velocities of the networks, which
    were trained with odometry, are over ground.
    """
    d = detections
    covariances = np.zeros((len(d), 6, 6), np.float32)
    for row, column in ((0, 0), (1, 1), (2, 2), (5, 6)):
        covariances[:, row, row] = d.variances[:, column]
    covariances[:, 3, 3] = covariances[:, 4, 4] = TILT_VARIANCE
    covariances[:, 5, 5] = np.minimum(covariances[:, 5, 5], UNKNOWN_YAW_VARIANCE)
    velocity_covariances = np.zeros((len(d), 2, 2), np.float32)
    velocity_covariances[:, 0, 0] = d.variances[:, 7]
    velocity_covariances[:, 1, 1] = d.variances[:, 8]
    return Boxes3D(
        stamp_ns,
        frame_id,
        shift_heights(d.boxes, ground, 1.0),
        d.scores,
        classes[d.labels],
        velocities=d.velocities.astype(np.float32) if with_velocities else None,
        covariances=covariances,
        velocity_covariances=velocity_covariances if with_velocities else None,
    )
