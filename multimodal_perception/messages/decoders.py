"""Messages to nouns and back.

Decoders take any object with the message's attributes (rclpy's or rosbags'), raise MessageError and
import no ROS. Encoders take a MessageTypes, which knows whose classes to build: RclpyTypes here,
datasets.bag_writer.RosbagsTypes for files. Both build with keyword arguments, every field given.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from multimodal_perception.frame import (
    CLASS_NAMES,
    UNKNOWN,
    Boxes3D,
    UltrasonicReading,
)
from multimodal_perception.geometry.stamps import NANOSECONDS, stamp_to_ns
from multimodal_perception.messages.errors import MessageError
from multimodal_perception.perception import OccupancyGrid


def stamp_ns_of(msg: Any) -> int:
    """Nanoseconds of a message's header. Raises MessageError("bad_stamp") below zero."""
    stamp = msg.header.stamp
    nanoseconds = stamp_to_ns(int(stamp.sec), int(stamp.nanosec))
    if nanoseconds < 0 or int(stamp.nanosec) >= NANOSECONDS:
        raise MessageError("bad_stamp", f"{stamp.sec} s {stamp.nanosec} ns")
    return nanoseconds


def ultrasonic_from_message(msg: Any, sensor: str, stamp_ns: int) -> UltrasonicReading:
    """Decode a Range (REP 117 semantics are kept, not interpreted).

    Raises MessageError("bad_range") when the limits or the field of view cannot be.
    """
    low, high, view = float(msg.min_range), float(msg.max_range), float(msg.field_of_view)
    if not (math.isfinite(low) and math.isfinite(high) and 0 <= low <= high):
        raise MessageError("bad_range", f"min_range {low}, max_range {high}")
    if not (math.isfinite(view) and 0 < view <= 2 * math.pi):
        raise MessageError("bad_range", f"field_of_view {view}")
    reading = float(msg.range)
    return UltrasonicReading(sensor, stamp_ns, msg.header.frame_id, reading, low, high, view)


def boxes_from_message(msg: Any) -> Boxes3D:
    """Decode a Detection3DArray by best hypothesis. Raises MessageError("bad_detection")."""
    n = len(msg.detections)
    boxes = np.zeros((n, 7), np.float32)
    scores, labels = np.zeros(n, np.float32), np.full(n, UNKNOWN, np.int64)
    tracks = np.full(n, -1, np.int64)
    for i, detection in enumerate(msg.detections):
        pose, size = detection.bbox.center, detection.bbox.size
        q = pose.orientation
        if not all(map(math.isfinite, (q.x, q.y, q.z, q.w))):
            raise MessageError("bad_detection", "an orientation is not finite")
        yaw = math.atan2(2 * (q.w * q.z + q.x * q.y), 1 - 2 * (q.y * q.y + q.z * q.z))
        boxes[i, :3] = pose.position.x, pose.position.y, pose.position.z
        boxes[i, 3:] = size.x, size.y, size.z, yaw
        if detection.results:
            best = max(detection.results, key=lambda r: r.hypothesis.score).hypothesis
            scores[i] = best.score
            labels[i] = CLASS_NAMES.index(best.class_id) if best.class_id in CLASS_NAMES else 0
        if detection.id.isdecimal() and len(detection.id) < 18:
            tracks[i] = int(detection.id)
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        raise MessageError("bad_detection", "a box or score is not finite")
    track_ids = tracks if n and (tracks >= 0).all() else None
    stamp_ns = stamp_ns_of(msg)
    return Boxes3D(stamp_ns, msg.header.frame_id, boxes, scores, labels, track_ids=track_ids)


def occupancy_from_message(msg: Any) -> OccupancyGrid:
    """Decode a nav_msgs/OccupancyGrid. Raises MessageError("bad_grid")."""
    info = msg.info
    origin = float(info.origin.position.x), float(info.origin.position.y)
    cells = np.frombuffer(memoryview(msg.data), np.int8)
    # The message holds a float32; 0.05 comes back as 0.05.
    resolution = round(float(info.resolution), 6)
    if not (math.isfinite(resolution) and resolution > 0 and np.isfinite(origin).all()):
        raise MessageError("bad_grid", f"resolution {info.resolution}, origin {origin}")
    if cells.size != int(info.width) * int(info.height):
        raise MessageError("bad_grid", f"{cells.size} cells for {info.width} x {info.height}")
    cells = cells.reshape(int(info.height), int(info.width))
    known = cells >= 0
    occupied = np.where(known, np.clip(cells, 0, 100) / np.float32(100), 0).astype(np.float32)
    free = np.where(known, 1 - occupied, 0).astype(np.float32)
    return OccupancyGrid(stamp_ns_of(msg), msg.header.frame_id, resolution, origin, free, occupied)
