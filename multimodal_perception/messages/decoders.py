"""Decode ROS messages with ranges, 3D boxes and occupancy grids to the core data types.

Decoders accept any object with the attributes of the message (of rclpy or of rosbags), raise
MessageError and import no ROS package. Encoders (encoders.py) create messages with a MessageTypes:
RclpyTypes, or datasets.bag_writer.RosbagsTypes for bag files.
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
from multimodal_perception.geometry.stamps import NANOSECONDS_PER_SECOND, stamp_to_ns
from multimodal_perception.messages.accepted import Accepted
from multimodal_perception.messages.decoding_log import DecodingLog
from multimodal_perception.messages.errors import MessageError
from multimodal_perception.perception import OccupancyGrid
from multimodal_perception.ultrasonic_readings import unusable_reason

# Larger values of max_range are not in metres, or the sensor is not ultrasonic.
MAX_ULTRASONIC_M = 100.0
UNUSABLE_NOTICES = {
    "outside_limits": "ranges outside the limits are ignored (sensor_msgs/Range); set no_echo_ranges in "
    "the rig if the driver reports a missing echo this way",
    "fixed_distance_range": "min_range = max_range, but range is finite and ignored; REP 117 has -inf "
    "for an object and +inf for none",
    "bad_field_of_view": "field_of_view is not between 0 and pi radians",
}

ACCEPTED = (
    Accepted(
        "sensor_msgs/Range range",
        ("min_range to max_range", "+inf", "max_range", "-inf", "NaN", "no_echo_ranges of the rig"),
        "Distance of an object; +inf, max_range, no_echo_ranges: no echo, free up to max_range; -inf: "
        "an object closer than min_range; NaN: no measurement (REP 117).",
        "outside_limits or no_range: the reading is not used",
    ),
    Accepted(
        "sensor_msgs/Range of a fixed distance (min_range = max_range)",
        ("-inf", "+inf"),
        "-inf: an object within the distance, which is marked as occupied; +inf: free.",
        "fixed_distance_range: the reading is not used",
    ),
    Accepted(
        "sensor_msgs/Range limits",
        ("0 <= min_range <= max_range", f"0 < max_range <= {MAX_ULTRASONIC_M:g} m"),
        "Metres, times metres_per_unit of the rig.",
        "bad_range, implausible_limits, bad_limits",
    ),
    Accepted(
        "sensor_msgs/Range field_of_view",
        ("over 0, up to pi",),
        "Full angle of the cone in radians.",
        "bad_field_of_view; bad_range over 2 pi (degrees)",
    ),
)


def stamp_ns_of(msg: Any) -> int:
    """Return the stamp of a message's header in nanoseconds.

    Raises MessageError("bad_stamp") if it is negative or has 10^9 nanoseconds or more.
    """
    stamp = msg.header.stamp
    nanoseconds = stamp_to_ns(int(stamp.sec), int(stamp.nanosec))
    if nanoseconds < 0 or int(stamp.nanosec) >= NANOSECONDS_PER_SECOND:
        raise MessageError("bad_stamp", f"{stamp.sec} s {stamp.nanosec} ns")
    return nanoseconds


def ultrasonic_from_message(
    msg: Any,
    sensor: str,
    stamp_ns: int,
    log: DecodingLog | None = None,
    *,
    metres_per_unit: float = 1.0,
    no_echo_ranges: tuple[float, ...] = (),
) -> UltrasonicReading:
    """Decode a Range. The special values of REP 117 (+inf, -inf, NaN) are kept.

    A sensor with min_range = max_range only detects whether there is an object within this distance: it
    has the ranges -inf (object) and +inf (none). Readings that the stages ignore (finite ranges outside
    the limits, NaN, a field of view over pi) are kept and counted in the log. metres_per_unit,
    no_echo_ranges: see rig.Sensor.

    Raises MessageError: bad_range if the limits or the field of view are invalid, implausible_limits if
    max_range is above MAX_ULTRASONIC_M.
    """
    log = log or DecodingLog()
    low, high = float(msg.min_range) * metres_per_unit, float(msg.max_range) * metres_per_unit
    view, measured = float(msg.field_of_view), float(msg.range)
    if not (math.isfinite(low) and math.isfinite(high) and 0 <= low <= high):
        raise MessageError("bad_range", f"min_range {low}, max_range {high}")
    if not (math.isfinite(view) and 0 < view <= 2 * math.pi):
        if view > 2 * math.pi:
            log.notices.add(sensor, f"field_of_view {view:g} is not in radians")
        raise MessageError("bad_range", f"field_of_view {view}")
    if high > MAX_ULTRASONIC_M:
        hint = "set metres_per_unit in the rig if the driver does not publish metres"
        log.notices.add(sensor, f"max_range {high:g} m is not that of an ultrasonic sensor; {hint}")
        raise MessageError("implausible_limits", f"max_range {high:g} m")
    if any(np.float32(measured) == np.float32(value) for value in no_echo_ranges):
        measured = math.inf
    measured *= metres_per_unit
    reading = UltrasonicReading(sensor, stamp_ns, msg.header.frame_id, measured, low, high, view)
    reason = unusable_reason(reading)
    if reason is not None:
        log.losses[sensor, reason] += 1
        if reason in UNUSABLE_NOTICES:
            # Without the range, which varies, so that the notice is given once.
            limits = f"min_range {low:g} m, max_range {high:g} m"
            log.notices.add(sensor, f"{UNUSABLE_NOTICES[reason]}; {limits}")
    return reading


def boxes_from_message(msg: Any) -> Boxes3D:
    """Decode a Detection3DArray; the class of a detection is that of its best hypothesis.

    Raises MessageError("bad_detection") if a value is not finite.
    """
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
    """Decode a nav_msgs/OccupancyGrid; percentages become masses of free and occupied.

    Raises MessageError("bad_grid") if the geometry is invalid or does not match the data.
    """
    info = msg.info
    origin = float(info.origin.position.x), float(info.origin.position.y)
    cells = np.frombuffer(memoryview(msg.data), np.int8)
    # The message has a float32; rounding restores 0.05 exactly.
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
