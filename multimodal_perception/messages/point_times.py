"""Interpretation of the per-point times of a PointCloud2.

The messages state neither unit nor reference of these times, and drivers differ. Both are chosen so that
the duration of the sweep fits the period of the sensor, and so that absolute times fit the stamp.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.geometry.stamps import NANOSECONDS
from multimodal_perception.messages.accepted import Accepted
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
UNIT_TEXT = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
# Name endings of two integer fields that form one time: seconds and nanoseconds, or a 64-bit integer.
SECONDS_ENDINGS = tuple(product(("sec", "secs", "s"), ("nsec", "nanosec", "nsecs", "ns")))
WORD_ENDINGS = (("high", "low"), ("hi", "lo"), ("msb", "lsb"))
# Leap seconds between UTC and GPS or TAI since 2017, and the GPS epoch.
GPS_LEAP_S, TAI_LEAP_S, GPS_EPOCH_S = 18, 37, 315_964_800
Reference = Literal[
    "stamp", "unix", "tai", "gps", "gps_leap", "zone", "week", "day", "hour", "second", "sweep"
]
REFERENCES: dict[Reference, str] = {
    "stamp": "relative to the stamp",
    "unix": "absolute since 1970",
    "tai": "absolute TAI",
    "gps": "absolute since the GPS epoch",
    "gps_leap": "absolute since the GPS epoch, in UTC",
    "zone": "absolute since 1970, in local time",
    "week": "GPS time of week",
    "day": "since midnight UTC",
    "hour": "since the full hour",
    "second": "fraction of the second",
    "sweep": "relative to the sweep",
}
# Length of the periods after which a reference starts again, and offset of the periods to UTC, seconds.
PERIODIC: dict[Reference, tuple[int, int]] = {
    "week": (604_800, GPS_LEAP_S - GPS_EPOCH_S),
    "day": (86_400, 0),
    "hour": (3_600, 0),
    "second": (1, 0),
}
# Added to UTC since 1970, seconds.
EPOCHS_S: dict[Reference, int] = {
    "tai": TAI_LEAP_S,
    "gps": GPS_LEAP_S - GPS_EPOCH_S,
    "gps_leap": -GPS_EPOCH_S,
}
# Local times differ from UTC by a multiple of the first value, and by less than the second, seconds.
ZONE_STEP_S, MAX_ZONE_S = 900, 15 * 3600
TimeOrigin = Literal["auto", "start", "end"]
# A sweep may last this many periods of the sensor; its times may differ from the stamp by as many, and by
# MIN_WINDOW_S in any case.
MAX_PERIODS, MIN_WINDOW_S = 3.0, 0.25
# Shorter durations (in periods) do not determine the unit: units differ by a factor of 1000.
MIN_PERIODS = MAX_PERIODS / 1000
# Fraction of the points that must have a usable time.
MIN_USABLE_FRACTION = 0.5
# Absolute times must resolve the period into this many steps; float32 has too few digits for them.
MIN_STEPS = 20
SAMPLES = 2048
# Smallest number of points for which equal times are reported.
MIN_EQUAL_TIMES = 100

ACCEPTED = (
    Accepted(
        "PointCloud2 time field, name",
        (*TIME_NAMES, "followed by a unit (_ns, _us, _sec, ...)"),
        "Upper case and _ are ignored. The first name in this order that has usable times is used. Two "
        "integer fields with the endings sec and nsec, or high and low, form one time.",
        "A field of another name is not a time.",
    ),
    Accepted(
        "PointCloud2 time field, type",
        ("float32", "float64", "8 to 64 bit integer", "two uint32 (sec, nsec or a 64-bit integer)"),
        "float32 is refused for absolute times that it cannot resolve.",
        "unusable_point_times",
    ),
    Accepted(
        "PointCloud2 time field, unit",
        tuple(UNIT_TEXT.values()),
        "The coarsest unit for which the sweep lasts at most 3 periods (1 / rate_hz of the rig). Times of "
        "shorter sweeps are nanoseconds if they are integers, otherwise seconds. A unit in the name of the "
        "field is used if it gives a possible duration.",
        "unusable_point_times",
    ),
    Accepted(
        "PointCloud2 time field, reference",
        tuple(text for name, text in REFERENCES.items() if name != "sweep"),
        "The reference for which the times are close to the stamp; positive and negative differences are "
        "possible. point_time_origin of the rig (start or end) aligns the first or the last point with the "
        "stamp, with any reference.",
        "unusable_point_times",
    ),
    Accepted(
        "PointCloud2 time of a single point",
        ("finite and within the sweep",),
        "Deskewing moves the points that have a time and keeps the others.",
        "The point is kept without a time and counted as points_without_time.",
    ),
)


class TimeField(NamedTuple):
    """Times of the points as the message contains them. unit: stated by the name, or None."""

    name: str
    values: NDArray[Any]
    unit: str | None


@dataclass(frozen=True)
class Interpretation:
    """Unit and reference of a time field.

    shift_ns: added to the stamp for the references zone and sweep. fraction: of the times that are
    possible. first, last: range of most times, seconds after the stamp.
    """

    unit: str
    reference: Reference
    shift_ns: int = 0
    fraction: float = 1.0
    first: float = 0.0
    last: float = 0.0

    @property
    def text(self) -> str:
        """Description for the user, for example "microseconds, absolute since 1970"."""
        return f"{UNIT_TEXT[self.unit]}, {REFERENCES[self.reference]}"


@dataclass(frozen=True)
class PointTimes:
    """Result for one message.

    offsets: (N,) float32, s after the stamp, NaN for points without a time; None if the times are not
    usable. problem: why they are not. notice: what was assumed.
    """

    offsets: NDArray[np.float32] | None = None
    problem: str = ""
    notice: str = ""


def is_time_name(name: str) -> bool:
    """Return whether a field with this name contains times."""
    return _time_name(_plain(name)) is not None


def is_time_part(name: str) -> bool:
    """Return whether a field with this name may be the seconds or a half of a time."""
    endings = {ending for pair in (*SECONDS_ENDINGS, *WORD_ENDINGS) for ending in pair}
    return _plain(name).endswith(tuple(endings))


def read_point_times(
    layout: PointLayout,
    keep: NDArray[np.bool_] | None,
    stamp_ns: int,
    period_s: float,
    origin: TimeOrigin = "auto",
) -> PointTimes | None:
    """Return the times of the points, or None if no field contains times.

    keep: (N,) the points to return, or None for all. period_s: nominal period of the sensor. origin: see
    Sensor.point_time_origin.
    """
    problems: list[str] = []
    for field in _time_fields(layout):
        values = field.values if keep is None else field.values[keep]
        result = interpret_times(field._replace(values=values), stamp_ns, period_s, origin)
        if result.offsets is not None:
            return result
        problems.append(result.problem)
    return PointTimes(problem="; ".join(problems)) if problems else None


def interpret_times(
    field: TimeField, stamp_ns: int, period_s: float, origin: TimeOrigin = "auto"
) -> PointTimes:
    """Convert the times (N,) of a field to seconds after the stamp."""
    values = field.values
    kind = f"time field {field.name!r} ({values.dtype.name})"
    if values.dtype.kind == "f" and values.dtype.itemsize < 4:
        values = values.astype(np.float32)
    if not values.dtype.isnative:
        values = values.astype(values.dtype.newbyteorder("="))
    sample = values[:: max(1, len(values) // SAMPLES)]
    # 0 marks a missing time among absolute times, so it is not evidence for a unit.
    known = sample[np.isfinite(sample) & (sample != 0)]
    if not len(known):
        if np.isfinite(sample).any():
            equal = f"{kind} is 0 for all points: no deskewing"
            notice = equal if len(values) >= MIN_EQUAL_TIMES else ""
            offsets = np.where(np.isfinite(values), 0, np.nan).astype(np.float32)
            return PointTimes(offsets, notice=notice)
        return PointTimes(problem=f"{kind} has no finite value")
    has_zero = bool((sample == 0).any())
    choice, note = _choose(field, known, has_zero, stamp_ns, period_s, origin)
    if choice is None and known.min() == known.max() and not _is_coarse(known, 1.0, period_s):
        equal = f"{kind} is the same for all points: no deskewing"
        return PointTimes(np.zeros(len(values), np.float32), notice=equal)
    if choice is None:
        return PointTimes(problem=f"{kind} cannot be used: {note}")
    offsets = _convert(values, choice, stamp_ns)
    if origin != "auto":
        offsets -= choice.first if origin == "start" else choice.last
        low, high = choice.first - choice.last, choice.last - choice.first
    else:
        low, high = choice.first, choice.last
    with np.errstate(invalid="ignore"):
        offsets[~((offsets >= low - period_s) & (offsets <= high + period_s))] = np.nan
    notice = note
    if not notice and not _is_usual(values.dtype, choice):
        notice = f"{kind} taken as {choice.text}"
    if not notice and choice.first == choice.last and len(values) >= MIN_EQUAL_TIMES:
        notice = f"{kind} is the same for all points: no deskewing"
    return PointTimes(offsets.astype(np.float32), notice=notice)


def _choose(
    field: TimeField,
    known: NDArray[Any],
    has_zero: bool,
    stamp_ns: int,
    period_s: float,
    origin: TimeOrigin,
) -> tuple[Interpretation | None, str]:
    """Return the interpretation of a sample of times, and a note for the user.

    known: finite times except 0. has_zero: whether there are times of 0.
    """
    usual = "ns" if known.dtype.kind in "iu" else "s"
    candidates = list(_candidates(known, has_zero, stamp_ns, period_s, origin))
    named = [c for c in candidates if c.unit == field.unit]
    for group in (named, candidates) if field.unit else (candidates,):
        best = _best(group, period_s, field.unit if group is named and named else usual)
        if best is None:
            continue
        conflict = field.unit is not None and best.unit != field.unit
        note = f"time field {field.name!r} taken as {best.text}" if conflict else ""
        return best, note
    if _is_coarse(known, UNITS["s"], period_s) and np.abs(known).max() > 1e6:
        return None, "absolute times need float64 or integers"
    return None, (
        f"values {known.min()} to {known.max()} fit neither a sweep of {period_s:.3g} s nor the stamp; set "
        "point_time_origin in the rig if the times have another epoch"
    )


def _candidates(
    known: NDArray[Any], has_zero: bool, stamp_ns: int, period_s: float, origin: TimeOrigin
) -> Iterator[Interpretation]:
    """Yield the interpretations for which at least half of the times are possible."""
    window = max(MAX_PERIODS * period_s, MIN_WINDOW_S)
    for unit, seconds in UNITS.items():
        if unit == "s" and known.dtype.kind in "iu":
            continue
        references = list(REFERENCES)[:-1] if origin == "auto" else ["stamp", "sweep"]
        for reference in references:
            ahead_s = float(np.median(known)) * seconds - stamp_ns / NANOSECONDS
            shift_ns = 0
            if reference == "sweep":
                shift_ns = round(ahead_s * NANOSECONDS)
            elif reference == "zone" and abs(ahead_s) < MAX_ZONE_S:
                shift_ns = ZONE_STEP_S * round(ahead_s / ZONE_STEP_S) * NANOSECONDS
            if reference == "zone" and shift_ns == 0:
                continue
            if reference != "stamp" and _is_coarse(known, seconds, period_s):
                continue
            choice = Interpretation(unit, reference, shift_ns)  # type: ignore[arg-type]
            offsets = _convert(known, choice, stamp_ns)
            limit = 1.5 * period_s if reference == "second" else window
            inside = offsets[np.abs(offsets) <= limit]
            if len(inside) < MIN_USABLE_FRACTION * len(known):
                continue
            low, high = np.percentile(inside, (5, 95))
            # Without outliers, the percentiles omit 5 % of the sweep at both ends.
            margin = (high - low) / 18
            first = max(low - margin, float(inside.min()))
            last = min(high + margin, float(inside.max()))
            if has_zero and reference == "stamp":
                first, last = min(first, 0.0), max(last, 0.0)
            if last - first <= MAX_PERIODS * period_s:
                fraction = len(inside) / len(known)
                yield Interpretation(
                    unit,
                    reference,
                    shift_ns,
                    fraction,
                    float(first),
                    float(last),  # type: ignore[arg-type]
                )


def _best(candidates: list[Interpretation], period_s: float, usual: str) -> Interpretation | None:
    """Return the most plausible interpretation, or None."""

    def rank(c: Interpretation) -> tuple[Any, ...]:
        duration = (c.last - c.first) / period_s
        determined = duration >= MIN_PERIODS
        # Times that start more than a period after the stamp are likelier a part of the time of day.
        at_stamp = c.first <= 1.1 * period_s and c.last >= -1.1 * period_s
        if c.reference == "stamp":
            tier = 4 if not at_stamp else 0 if determined else 2
        else:
            tier = 3 if c.reference in (*PERIODIC, "sweep") else 1
        order = list(REFERENCES).index(c.reference)
        return c.fraction < 0.8, tier, order, -duration if determined else 0.0, c.unit != usual

    # Times whose duration does not determine the unit are possible as absolute times, which the stamp
    # confirms, and relative to the stamp in the usual unit.
    usable = [
        c
        for c in candidates
        if (c.last - c.first) / period_s >= MIN_PERIODS
        or c.reference not in ("stamp", "sweep", *PERIODIC)
        or (c.unit == usual and c.reference in ("stamp", "sweep"))
    ]
    return min(usable, key=rank, default=None)


def _convert(values: NDArray[Any], choice: Interpretation, stamp_ns: int) -> NDArray[np.float64]:
    """Return the times (N,) in seconds after the stamp."""
    unit_ns = round(UNITS[choice.unit] * NANOSECONDS)
    seconds = UNITS[choice.unit]
    if choice.reference == "stamp":
        return values.astype(np.float64) * seconds
    if choice.reference in PERIODIC:
        period_s, offset_s = PERIODIC[choice.reference]
        stamp_s = (stamp_ns + offset_s * NANOSECONDS) % (period_s * NANOSECONDS) / NANOSECONDS
        absolute = values.astype(np.float64) * seconds
        with np.errstate(invalid="ignore"):
            offsets = np.mod(absolute - stamp_s + period_s / 2, period_s) - period_s / 2
            # Values outside of the period are no times of this reference.
            return np.where((absolute >= 0) & (absolute <= period_s), offsets, np.inf)
    shift_ns = choice.shift_ns + EPOCHS_S.get(choice.reference, 0) * NANOSECONDS
    base, rest_ns = divmod(stamp_ns + shift_ns, unit_ns)
    if values.dtype.kind in "iu":
        difference = (values.astype(np.int64) - base).astype(np.float64)
    else:
        difference = values.astype(np.float64) - base
    return difference * seconds - rest_ns / NANOSECONDS


def _is_coarse(known: NDArray[Any], seconds: float, period_s: float) -> bool:
    """Return whether the type cannot resolve a sweep at the magnitude of the values."""
    if known.dtype.kind != "f":
        return False
    return bool(np.spacing(np.abs(known).max()) * seconds > period_s / MIN_STEPS)


def _is_usual(dtype: np.dtype[Any], choice: Interpretation) -> bool:
    """Return whether the interpretation needs no notice."""
    if choice.reference == "stamp":
        return choice.unit == ("ns" if dtype.kind in "iu" else "s")
    return choice.reference == "unix" and choice.unit in ("s", "ns")


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


def _time_fields(layout: PointLayout) -> list[TimeField]:
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
            if (values[:, 1] < NANOSECONDS).all():
                whole = values[:, 0] * NANOSECONDS + values[:, 1]
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
            whole = high * NANOSECONDS + low if is_seconds else (high << 32) | (low & 0xFFFFFFFF)
            yield TimeField(f"{name}, {other}", whole, "ns" if is_seconds else None), (name, other)
            return
