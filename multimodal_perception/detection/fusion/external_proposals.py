"""External proposals of the fusion detector: boxes of another detector."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.detection.bev_fusion.proposals import shift_heights
from multimodal_perception.frame import Boxes3D
from multimodal_perception.pointcloud.ground_segmentation import GroundModel

# Boxes (N, 7), scores (N,) and class indices (N,) of a network.
Detections = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]


def add_proposals(
    detections: Detections, external: Boxes3D, classes: NDArray[np.int64], ground: GroundModel
) -> Detections:
    """The detections of a network, followed by the boxes of another detector.

    external: boxes in base_link whose labels are all in `classes`. classes: (K,) indices in CLASS_NAMES
    of the network's classes. The heights of the result are above the ground.
    """
    boxes, scores, labels = detections
    order = np.argsort(classes)
    class_indices = order[np.searchsorted(classes, external.labels, sorter=order)]
    return (
        np.concatenate([boxes, shift_heights(external.boxes, ground, -1.0)]),
        np.concatenate([scores, external.scores]),
        np.concatenate([labels, class_indices]),
    )
