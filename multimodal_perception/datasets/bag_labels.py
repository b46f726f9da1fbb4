"""Labels in a bag: vision_msgs/Detection3DArray on a topic of truth, as frames want them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.frame import Boxes3D, SensorFrame
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.boxes import points_in_boxes
from multimodal_perception.geometry.stamps import NANOSECONDS
from multimodal_perception.messages.decoders import boxes_from_message
from multimodal_perception.messages.errors import MessageError
from multimodal_perception.messages.frame_messages import LABEL_TOPIC, TRUTH

LABEL_TYPE = "vision_msgs/msg/Detection3DArray"
# What a topic of labels is called: what a detector said is recorded under the same type.
WORDS = ("truth", "label", "annotation")
# The simulator's share of each label that is in sight, recorded at the same time as the labels.
VISIBILITY_TOPIC = f"{TRUTH}/visibility"
# Labels further from a frame's stamp than this belong to another one.
TOLERANCE_NS = NANOSECONDS // 20
# A velocity is of two labels no further apart than this.
APART_S = 1.5
Odometry = Callable[[int], NDArray[np.float64] | None]
MARGIN_M = 0.05  # measured points scatter about the faces


class BagLabels:
    """The labels of a bag. topic: theirs, or None."""

    def __init__(self, types: Mapping[str, str], drops: Counter[tuple[str, str]]) -> None:
        """types: type by topic. drops: where labels that could not be used are counted."""
        named = [
            topic
            for topic, kind in sorted(types.items())
            if kind == LABEL_TYPE and any(word in topic.lower() for word in WORDS)
        ]
        self.topic = LABEL_TOPIC if LABEL_TOPIC in named else next(iter(named), None)
        self.topics = {VISIBILITY_TOPIC, self.topic} & types.keys()
        self._drops = drops
        self._boxes: list[tuple[int, Boxes3D]] = []
        self._sights: dict[int, NDArray[np.float32]] = {}

    def remember(self, topic: str, record_ns: int, message: Any) -> None:
        """Keep a message of one of `topics`, recorded at a time; a bad one is counted."""
        if topic == VISIBILITY_TOPIC:
            self._sights[record_ns] = np.asarray(message.data, np.float32)
            return
        try:
            self._boxes.append((record_ns, boxes_from_message(message)))
        except MessageError as error:
            self._drops[topic, error.reason] += 1

    def of(self, frame: SensorFrame, odometry: Odometry = lambda stamp_ns: None) -> Boxes3D | None:
        """The labels nearest to a frame's stamp, in its base_frame, their LiDAR points counted.

        odometry: odom_from_base (4, 4) at a stamp, or None. Without visibility where the bag does not
        tell it; with velocities where labels have ids and there is odometry. None where there are
        none within 50 ms, or they are in a frame of reference that is neither the base nor a LiDAR
        of the frame.
        """
        record_ns, nearest = min(
            self._boxes, key=lambda b: abs(b[1].stamp_ns - frame.stamp_ns), default=(0, None)
        )
        if nearest is None or abs(nearest.stamp_ns - frame.stamp_ns) > TOLERANCE_NS:
            return None
        if nearest.frame_id == frame.base_frame:
            nearest = replace(nearest, velocities=self._velocities(nearest, odometry))
        else:
            lidars = {s.frame_id: name for name, s in frame.lidars.items()}
            if nearest.frame_id not in lidars:
                self._drops[str(self.topic), "unknown_frame"] += 1
                return None
            pose = frame.reference_from_sensor(lidars[nearest.frame_id])
            nearest = nearest.transformed(pose, frame.base_frame)
        if frame.lidars:
            counts = points_in_boxes(frame.points_in_base(), nearest.boxes, MARGIN_M)
            nearest = replace(nearest, num_points=counts)
        sight = self._sights.get(record_ns)
        if sight is not None and len(sight) == len(nearest) and np.isfinite(sight).all():
            nearest = replace(nearest, visibility=sight)
        return nearest

    def _velocities(self, labels: Boxes3D, odometry: Odometry) -> NDArray[np.float32] | None:
        """Velocities (N, 2) over ground along base's axes, as nuScenes has them: from the labels
        before to those after, or from or to these; NaN for who is in none of both."""
        now = odometry(labels.stamp_ns)
        if labels.track_ids is None or now is None:
            return None
        stamps = [b.stamp_ns for _, b in self._boxes]
        before = max((s for s in stamps if s < labels.stamp_ns), default=labels.stamp_ns)
        after = min((s for s in stamps if s > labels.stamp_ns), default=labels.stamp_ns)
        places = [
            self._places(s, labels.frame_id, odometry) for s in (before, labels.stamp_ns, after)
        ]
        velocities = np.full((len(labels), 2), np.nan)
        for i, track in enumerate(labels.track_ids.tolist()):
            seen = [p[track] for p in places if track in p]
            seconds = (seen[-1][0] - seen[0][0]) / NANOSECONDS if seen else 0.0
            if 0 < seconds <= APART_S * (len(seen) - 1):
                moved = (seen[-1][1] - seen[0][1]) @ now[:3, :3]
                velocities[i] = moved[:2] / seconds
        return velocities.astype(np.float32)

    def _places(
        self, stamp_ns: int, frame_id: str, odometry: Odometry
    ) -> dict[int, tuple[int, NDArray[np.float64]]]:
        """Stamp and centre (3,) in odom of the labels at a stamp, by track."""
        pose = odometry(stamp_ns)
        boxes = next(b for _, b in self._boxes if b.stamp_ns == stamp_ns)
        if pose is None or boxes.track_ids is None or boxes.frame_id != frame_id:
            return {}
        centres = poses.transform_points(pose, boxes.boxes[:, :3].astype(np.float64))
        return {
            int(t): (stamp_ns, np.asarray(c, np.float64))
            for t, c in zip(boxes.track_ids, centres, strict=True)
        }
