"""Memory layout of a sensor_msgs/PointCloud2: where the values of each field are.

Redundant attributes (row_step, height, padding fields, is_dense, bytes after the last point) may be
wrong. They are ignored where the remaining attributes determine the layout.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.messages.accepted import Accepted
from multimodal_perception.messages.errors import MessageError

# sensor_msgs/PointField constants INT8 to FLOAT64, and the 64-bit integers and BOOL that PCL adds.
DATATYPES = {
    1: "i1",
    2: "u1",
    3: "i2",
    4: "u2",
    5: "i4",
    6: "u4",
    7: "f4",
    8: "f8",
    9: "i8",
    10: "u8",
    11: "u1",
}

ACCEPTED = (
    Accepted(
        "sensor_msgs/PointCloud2 row_step",
        ("width * point_step", "larger, with padding", "any value if height is 1"),
        "Distance of the rows. A value that contradicts data is ignored if the rows are contiguous, "
        "that is, if data has height * width * point_step bytes.",
        "bad_row_step",
    ),
    Accepted(
        "sensor_msgs/PointCloud2 width, height",
        ("any organisation", "height 0 for one row", "width 0 for one column"),
        "Number of points. An extent of 0 counts as 1 if data is not empty.",
        "empty, bad_layout",
    ),
    Accepted(
        "sensor_msgs/PointCloud2 data",
        ("height * row_step bytes", "without padding after the last row", "longer"),
        "Bytes after the last point are ignored, with a notice.",
        "truncated",
    ),
    Accepted(
        "sensor_msgs/PointCloud2 fields",
        ("any order, offset, gap and padding", "unused fields of any name, type and count"),
        "Only the fields that are used must be valid. A field name may occur twice if both have the "
        "same offset and type.",
        "bad_field",
    ),
    Accepted(
        "sensor_msgs/PointField datatype",
        tuple(f"{code} ({np.dtype(name).name})" for code, name in DATATYPES.items()),
        "Type of the values, in the byte order of is_bigendian. count 0 is read as 1.",
        "bad_field",
    ),
    Accepted(
        "sensor_msgs/PointCloud2 is_dense",
        ("any value",),
        "Not used: points that are not finite are removed in any case.",
        "-",
    ),
)


@dataclass(frozen=True)
class Column:
    """Position of a field in a point. dtype: of one value, with byte order. count: values per point."""

    dtype: np.dtype[Any]
    offset: int
    count: int = 1


@dataclass(frozen=True)
class PointLayout:
    """Layout of the points of a message, checked against the size of its data.

    extra_bytes: number of bytes after the last point (and the padding of its row).
    """

    data: Any
    height: int
    width: int
    row_step: int
    point_step: int
    columns: dict[str, Column]
    extra_bytes: int = 0

    @property
    def size(self) -> int:
        """Number of points."""
        return self.height * self.width

    @property
    def is_contiguous(self) -> bool:
        """Whether all points have the distance point_step."""
        return self.height == 1 or self.row_step == self.width * self.point_step

    def values(self, name: str) -> NDArray[Any]:
        """Return the values (N,) of a field, or (N, count) if it has several per point."""
        column = self.columns[name]
        shape: tuple[int, ...] = self.height, self.width
        strides: tuple[int, ...] = self.row_step, self.point_step
        if column.count > 1:
            shape, strides = (*shape, column.count), (*strides, column.dtype.itemsize)
        view = np.ndarray(shape, column.dtype, memoryview(self.data), column.offset, strides)
        return view.reshape(-1, column.count) if column.count > 1 else view.reshape(-1)

    def find(self, names: tuple[str, ...]) -> list[str]:
        """Return the names of the fields that match `names`, in that order, regardless of case."""
        exact = [n for n in names if n in self.columns]
        folded: dict[str, str] = {}
        for name in self.columns:
            folded.setdefault(name.lower(), name)
        others = [folded[n] for n in names if n in folded and folded[n] not in exact]
        return exact + others


FieldRole = Literal["used", "optional", "unused"]


def read_layout(msg: Any, role: Callable[[str], FieldRole]) -> PointLayout:
    """Return the layout of a PointCloud2.

    role: of a field name. Invalid fields that are optional are left out, like all unused fields.

    Raises MessageError: empty, bad_layout, bad_point_step, bad_row_step, truncated, bad_field.
    """
    width, height, point_step = int(msg.width), int(msg.height), int(msg.point_step)
    size = memoryview(msg.data).nbytes
    if width < 0 or height < 0:
        raise MessageError("bad_layout", f"size {width} x {height}")
    if size and size == max(width, height) * point_step:
        # Drivers of unorganised clouds leave the height (or the width) at 0.
        width, height = max(width, 1), max(height, 1)
    if width * height == 0:
        raise MessageError("empty", f"size {width} x {height}")
    if point_step <= 0:
        raise MessageError("bad_point_step", f"point_step {point_step}")
    row_step = _row_step(int(msg.row_step), width, height, point_step, size)
    extra = max(size - height * row_step, 0)
    columns = _columns(msg, point_step, role)
    return PointLayout(msg.data, height, width, row_step, point_step, columns, extra)


def _row_step(stated: int, width: int, height: int, point_step: int, size: int) -> int:
    """Return the distance of the rows in bytes."""
    packed = width * point_step
    if height == 1:
        if size < packed:
            raise MessageError("truncated", f"{size} bytes of data, {packed} expected")
        return packed
    # The padding after the last row may be missing.
    if stated >= packed and size >= (height - 1) * stated + packed:
        return stated
    if size == height * packed:
        return packed
    if stated < packed:
        raise MessageError("bad_row_step", f"row_step {stated} < {width} x {point_step}")
    raise MessageError("truncated", f"{size} bytes of data, {height * stated} expected")


def _columns(msg: Any, point_step: int, role: Callable[[str], FieldRole]) -> dict[str, Column]:
    order = ">" if msg.is_bigendian else "<"
    columns: dict[str, Column] = {}
    for field in msg.fields:
        name = str(field.name)
        field_role = role(name)
        if field_role == "unused":
            continue
        try:
            column = _column(field, order, point_step)
            if columns.get(name, column) != column:
                raise MessageError("bad_field", f"{name!r} appears twice")
        except MessageError:
            if field_role == "used":
                raise
            continue
        columns[name] = column
    return columns


def _column(field: Any, order: str, point_step: int) -> Column:
    code = DATATYPES.get(int(field.datatype))
    if code is None:
        raise MessageError("bad_field", f"{field.name!r} has unknown datatype {field.datatype}")
    dtype, offset = np.dtype(order + code), int(field.offset)
    count = max(int(field.count), 1)  # some drivers set count to 0 for a single value
    if offset < 0 or offset + count * dtype.itemsize > point_step:
        raise MessageError("bad_field", f"{field.name!r} ends beyond point_step")
    return Column(dtype, offset, count)
