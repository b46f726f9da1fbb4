"""Faults that all modalities have: no data, old data, and wrong calibration or stamps.

Missing sensors and the temporal and spatial misalignment are those of MultiCorrupt (Beemelmanns et al.
2024), with other sizes.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.evaluation.robustness.corruption import (
    FrameSource,
    NotApplicableError,
    generator,
    with_reading,
)
from multimodal_perception.frame import SensorFrame
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.stamps import NANOSECONDS_PER_SECOND

# Frames that are further apart are not consecutive frames of one drive.
MAX_GAP_S = 2.0


def remove(frame: SensorFrame, sensor: str, value: float, source: FrameSource) -> SensorFrame:
    """Without the reading, with probability `value`."""
    lost = generator(source, "missing", sensor).random() < value
    return frame.without_sensors({sensor}) if lost else frame


def freeze(frame: SensorFrame, sensor: str, value: float, source: FrameSource) -> SensorFrame:
    """The same measurement in all frames, with the present stamps.

    It is the measurement of `value` frames before the first evaluated frame.
    """
    count = value + source.age
    if count <= 0:
        return frame
    present, old = frame.readings[sensor], _earlier(source, count).readings.get(sensor)
    if old is None:
        return frame.without_sensors({sensor})
    return with_reading(frame, replace(old, stamp_ns=present.stamp_ns))


def delay(frame: SensorFrame, sensor: str, value: float, source: FrameSource) -> SensorFrame:
    """The reading of `value` frames earlier with its own stamp; the motion since then is known."""
    earlier = _earlier(source, value)
    old = earlier.readings.get(sensor)
    if old is None:
        return frame.without_sensors({sensor})
    motions = {n: pose for n, pose in frame.reference_from_base.items() if n != sensor}
    if frame.odom_from_base is not None and earlier.odom_from_base is not None:
        motion = poses.inverse(frame.odom_from_base) @ earlier.odom_from_base
        motions[sensor] = motion @ earlier.reference_from_base.get(sensor, np.eye(4))
    return replace(with_reading(frame, old), reference_from_base=motions)


def rotate(frame: SensorFrame, sensor: str, value: float, source: FrameSource) -> SensorFrame:
    """Extrinsics that are wrong by a rotation of `value` degrees about a random, constant axis."""
    axis = _direction(source, "extrinsic_rotation", sensor)
    return _with_extrinsic_error(frame, sensor, rotation_about(axis, np.radians(value)))


def translate(frame: SensorFrame, sensor: str, value: float, source: FrameSource) -> SensorFrame:
    """Extrinsics that are wrong by `value` centimetres in a random, constant direction."""
    error = np.eye(4)
    error[:3, 3] = 0.01 * value * _direction(source, "extrinsic_translation", sensor)
    return _with_extrinsic_error(frame, sensor, error)


def shift_stamp(frame: SensorFrame, sensor: str, value: float, source: FrameSource) -> SensorFrame:
    """A stamp that is `value` milliseconds late: the reading is placed where the vehicle was then.

    The motion between both times has the velocity since the last frame. Moving objects stay where they
    were measured.
    """
    previous = _earlier(source, 1)
    if frame.odom_from_base is None or previous.odom_from_base is None:
        raise NotApplicableError("the data has no odometry")
    period_s = (source.frame.stamp_ns - previous.stamp_ns) / NANOSECONDS_PER_SECOND
    motion = poses.inverse(previous.odom_from_base) @ frame.odom_from_base
    moved = poses.interpolate(np.eye(4), motion, 1e-3 * value / period_s)
    reading = frame.readings[sensor]
    late = replace(reading, stamp_ns=reading.stamp_ns + round(1e6 * value))
    placed = frame.reference_from_base.get(sensor, np.eye(4)) @ moved
    motions = {**frame.reference_from_base, sensor: placed}
    return replace(with_reading(frame, late), reference_from_base=motions)


def rotation_about(axis: NDArray[np.float64], angle: float) -> NDArray[np.float64]:
    """The pose (4, 4) of a rotation about a unit vector (3,), radians (Rodrigues' formula)."""
    x, y, z = axis
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    pose = np.eye(4)
    pose[:3, :3] += np.sin(angle) * cross + (1.0 - np.cos(angle)) * cross @ cross
    return pose


def _with_extrinsic_error(
    frame: SensorFrame, sensor: str, error: NDArray[np.float64]
) -> SensorFrame:
    if sensor not in frame.base_from_sensor:
        raise NotApplicableError(f"{sensor} has no extrinsics")
    wrong = frame.base_from_sensor[sensor] @ error
    return replace(frame, base_from_sensor={**frame.base_from_sensor, sensor: wrong})


def _direction(source: FrameSource, name: str, sensor: str) -> NDArray[np.float64]:
    vector = generator(source, name, sensor, constant=True).normal(size=3)
    return np.asarray(vector / np.linalg.norm(vector), np.float64)


def _earlier(source: FrameSource, count: float) -> SensorFrame:
    """The frame `count` frames before. Raises NotApplicableError without consecutive frames."""
    frame = source.earlier(round(count))
    if frame is None:
        raise NotApplicableError("the data has no earlier frames")
    elapsed_s = (source.frame.stamp_ns - frame.stamp_ns) / NANOSECONDS_PER_SECOND
    if not 0.0 < elapsed_s <= MAX_GAP_S * count:
        raise NotApplicableError("the frames of the data are not consecutive")
    return frame
