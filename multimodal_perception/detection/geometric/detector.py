"""Geometric detector: 3D boxes from the point cloud without a neural network.

The steps: cluster the points above the ground, fit a rectangle to each cluster, complete it to the
size of each class that is possible (box_completion), score the hypotheses by shape and by the LiDAR's
rays (shape_scores, ray_evidence), and apply non-maximum suppression. The classes are coarse, and the
scores only rank the boxes. Boxes of an image detector, if there is one, add classes that the shape does
not show (image_classes). It needs little time, and is the fallback of the fusion detector.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.detection.geometric.box_covariance import box_covariances
from multimodal_perception.detection.geometric.clustered_cloud import ClusteredCloud
from multimodal_perception.detection.geometric.geometric_config import GeometricConfig
from multimodal_perception.detection.geometric.image_classes import (
    additional_hypotheses,
    image_labels,
    match_clusters,
    scores_with_images,
)
from multimodal_perception.detection.geometric.shape_scores import (
    SCORED_CLASSES,
    Array,
    Shapes,
    size_fit,
)
from multimodal_perception.frame import Boxes3D, Modality, SensorFrame
from multimodal_perception.geometry.boxes import iou_bev
from multimodal_perception.pointcloud.ground_segmentation import Cloud
from multimodal_perception.rig import Rig
from multimodal_perception.sensor_use import SensorUse, of_modalities
from multimodal_perception.stages import ImageResults


class GeometricDetector:
    """A Detector (see stages) for point clouds, without a neural network.

    counts: clusters whose class is supported by image boxes, as image_classes.
    """

    name = "geometric"
    uses_masks = False

    def __init__(self, config: GeometricConfig | None = None) -> None:
        self.config = config or GeometricConfig()
        self.counts: Counter[str] = Counter()

    @property
    def uses_proposals(self) -> bool:
        """Whether detect() uses the 2D boxes of images."""
        return self.config.image_classes

    def sensor_use(self, rig: Rig) -> SensorUse:
        """The LiDARs of a rig."""
        return SensorUse(of_modalities(rig, Modality.LIDAR))

    def prepare(self, frame: SensorFrame) -> None:
        """Does nothing: this detector needs no preparation without the point cloud."""

    def detect(
        self,
        frame: SensorFrame,
        cloud: Cloud,
        proposals: Boxes3D | None = None,
        image_results: ImageResults | None = None,
    ) -> Boxes3D:
        """Boxes in base_link at the frame's stamp, highest score first; none without LiDAR points.

        proposals: ignored. image_results: the 2D boxes are used if GeometricConfig.image_classes is set.
        """
        clustered = ClusteredCloud.from_cloud(cloud, self.config)
        if clustered is None:
            return Boxes3D.empty(frame.stamp_ns, frame.base_frame)
        chosen, labels = self._hypotheses(clustered.shapes)
        matches = None
        if image_results is not None and self.config.image_classes and image_results.boxes:
            matches = match_clusters(clustered.clusters, image_results.boxes, frame)
            self.counts["image_classes"] += len(set(matches.clusters.tolist()))
            chosen, labels = additional_hypotheses(chosen, labels, matches)
        completed = clustered.complete(chosen, labels)
        boxes, scores = completed.boxes, completed.scores
        if matches is not None:
            scores = scores_with_images(chosen, labels, scores, matches)
            scores[boxes[:, 3] == 0] = 0.0  # completion failed
            labels = image_labels(chosen, labels, matches)
        likely = np.flatnonzero(scores >= self.config.min_score)
        kept = likely[
            suppress_overlaps(boxes[likely], scores[likely], self.config.nms_overlap_of_smaller)
        ]
        return Boxes3D(
            frame.stamp_ns,
            frame.base_frame,
            boxes[kept].astype(np.float32),
            scores[kept].astype(np.float32),
            labels[kept],
            num_points=completed.hits[kept].astype(np.int64),
            covariances=box_covariances(labels[kept]),
        )

    def _hypotheses(self, shapes: Shapes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Clusters (K,) and classes (K,) that are compatible by size."""
        fits = np.stack([size_fit(shapes, label) for label in SCORED_CLASSES])
        classes, chosen = np.nonzero(fits >= 0.5 * self.config.min_score)
        return chosen, np.array(SCORED_CLASSES, np.int64)[classes]


def suppress_overlaps(boxes: Array, scores: Array, max_overlap: float) -> NDArray[np.int64]:
    """Indices of the boxes (N, 7) kept, highest score first.

    Boxes whose overlap with a kept box is a larger fraction of either footprint are suppressed.
    """
    area = boxes[:, 3] * boxes[:, 4]
    iou = iou_bev(boxes, boxes)
    intersection = iou * (area[:, None] + area) / (1 + iou)
    overlap = intersection / np.maximum(np.minimum(area[:, None], area), 1e-6)
    kept: list[int] = []
    for i in np.argsort(-scores, kind="stable"):
        if not any(overlap[i, j] > max_overlap for j in kept):
            kept.append(int(i))
    return np.array(kept, np.int64)
