"""Tracks with their velocities as messages.

vision_msgs has no place for a velocity. A PointCloud2 with a field for each value, as radar drivers
publish their targets, is read by whoever reads point clouds, and RViz colours it by any field.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from multimodal_perception.frame import Boxes3D
from multimodal_perception.messages import encoders, message_types

TRACKS_TOPIC = "perception/tracks"
LAYOUT = np.dtype(
    [
        *((name, "<f4") for name in ("x", "y", "z", "vx", "vy", "yaw", "score")),
        ("id", "<u4"),
        ("class", "u1"),
    ]
)


def tracks_message(types: message_types.MessageTypes, boxes: Boxes3D) -> Any:
    """PointCloud2 of the boxes that have a track, a point at each one's middle.

    vx vy: m/s over ground along the axes of the message's frame, NaN where not known. id: as in
    Detection3D. class: index into frame.CLASS_NAMES.
    """
    ids = np.full(len(boxes), -1) if boxes.track_ids is None else boxes.track_ids
    tracked = boxes.select(np.flatnonzero(ids >= 0))
    rows = np.zeros(len(tracked), LAYOUT)
    for name, column in (("x", 0), ("y", 1), ("z", 2), ("yaw", 6)):
        rows[name] = tracked.boxes[:, column]
    told = tracked.velocities
    rows["vx"], rows["vy"] = (np.nan, np.nan) if told is None else told.T
    rows["score"], rows["class"] = tracked.scores, tracked.labels
    rows["id"] = ids[ids >= 0] % (1 << 32)
    finite = bool(np.isfinite(rows["vx"]).all())
    return encoders.points_to_message(types, rows, boxes.stamp_ns, boxes.frame_id, finite)
