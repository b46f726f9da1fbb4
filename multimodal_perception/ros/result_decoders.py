"""Decodes the outputs of perception_node for programs that show them, such as the live view."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from multimodal_perception.frame import CLASS_NAMES, Boxes3D
from multimodal_perception.messages.decoders import stamp_ns_of
from multimodal_perception.messages.errors import MessageError
from multimodal_perception.perception import Boxes2D, Level, SegmentationMask, SensorHealth
from multimodal_perception.ros.outputs import TRACK_FIELDS
from multimodal_perception.segmentation.classes import SEGMENTATION_CLASSES


def boxes2d_from_message(msg: Any, sensor: str, size: tuple[int, int]) -> Boxes2D:
    """Decode a Detection2DArray of one image. size: width and height of the image in pixels.

    Raises MessageError("bad_detection") if a value is not finite.
    """
    n = len(msg.detections)
    boxes, scores = np.zeros((n, 4), np.float32), np.zeros(n, np.float32)
    names: list[str] = []
    for i, detection in enumerate(msg.detections):
        centre, box = detection.bbox.center.position, detection.bbox
        half = np.array([box.size_x / 2, box.size_y / 2])
        boxes[i] = (
            *(np.array([centre.x, centre.y]) - half),
            *(np.array([centre.x, centre.y]) + half),
        )
        best = max(detection.results, key=lambda r: r.hypothesis.score, default=None)
        names.append("unknown" if best is None else best.hypothesis.class_id)
        scores[i] = 0.0 if best is None else best.hypothesis.score
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        raise MessageError("bad_detection", "a box or score is not finite")
    class_names = tuple(dict.fromkeys(names))
    labels = np.array([class_names.index(name) for name in names], np.int64)
    return Boxes2D(sensor, stamp_ns_of(msg), boxes, scores, labels, class_names, size)


def mask_from_message(msg: Any, sensor: str) -> SegmentationMask:
    """Decode a mono8 image of class indices; the classes are those of the shipped networks.

    Raises MessageError("bad_mask") for other encodings and if the size does not match the data.
    """
    height, width, step = int(msg.height), int(msg.width), int(msg.step)
    data = np.frombuffer(memoryview(msg.data), np.uint8)
    if msg.encoding != "mono8" or step < width or data.size < height * step or not data.size:
        raise MessageError("bad_mask", f"{msg.encoding}, {width} x {height}, {data.size} bytes")
    labels = data[: height * step].reshape(height, step)[:, :width]
    return SegmentationMask(sensor, stamp_ns_of(msg), labels, SEGMENTATION_CLASSES)


def tracks_from_message(msg: Any) -> Boxes3D:
    """Decode perception/tracks: centres, velocities and ids; the sizes of the boxes are zero.

    Raises MessageError("bad_tracks") if the fields are not those of outputs.TRACK_FIELDS.
    """
    names = [f.name for f in msg.fields]
    if names != list(TRACK_FIELDS.names or ()) or msg.point_step != TRACK_FIELDS.itemsize:
        raise MessageError("bad_tracks", ", ".join(names))
    rows = np.frombuffer(memoryview(msg.data), TRACK_FIELDS)
    boxes = np.zeros((len(rows), 7), np.float32)
    for name, column in (("x", 0), ("y", 1), ("z", 2), ("yaw", 6)):
        boxes[:, column] = rows[name]
    return Boxes3D(
        stamp_ns_of(msg),
        msg.header.frame_id,
        boxes,
        rows["score"].astype(np.float32),
        np.minimum(rows["class"], len(CLASS_NAMES) - 1).astype(np.int64),
        velocities=np.column_stack([rows["vx"], rows["vy"]]),
        track_ids=rows["id"].astype(np.int64),
    )


def sensor_health_from_statuses(
    statuses: Iterable[Any], node: str, sensors: Iterable[str]
) -> dict[str, SensorHealth]:
    """Health by sensor from the DiagnosticStatus messages of one node. node: its full name."""
    by_name = {status.name: status for status in statuses}
    health = {}
    for sensor in sensors:
        status = by_name.get(f"{node}: {sensor}")
        if status is None:
            continue
        values = {v.key: v.value for v in status.values}
        drops = {
            key.removeprefix("dropped."): int(value)
            for key, value in values.items()
            if key.startswith("dropped.") and value.isdecimal()
        }
        health[sensor] = SensorHealth(
            sensor,
            status_level(status),
            status.message,
            rate_hz=_number(values.get("rate_hz"), 0.0),
            jitter_s=_number(values.get("jitter_s"), 0.0),
            latency_s=_number(values.get("latency_s"), 0.0),
            age_s=_number(values.get("age_s"), 0.0),
            drops=drops,
            image_quality=_number(values.get("image_quality"), 1.0),
        )
    return health


def status_level(status: Any) -> Level:
    """Level of a DiagnosticStatus, whose type is bytes in rclpy; STALE for unknown values."""
    value = status.level
    number = value[0] if isinstance(value, bytes) and value else value
    return Level(number) if number in set(Level) else Level.STALE


def stage_times_from_message(msg: Any) -> dict[str, float]:
    """Milliseconds by stage of one frame, from perception/timing; empty without the status `stages`."""
    for status in msg.status:
        if status.name == "stages":
            times = {v.key: _number(v.value, math.nan) for v in status.values}
            return {name: value for name, value in times.items() if math.isfinite(value)}
    return {}


def _number(text: str | None, default: float) -> float:
    try:
        value = default if text is None else float(text)
    except ValueError:
        return default
    return value if math.isfinite(value) else default
