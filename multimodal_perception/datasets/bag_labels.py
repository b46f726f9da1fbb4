"""Labels in a bag: vision_msgs/Detection3DArray on a topic of truth, as frames want them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.datasets.bag_writer import LABEL_TOPIC
from multimodal_perception.frame import NANOSECONDS, Boxes3D, SensorFrame
from multimodal_perception.geometry.boxes import points_in_boxes
from multimodal_perception.ros.errors import MessageError
from multimodal_perception.ros.messages import boxes_from_message

LABEL_TYPE = "vision_msgs/msg/Detection3DArray"
# What a topic of labels is called: what a detector said is recorded under the same type.
WORDS = ("truth", "label", "annotation")
# The simulator's share of each label that is in sight, recorded at the same time as the labels.
VISIBILITY_TOPIC = "/ground_truth/visibility"
# Labels further from a frame's stamp than this belong to another one.
TOLERANCE_NS = NANOSECONDS // 20
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

    def of(self, frame: SensorFrame) -> Boxes3D | None:
        """The labels nearest to a frame's stamp, in its base_frame, their LiDAR points counted.

        Without visibility where the bag does not tell it. None where there are none within 50 ms, or
        they are in a frame of reference that is neither the base nor a LiDAR of the frame.
        """
        record_ns, nearest = min(
            self._boxes, key=lambda b: abs(b[1].stamp_ns - frame.stamp_ns), default=(0, None)
        )
        if nearest is None or abs(nearest.stamp_ns - frame.stamp_ns) > TOLERANCE_NS:
            return None
        if nearest.frame_id != frame.base_frame:
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
