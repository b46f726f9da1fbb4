"""sensor_msgs/PointCloud2 to LidarSweep without copying where the layout allows.

Works on any object with the message's attributes, whether rclpy or rosbags made it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.frame import LidarSweep
from multimodal_perception.geometry.stamps import NANOSECONDS
from multimodal_perception.messages.errors import MessageError

# sensor_msgs/PointField constants INT8 to FLOAT64.
DATATYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}
INTENSITY_NAMES = ("intensity", "reflectivity", "i")
RING_NAMES = ("ring", "channel", "line")
TIME_NAMES = ("t", "time", "timestamp", "time_stamp", "time_offset", "offset_time")
# A point further than this from the message's stamp has a time that means something else.
MAX_TIME_OFFSET = 2.0


def sweep_from_message(msg: Any, sensor: str, stamp_ns: int) -> LidarSweep:
    """Decode a PointCloud2.

    Any field order, offsets, padding, byte order and organisation. Intensity keeps the driver's
    numbers (0 where there is none). Points with a coordinate that is not finite are left out.
    Times become seconds after the stamp: integers are nanoseconds, small numbers seconds, large
    ones absolute seconds or nanoseconds.

    Raises MessageError with reason empty, bad_layout, bad_point_step, bad_row_step, truncated,
    oversized, missing_xyz, bad_field or all_nan.
    """
    count = _check_layout(msg)
    fields = _columns(msg)
    for axis in "xyz":
        if axis not in fields or fields[axis][0].kind != "f":
            found = ", ".join(fields) or "no field"
            raise MessageError("missing_xyz", f"x, y, z must be floating point; found {found}")
    intensity = next((n for n in INTENSITY_NAMES if n in fields), None)
    points = _packed(msg, fields, intensity, count)
    if points is None:
        points = np.zeros((count, 4), np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            for column, axis in enumerate("xyz"):
                points[:, column] = _column(msg, fields[axis])
            if intensity is not None:
                points[:, 3] = _column(msg, fields[intensity])
    rings = _first(msg, fields, RING_NAMES)
    times = _first(msg, fields, TIME_NAMES)
    if rings is not None:
        rings = rings.astype(np.uint16) if rings.dtype.kind in "iu" else None
    finite = np.isfinite(points[:, :3]).all(axis=1)
    if not finite.all():
        if not finite.any():
            raise MessageError("all_nan", f"none of {count} points is finite")
        points = points[finite]
        rings = None if rings is None else rings[finite]
        times = None if times is None else times[finite]
    times = _time_offsets(times, stamp_ns)
    if not np.isfinite(points[:, 3]).all():
        points = points.copy()
        points[~np.isfinite(points[:, 3]), 3] = 0.0
    return LidarSweep(sensor, stamp_ns, msg.header.frame_id, points, times, rings)


def _check_layout(msg: Any) -> int:
    width, height = int(msg.width), int(msg.height)
    point_step, row_step = int(msg.point_step), int(msg.row_step)
    if width < 0 or height < 0:
        raise MessageError("bad_layout", f"size {width} x {height}")
    if width * height == 0:
        raise MessageError("empty", f"size {width} x {height}")
    if point_step <= 0:
        raise MessageError("bad_point_step", f"point_step {point_step}")
    if row_step < width * point_step:
        raise MessageError("bad_row_step", f"row_step {row_step} < {width} x {point_step}")
    size = memoryview(msg.data).nbytes
    if size < height * row_step:
        raise MessageError("truncated", f"{size} bytes of data, {height * row_step} announced")
    if size > height * row_step:
        raise MessageError("oversized", f"{size} bytes of data, {height * row_step} announced")
    return width * height


def _columns(msg: Any) -> dict[str, tuple[np.dtype[Any], int]]:
    """Type and offset of each single-valued field; one that does not fit in a point is refused."""
    order = ">" if msg.is_bigendian else "<"
    columns: dict[str, tuple[np.dtype[Any], int]] = {}
    for field in msg.fields:
        code = DATATYPES.get(int(field.datatype))
        if code is None:
            raise MessageError("bad_field", f"{field.name!r} has unknown datatype {field.datatype}")
        dtype, offset, count = np.dtype(order + code), int(field.offset), int(field.count)
        if offset < 0 or offset + max(count, 1) * dtype.itemsize > int(msg.point_step):
            raise MessageError("bad_field", f"{field.name!r} ends beyond point_step")
        if field.name in columns:
            raise MessageError("bad_field", f"{field.name!r} appears twice")
        if count <= 1:  # some drivers leave count at 0 for one value
            columns[str(field.name)] = dtype, offset
    return columns


def _column(msg: Any, column: tuple[np.dtype[Any], int]) -> NDArray[Any]:
    dtype, offset = column
    shape = int(msg.height), int(msg.width)
    strides = int(msg.row_step), int(msg.point_step)
    return np.ndarray(shape, dtype, memoryview(msg.data), offset, strides).reshape(-1)


def _packed(
    msg: Any, fields: dict[str, tuple[np.dtype[Any], int]], intensity: str | None, count: int
) -> NDArray[np.float32] | None:
    """A view (N, 4) of the message's own memory, where x y z intensity lie side by side."""
    if intensity is None or int(msg.row_step) != int(msg.width) * int(msg.point_step):
        return None
    start = fields["x"][1]
    for i, name in enumerate(("x", "y", "z", intensity)):
        if fields[name] != (np.dtype("<f4"), start + 4 * i):
            return None
    if np.dtype("<f4") != np.dtype(np.float32):
        return None
    data, strides = memoryview(msg.data), (int(msg.point_step), 4)
    return np.ndarray((count, 4), np.float32, data, start, strides)


def _first(
    msg: Any, fields: dict[str, tuple[np.dtype[Any], int]], names: tuple[str, ...]
) -> NDArray[Any] | None:
    name = next((n for n in names if n in fields), None)
    return None if name is None else _column(msg, fields[name])


def _time_offsets(values: NDArray[Any] | None, stamp_ns: int) -> NDArray[np.float32] | None:
    if values is None or len(values) == 0:
        return None
    if values.dtype.kind in "iu":
        offsets = values.astype(np.float64) / NANOSECONDS
    else:
        offsets = values.astype(np.float64)
        finite = offsets[np.isfinite(offsets)]
        largest = np.abs(finite).max() if len(finite) else np.inf
        if largest > 1e15:  # nanoseconds of the epoch
            offsets = (offsets - stamp_ns) / NANOSECONDS
        elif largest > 1e6:  # seconds of the epoch
            offsets = offsets - stamp_ns / NANOSECONDS
    if not (np.abs(offsets) <= MAX_TIME_OFFSET).all():
        return None
    return offsets.astype(np.float32)
