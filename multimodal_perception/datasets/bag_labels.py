"""Ground-truth labels in a bag: vision_msgs/Detection3DArray messages, assigned to frames."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.frame import Boxes3D, SensorFrame
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.boxes import count_points_in_boxes
from multimodal_perception.geometry.stamps import NANOSECONDS_PER_SECOND
from multimodal_perception.messages.decoders import boxes_from_message
from multimodal_perception.messages.errors import MessageError
from multimodal_perception.messages.frame_messages import (
    LABEL_TOPIC,
    NUM_POINTS_TOPIC,
    VELOCITY_TOPIC,
    VISIBILITY_TOPIC,
)

LABEL_TYPE = "vision_msgs/msg/Detection3DArray"
# A label topic contains one of these words. Detector outputs have the same message type.
LABEL_TOPIC_KEYWORDS = ("truth", "label", "annotation")
# Properties of the labels, recorded at the same time, and the number of values of each label.
PROPERTY_TOPICS = {NUM_POINTS_TOPIC: 1, VELOCITY_TOPIC: 2, VISIBILITY_TOPIC: 1}
# Labels belong to a frame only if their stamps differ by at most this.
MAX_STAMP_DIFFERENCE_NS = NANOSECONDS_PER_SECOND // 20
# A velocity is computed only from two labels of the same track within this time.
MAX_VELOCITY_INTERVAL_S = 1.5
Odometry = Callable[[int], NDArray[np.float64] | None]
MARGIN_M = 0.05  # measured points scatter around the faces of a box


class BagLabels:
    """The labels of a bag.

    topic: the label topic, or None. topics: all topics whose messages must be passed to `add`.
    """

    def __init__(self, types: Mapping[str, str], drops: Counter[tuple[str, str]]) -> None:
        """types: message type by topic. drops: counter of unusable label messages."""
        candidates = [
            topic
            for topic, message_type in sorted(types.items())
            if message_type == LABEL_TYPE and any(w in topic.lower() for w in LABEL_TOPIC_KEYWORDS)
        ]
        self.topic = LABEL_TOPIC if LABEL_TOPIC in candidates else next(iter(candidates), None)
        labels = set() if self.topic is None else {self.topic}
        self.topics = (labels | PROPERTY_TOPICS.keys()) & types.keys()
        self._drops = drops
        self._boxes: list[tuple[int, Boxes3D]] = []
        self._properties: dict[tuple[str, int], NDArray[Any]] = {}

    def add(self, topic: str, record_ns: int, message: Any) -> None:
        """Store a message of one of `topics` with its record time. Count it if it is invalid."""
        if topic in PROPERTY_TOPICS:
            self._properties[topic, record_ns] = np.asarray(message.data)
            return
        try:
            self._boxes.append((record_ns, boxes_from_message(message)))
        except MessageError as error:
            self._drops[topic, error.reason] += 1

    def labels_for(
        self, frame: SensorFrame, odometry: Odometry = lambda stamp_ns: None
    ) -> Boxes3D | None:
        """The labels nearest to a frame's stamp, in its base_frame, with their LiDAR points counted.

        odometry: odom_from_base (4, 4) at a stamp, or None. Velocities are set if the labels have
        track ids and odometry is available. Velocities, visibility and numbers of points that the bag
        contains are used instead. Returns None if no labels lie within 50 ms of the stamp, or if their
        coordinate frame is neither base_frame nor the frame of one of the LiDARs.
        """
        record_ns, nearest = min(
            self._boxes, key=lambda b: abs(b[1].stamp_ns - frame.stamp_ns), default=(0, None)
        )
        if nearest is None or abs(nearest.stamp_ns - frame.stamp_ns) > MAX_STAMP_DIFFERENCE_NS:
            return None
        in_base = nearest.frame_id == frame.base_frame
        if in_base:
            nearest = replace(nearest, velocities=self._velocities(nearest, odometry))
        else:
            lidars = {s.frame_id: name for name, s in frame.lidars.items()}
            if nearest.frame_id not in lidars:
                self._drops[str(self.topic), "unknown_frame"] += 1
                return None
            pose = frame.reference_from_sensor(lidars[nearest.frame_id])
            nearest = nearest.transformed(pose, frame.base_frame)
        if frame.lidars:
            counts = count_points_in_boxes(frame.points_in_base(), nearest.boxes, MARGIN_M)
            nearest = replace(nearest, num_points=counts)
        points = self._property(NUM_POINTS_TOPIC, record_ns, len(nearest))
        if points is not None:
            nearest = replace(nearest, num_points=points.astype(np.int64))
        velocities = self._property(VELOCITY_TOPIC, record_ns, len(nearest))
        if velocities is not None and in_base:
            nearest = replace(nearest, velocities=velocities.astype(np.float32).reshape(-1, 2))
        visibility = self._property(VISIBILITY_TOPIC, record_ns, len(nearest))
        if visibility is not None and np.isfinite(visibility).all():
            nearest = replace(nearest, visibility=visibility.astype(np.float32))
        return nearest

    def _property(self, topic: str, record_ns: int, count: int) -> NDArray[Any] | None:
        """Values of a property of `count` labels; None if there are none or another number."""
        values = self._properties.get((topic, record_ns))
        if values is None or len(values) == count * PROPERTY_TOPICS[topic]:
            return values
        self._drops[topic, "wrong_number"] += 1
        return None

    def _velocities(self, labels: Boxes3D, odometry: Odometry) -> NDArray[np.float32] | None:
        """Velocities (N, 2) over ground along the axes of base_frame, m/s.

        They are central differences between the previous and the next labels of the same track, as
        in nuScenes, or one-sided differences if one of these is missing; NaN if both are missing.
        """
        now = odometry(labels.stamp_ns)
        if labels.track_ids is None or now is None:
            return None
        stamps = [b.stamp_ns for _, b in self._boxes]
        before = max((s for s in stamps if s < labels.stamp_ns), default=labels.stamp_ns)
        after = min((s for s in stamps if s > labels.stamp_ns), default=labels.stamp_ns)
        centres_by_stamp = [
            self._centres(s, labels.frame_id, odometry) for s in (before, labels.stamp_ns, after)
        ]
        velocities = np.full((len(labels), 2), np.nan)
        for i, track in enumerate(labels.track_ids.tolist()):
            centres = [c[track] for c in centres_by_stamp if track in c]
            seconds = (centres[-1][0] - centres[0][0]) / NANOSECONDS_PER_SECOND if centres else 0.0
            if 0 < seconds <= MAX_VELOCITY_INTERVAL_S * (len(centres) - 1):
                displacement = (centres[-1][1] - centres[0][1]) @ now[:3, :3]
                velocities[i] = displacement[:2] / seconds
        return velocities.astype(np.float32)

    def _centres(
        self, stamp_ns: int, frame_id: str, odometry: Odometry
    ) -> dict[int, tuple[int, NDArray[np.float64]]]:
        """By track id: the stamp, and the centre (3,) in odom of the label at that stamp."""
        pose = odometry(stamp_ns)
        boxes = next(b for _, b in self._boxes if b.stamp_ns == stamp_ns)
        if pose is None or boxes.track_ids is None or boxes.frame_id != frame_id:
            return {}
        centres = poses.transform_points(pose, boxes.boxes[:, :3].astype(np.float64))
        return {
            int(t): (stamp_ns, np.asarray(c, np.float64))
            for t, c in zip(boxes.track_ids, centres, strict=True)
        }
