"""The last 3D boxes of images that are not processed in every frame."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.frame import Boxes3D, SensorFrame
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.stamps import NANOSECONDS_PER_SECOND
from multimodal_perception.images.object_kinds import PEOPLE, kind_of

# Standard deviations of the speed of objects over ground, by which positions become uncertain, m/s.
SPEED_STD, PEOPLE_SPEED_STD = 4.0, 1.5


class ViewMemory:
    """Keeps the boxes of each image and moves them by the vehicle's odometry.

    Without odometry nothing is kept, because the vehicle may have moved.
    """

    def __init__(self, max_age_s: float) -> None:
        """max_age_s: time for which boxes are kept, seconds; 0 keeps nothing."""
        self._max_age_s = max_age_s
        self._views: dict[str, tuple[int, NDArray[np.float64], Boxes3D]] = {}

    def update(self, views: Mapping[str, Boxes3D], frame: SensorFrame) -> list[Boxes3D]:
        """Store the boxes of this frame's images; return those of other images, moved to the frame.

        views: by image, in base_frame. The covariances of the returned boxes contain the unknown motion
        of the objects, and their scores decrease with their age.
        """
        pose = frame.odom_from_base
        if pose is None or not poses.is_rigid(pose) or self._max_age_s <= 0.0:
            self._views.clear()
            return []
        result = []
        for name, (stamp_ns, past_pose, boxes) in list(self._views.items()):
            age_s = (frame.stamp_ns - stamp_ns) / NANOSECONDS_PER_SECOND
            if not 0.0 <= age_s <= self._max_age_s:
                del self._views[name]
            elif name not in views and len(boxes):
                moved = boxes.transformed(poses.inverse(pose) @ past_pose, frame.base_frame)
                result.append(_aged(moved, age_s, self._max_age_s, frame.stamp_ns))
        for name, boxes in views.items():
            self._views[name] = frame.stamp_ns, pose, boxes
        return result


def _aged(boxes: Boxes3D, age_s: float, max_age_s: float, stamp_ns: int) -> Boxes3D:
    kinds = [kind_of(boxes.class_names[k]) for k in boxes.labels]
    speed = np.array([PEOPLE_SPEED_STD if k == PEOPLE else SPEED_STD for k in kinds])
    assert boxes.covariances is not None
    covariances = boxes.covariances.copy()
    covariances[:, 0, 0] += (speed * age_s) ** 2
    covariances[:, 1, 1] += (speed * age_s) ** 2
    scores = boxes.scores * np.float32(1.0 - 0.5 * age_s / max_age_s)
    return replace(boxes, stamp_ns=stamp_ns, scores=scores, covariances=covariances)
