"""3D boxes of the 2D boxes in images: from LiDAR clusters where there are some, else from the ground."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.detection.geometric.clustered_cloud import ClusteredCloud
from multimodal_perception.detection.geometric.geometric_config import GeometricConfig
from multimodal_perception.detection.geometric.image_classes import (
    ImageMatches,
    additional_hypotheses,
    image_labels,
    match_clusters,
    scores_with_images,
)
from multimodal_perception.detection.images.ground_projection import (
    GroundProjectionConfig,
    fit_image_boxes,
)
from multimodal_perception.detection.images.view_memory import ViewMemory
from multimodal_perception.detection.images.view_merging import merge_views
from multimodal_perception.frame import Boxes3D, SensorFrame
from multimodal_perception.perception import Boxes2D
from multimodal_perception.pointcloud.ground_segmentation import Cloud

# Standard deviations of the position of a completed LiDAR cluster, metres, and of its heading, radians.
CLUSTER_POSITION_STD, CLUSTER_YAW_STD = 0.4, 0.3


class ImageObjects:
    """A BoxProjection (see stages).

    A 2D box that covers a LiDAR cluster becomes the cluster, completed to the box's class. All other
    2D boxes are fitted to the ground plane. Boxes of one object in several images are merged. Results
    of images that were not processed in a frame are kept for a short time.
    """

    def __init__(
        self,
        config: GroundProjectionConfig | None = None,
        geometric: GeometricConfig | None = None,
    ) -> None:
        """geometric: parameters of the clustering."""
        self.config = config or GroundProjectionConfig()
        self.geometric = geometric or GeometricConfig()
        self._memory = ViewMemory(self.config.max_age_s)

    def __call__(
        self, boxes2d: Mapping[str, Boxes2D], frame: SensorFrame, cloud: Cloud | None = None
    ) -> Boxes3D:
        """Boxes in the frame's base_frame at its stamp, highest score first, with covariances."""
        clusters = cluster_boxes(boxes2d, frame, cloud, self.geometric)
        views = {}
        for name, found in boxes2d.items():
            projected, sources = fit_image_boxes(
                found,
                frame.intrinsics[name],
                frame.reference_from_sensor(name),
                frame.stamp_ns,
                frame.base_frame,
                self.config,
                frame.ground_z,
            )
            views[name] = _prefer_clusters(projected, sources, clusters.get(name, {}))
        parts = [*views.values(), *self._memory.update(views, frame)]
        return merge_views(parts, frame.stamp_ns, frame.base_frame)


# Box (7,), score and label of a completed cluster.
_ClusterBox = tuple[NDArray[np.float64], float, int]


def cluster_boxes(
    boxes2d: Mapping[str, Boxes2D],
    frame: SensorFrame,
    cloud: Cloud | None,
    config: GeometricConfig,
) -> dict[str, dict[int, _ClusterBox]]:
    """By image and index of the 2D box: the LiDAR cluster that it covers, completed to its class."""
    if cloud is None or not len(cloud.points) or not any(len(b) for b in boxes2d.values()):
        return {}
    clustered = ClusteredCloud.from_cloud(cloud, config)
    if clustered is None:
        return {}
    matches = match_clusters(clustered.clusters, boxes2d, frame)
    nothing = np.zeros(0, np.int64)
    chosen, labels = additional_hypotheses(nothing, nothing, matches)
    completed = clustered.complete(chosen, labels)
    scores = scores_with_images(chosen, labels, completed.scores, matches)
    scores[completed.boxes[:, 3] == 0] = 0.0  # completion failed
    labels = image_labels(chosen, labels, matches)
    result: dict[str, dict[int, _ClusterBox]] = {}
    for sensor, box, best in _best_hypotheses(matches, chosen, scores):
        row = completed.boxes[best], float(scores[best]), int(labels[best])
        result.setdefault(sensor, {})[box] = row
    return result


def _best_hypotheses(
    matches: ImageMatches, chosen: NDArray[np.int64], scores: NDArray[np.float64]
) -> list[tuple[str, int, int]]:
    """Image, 2D box and hypothesis of the highest score of each match, if any is possible."""
    result = []
    for sensor, box, cluster in zip(
        matches.sensors, matches.boxes.tolist(), matches.clusters.tolist(), strict=True
    ):
        rows = np.flatnonzero(chosen == cluster)
        if len(rows) and scores[rows].max() > 0.0:
            result.append((sensor, box, int(rows[scores[rows].argmax()])))
    return result


def _prefer_clusters(
    projected: Boxes3D, sources: NDArray[np.int64], clusters: Mapping[int, _ClusterBox]
) -> Boxes3D:
    """The boxes of one image: those of clusters, and the projected ones of all other 2D boxes.

    sources: (N,) 2D box of each projected one.
    """
    if not clusters:
        return projected
    rest = projected.select(~np.isin(sources, list(clusters)))
    assert rest.covariances is not None
    covariance = np.diag(
        np.square([*[CLUSTER_POSITION_STD] * 3, *np.radians([3.0, 3.0]), CLUSTER_YAW_STD])
    )
    rows = list(clusters.values())
    return Boxes3D(
        projected.stamp_ns,
        projected.frame_id,
        np.concatenate([np.array([r for r, _, _ in rows], np.float32), rest.boxes]),
        np.concatenate([np.array([s for _, s, _ in rows], np.float32), rest.scores]),
        np.concatenate([np.array([k for _, _, k in rows], np.int64), rest.labels]),
        projected.class_names,
        covariances=np.concatenate(
            [np.repeat(covariance[None].astype(np.float32), len(rows), axis=0), rest.covariances]
        ),
    )
