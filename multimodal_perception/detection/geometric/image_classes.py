"""Classes of LiDAR clusters from 2D boxes in images that cover them.

A cluster is matched with a 2D box if most of its points that the image shows are inside of the box, and
if they cover most of the box's width: a person in front of a car is also inside of the car's box.
The class and score of the box then support or contradict the classes that the cluster's shape allows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.detection.geometric.clustering import Clusters
from multimodal_perception.detection.geometric.shape_scores import (
    CAR,
    CYCLIST,
    PEDESTRIAN,
    TRUCK,
    VAN,
)
from multimodal_perception.frame import CLASS_NAMES, SensorFrame
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.camera_kernels import camera_parameters, project_point
from multimodal_perception.images.object_kinds import kind_of
from multimodal_perception.kernels import njit
from multimodal_perception.perception import Boxes2D

# Minimum number of points inside of the box, and minimum fraction of the cluster's points in the image.
MIN_POINTS, MIN_FRACTION = 3, 0.6
# Minimum fraction of the box's width between the outermost points of the cluster.
MIN_WIDTH = 0.5
# Weight of a 2D box's score for its own class, for other classes of the same kind, and against classes
# of other kinds.
SAME_CLASS_WEIGHT, SAME_KIND_WEIGHT, OTHER_KIND_WEIGHT = 0.9, 0.8, 0.8
# Score of a shape from which a box of the same kind, but another class, supports it fully: networks that
# were trained on COCO detect the person on a bicycle as a person.
FULL_SUPPORT_SCORE = 0.3
# Classes whose shape is completed and scored, by class of the image detector.
COMPLETED_CLASSES = {
    "vehicle": (CAR, VAN, TRUCK),
    "car": (CAR,),
    "van": (VAN,),
    "truck": (TRUCK,),
    "bus": (TRUCK,),
    "trailer": (TRUCK,),
    "person": (PEDESTRIAN,),
    "pedestrian": (PEDESTRIAN,),
    "cyclist": (CYCLIST,),
    "motorcyclist": (CYCLIST,),
}


@dataclass(frozen=True)
class ImageMatches:
    """M matches of a 2D box with a cluster.

    sensors: (M,) name of the image. boxes: (M,) index of the 2D box in its image. clusters: (M,).
    names: (M,) class of the 2D box. scores: (M,) its score.
    """

    sensors: tuple[str, ...]
    boxes: NDArray[np.int64]
    clusters: NDArray[np.int64]
    names: tuple[str, ...]
    scores: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.sensors)


def match_clusters(
    clusters: Clusters, boxes2d: Mapping[str, Boxes2D], frame: SensorFrame
) -> ImageMatches:
    """The best cluster of each 2D box: with many points inside, and few outside."""
    sensors: list[str] = []
    names: list[str] = []
    indices: list[int] = []
    matched: list[int] = []
    scores: list[float] = []
    sizes = np.diff(clusters.starts)
    cluster_of = np.repeat(np.arange(len(clusters)), sizes)
    for sensor, found in boxes2d.items():
        if not len(found) or sensor not in frame.intrinsics:
            continue
        camera_from_base = poses.inverse(frame.reference_from_sensor(sensor))
        inside, visible, columns = _count_points(
            clusters.points,
            cluster_of,
            len(clusters),
            found.boxes.astype(np.float64),
            camera_parameters(frame.intrinsics[sensor]),
            camera_from_base,
        )
        fraction = inside / np.maximum(visible, 1)
        left, right = found.boxes[:, :1].astype(np.float64), found.boxes[:, 2:3].astype(np.float64)
        common = np.minimum(columns[:, 1], right) - np.maximum(columns[:, 0], left)
        width = np.maximum(common, 0.0) / np.maximum(right - left, 1e-6)
        fits = (inside >= MIN_POINTS) & (fraction >= MIN_FRACTION) & (width >= MIN_WIDTH)
        quality = np.where(fits, inside * fraction * width, 0.0)
        best = quality.argmax(axis=1)
        for i in np.flatnonzero(quality.max(axis=1) > 0):
            sensors.append(sensor)
            indices.append(int(i))
            matched.append(int(best[i]))
            names.append(found.class_names[found.labels[i]])
            scores.append(float(found.scores[i]))
    return ImageMatches(
        tuple(sensors),
        np.array(indices, np.int64),
        np.array(matched, np.int64),
        tuple(names),
        np.array(scores, np.float64),
    )


def additional_hypotheses(
    chosen: NDArray[np.int64], labels: NDArray[np.int64], matches: ImageMatches
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Clusters and classes (K,), with those of the matches that are missing appended.

    chosen, labels: clusters and classes that are compatible by size.
    """
    pairs = dict.fromkeys(zip(chosen.tolist(), labels.tolist(), strict=True))
    for name, cluster in zip(matches.names, matches.clusters.tolist(), strict=True):
        pairs |= dict.fromkeys((cluster, label) for label in COMPLETED_CLASSES.get(name, ()))
    rows = np.array(list(pairs), np.int64).reshape(-1, 2)
    return rows[:, 0], rows[:, 1]


def scores_with_images(
    chosen: NDArray[np.int64],
    labels: NDArray[np.int64],
    scores: NDArray[np.float64],
    matches: ImageMatches,
) -> NDArray[np.float64]:
    """Scores (K,) of hypotheses, raised by 2D boxes of the same kind and lowered by others.

    Evidence of several images is combined as if it were independent.
    """
    result = scores.copy()
    for name, cluster, score in zip(matches.names, matches.clusters, matches.scores, strict=True):
        for i in np.flatnonzero(chosen == cluster):
            own = CLASS_NAMES[labels[i]]
            if labels[i] in COMPLETED_CLASSES.get(name, ()):
                result[i] = 1.0 - (1.0 - result[i]) * (1.0 - SAME_CLASS_WEIGHT * score)
            elif kind_of(own) == kind_of(name):
                support = SAME_KIND_WEIGHT * score * min(result[i] / FULL_SUPPORT_SCORE, 1.0)
                result[i] = 1.0 - (1.0 - result[i]) * (1.0 - support)
            else:
                result[i] *= 1.0 - OTHER_KIND_WEIGHT * score
    return result


def image_labels(
    chosen: NDArray[np.int64], labels: NDArray[np.int64], matches: ImageMatches
) -> NDArray[np.int64]:
    """Labels (K,), replaced where images distinguish classes of the same shape (bus and truck)."""
    result = labels.copy()
    names_by_cluster: dict[int, tuple[float, str]] = {}
    for name, cluster, score in zip(
        matches.names, matches.clusters.tolist(), matches.scores.tolist(), strict=True
    ):
        if score > names_by_cluster.get(cluster, (0.0, ""))[0]:
            names_by_cluster[cluster] = score, name
    for i, (cluster, label) in enumerate(zip(chosen.tolist(), labels.tolist(), strict=True)):
        name = names_by_cluster.get(cluster, (0.0, ""))[1]
        if COMPLETED_CLASSES.get(name) == (label,) and name in CLASS_NAMES:
            result[i] = CLASS_NAMES.index(name)
    return result


@njit(nogil=True)
def _count_points(points, cluster_of, clusters, boxes, camera, camera_from_base):  # type: ignore[no-untyped-def]
    """Points of each cluster inside each box (N, C) and in the image (C,), their columns (C, 2)."""
    inside = np.zeros((len(boxes), clusters), np.int64)
    visible = np.zeros(clusters, np.int64)
    columns = np.full((clusters, 2), np.inf)
    columns[:, 1] = -np.inf
    t = camera_from_base
    for i in range(len(points)):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        a = t[0, 0] * x + t[0, 1] * y + t[0, 2] * z + t[0, 3]
        b = t[1, 0] * x + t[1, 1] * y + t[1, 2] * z + t[1, 3]
        c = t[2, 0] * x + t[2, 1] * y + t[2, 2] * z + t[2, 3]
        u, v, shown = project_point(camera, a, b, c)
        if not shown:
            continue
        u, v = u + 0.5, v + 0.5
        own = cluster_of[i]
        visible[own] += 1
        columns[own, 0], columns[own, 1] = min(columns[own, 0], u), max(columns[own, 1], u)
        for k in range(len(boxes)):
            if boxes[k, 0] <= u <= boxes[k, 2] and boxes[k, 1] <= v <= boxes[k, 3]:
                inside[k, own] += 1
    return inside, visible, columns
