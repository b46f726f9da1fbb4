"""The fields of a PointCloud2 that contain the times of the points."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.geometry.stamps import NANOSECONDS_PER_SECOND
from multimodal_perception.messages.point_layout import PointLayout

# Names of time fields without _ and in lower case, in order of preference. A unit may follow.
TIME_NAMES = (
    *("t", "time", "timestamp", "timeoffset", "offsettime", "pointtime", "pointtimeoffset"),
    *("relativetime", "reltime", "timerelative", "deltatime", "deltat", "dt", "ts", "tstamp"),
    *("stamp", "gpstime", "utctime", "hwtimestamp", "firingtime", "measurementtime"),
)
# Seconds by unit, and the name endings that state the unit.
UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
UNIT_NAMES = {
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), "s"),
    **dict.fromkeys(("ms", "msec", "msecs", "millis", "milliseconds"), "ms"),
    **dict.fromkeys(("us", "usec", "usecs", "micros", "microseconds"), "us"),
    **dict.fromkeys(("ns", "nsec", "nsecs", "nanos", "nanosec", "nanosecs", "nanoseconds"), "ns"),
}
# Name endings of two integer fields that form one time: seconds and nanoseconds, or a 64-bit integer.
SECONDS_ENDINGS = tuple(product(("sec", "secs", "s"), ("nsec", "nanosec", "nsecs", "ns")))
WORD_ENDINGS = (("high", "low"), ("hi", "lo"), ("msb", "lsb"))


class TimeField(NamedTuple):
    """Times of the points as the message contains them. unit: stated by the name, or None."""

    name: str
    values: NDArray[Any]
    unit: str | None


def is_time_name(name: str) -> bool:
    """Return whether a field with this name contains times."""
    return _time_name(_plain(name)) is not None


def is_time_part(name: str) -> bool:
    """Return whether a field with this name may be the seconds or a half of a time."""
    endings = {ending for pair in (*SECONDS_ENDINGS, *WORD_ENDINGS) for ending in pair}
    return _plain(name).endswith(tuple(endings))


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _time_name(plain: str) -> tuple[int, str | None] | None:
    """Return the position in TIME_NAMES and the stated unit of a time field's name; None for others."""
    if plain in TIME_NAMES:
        return TIME_NAMES.index(plain), None
    for ending, unit in UNIT_NAMES.items():
        if plain.endswith(ending) and plain[: -len(ending)] in TIME_NAMES:
            return TIME_NAMES.index(plain[: -len(ending)]), unit
    return None


def time_fields(layout: PointLayout) -> list[TimeField]:
    """Return the time fields in order of preference."""
    fields: list[tuple[int, TimeField]] = []
    split = list(_split_fields(layout))
    parts = {name for field, names in split for name in names}
    for name, column in layout.columns.items():
        match = _time_name(_plain(name))
        if match is None or name in parts:
            continue
        if column.count == 1:
            fields.append((match[0], TimeField(name, layout.values(name), match[1])))
        elif column.count == 2 and column.dtype.kind == "u" and column.dtype.itemsize == 4:
            values = layout.values(name).astype(np.int64)
            big_endian = column.dtype.str.startswith(">")
            high, low = (0, 1) if big_endian else (1, 0)
            if (values[:, 1] < NANOSECONDS_PER_SECOND).all():
                whole = values[:, 0] * NANOSECONDS_PER_SECOND + values[:, 1]
                fields.append((match[0], TimeField(name, whole, "ns")))
            whole = (values[:, high] << 32) | values[:, low]
            fields.append((match[0], TimeField(name, whole, match[1])))
    ordered = [field for _, field in sorted(fields, key=lambda f: f[0])]
    return [field for field, _ in split] + ordered


def _split_fields(layout: PointLayout) -> Iterator[tuple[TimeField, tuple[str, str]]]:
    """Yield the times that two integer fields form, and the names of these fields."""
    integers = {
        _plain(n): n
        for n, c in layout.columns.items()
        if c.dtype.kind in "iu" and c.count == 1 and c.dtype.itemsize >= 4
    }
    for first, second in (*SECONDS_ENDINGS, *WORD_ENDINGS):
        for plain, name in integers.items():
            stem = plain[: -len(first)]
            other = integers.get(stem + second)
            if not plain.endswith(first) or other is None or other == name:
                continue
            high, low = layout.values(name).astype(np.int64), layout.values(other).astype(np.int64)
            is_seconds = (first, second) in SECONDS_ENDINGS
            whole = (
                high * NANOSECONDS_PER_SECOND + low
                if is_seconds
                else (high << 32) | (low & 0xFFFFFFFF)
            )
            yield TimeField(f"{name}, {other}", whole, "ns" if is_seconds else None), (name, other)
            return
