"""Interpretation of the per-point times of a PointCloud2.

The messages state neither unit nor reference of these times, and drivers differ. Both are chosen so that
the duration of the sweep fits the period of the sensor, and so that absolute times fit the stamp.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.geometry.stamps import NANOSECONDS_PER_SECOND
from multimodal_perception.messages.accepted import Accepted
from multimodal_perception.messages.point_layout import PointLayout
from multimodal_perception.messages.point_time_fields import (
    TIME_NAMES,
    UNITS,
    TimeField,
    time_fields,
)

UNIT_TEXT = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
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
# References that are tried: any but the sweep itself, or the sweep if the rig states its origin.
ABSOLUTE: tuple[Reference, ...] = tuple(r for r in REFERENCES if r != "sweep")
ALIGNED: tuple[Reference, ...] = ("stamp", "sweep")
TimeOrigin = Literal["auto", "start", "end"]
# A sweep may last this many periods of the sensor; its times may differ from the stamp by as many, and
# by MIN_WINDOW_S in any case.
MAX_PERIODS, MIN_WINDOW_S = 3.0, 0.25
# In the usual unit, sweeps may be longer, because rate_hz of the rig may be wrong.
MAX_PERIODS_USUAL = 10.0
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
        f"The coarsest unit for which the sweep lasts at most {MAX_PERIODS:g} periods (1 / rate_hz of "
        f"the rig), or {MAX_PERIODS_USUAL:g} in the usual unit: nanoseconds for integers, otherwise "
        "seconds. The usual unit also applies to times that are too short to determine it. A unit in "
        "the name of the field is used if it gives a possible duration.",
        "unusable_point_times",
    ),
    Accepted(
        "PointCloud2 time field, reference",
        tuple(text for name, text in REFERENCES.items() if name != "sweep"),
        "The reference for which the times are close to the stamp; positive and negative differences "
        "are possible. point_time_origin of the rig (start or end) aligns the first or the last point "
        "with the stamp, with any reference.",
        "unusable_point_times",
    ),
    Accepted(
        "PointCloud2 time of a single point",
        ("finite and within the sweep",),
        "Deskewing moves the points that have a time and keeps the others.",
        "The point is kept without a time and counted as points_without_time.",
    ),
)


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
    for field in time_fields(layout):
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
        values = np.asarray(values, values.dtype.newbyteorder("="))
    sample = values[:: max(1, len(values) // SAMPLES)]
    # 0 marks a missing time among absolute times, so it is not evidence for a unit.
    known = sample[np.isfinite(sample) & (sample != 0)]
    if not len(known):
        if np.isfinite(sample).any():
            equal = f"{kind} is 0 for all points: no deskewing"
            notice = equal if len(values) >= MIN_EQUAL_TIMES else ""
            zeros = np.where(np.isfinite(values), 0, np.nan).astype(np.float32)
            return PointTimes(zeros, notice=notice)
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
    usual = _usual_unit(known.dtype)
    candidates = list(_candidates(known, has_zero, stamp_ns, period_s, origin))
    named = [c for c in candidates if c.unit == field.unit]
    for group in (named, candidates) if field.unit else (candidates,):
        best = _best(group, period_s, (field.unit if group is named else None) or usual)
        if best is None:
            continue
        conflict = field.unit is not None and best.unit != field.unit
        note = f"time field {field.name!r} taken as {best.text}" if conflict else ""
        return best, note
    if _is_coarse(known, UNITS["s"], period_s) and np.abs(known).max() > 1e6:
        return None, "absolute times need float64 or integers"
    return None, (
        f"its values fit neither a sweep of {period_s:.3g} s nor the stamp; set point_time_origin in "
        "the rig if the times have another epoch"
    )


def _candidates(
    known: NDArray[Any], has_zero: bool, stamp_ns: int, period_s: float, origin: TimeOrigin
) -> Iterator[Interpretation]:
    """Yield the interpretations for which at least half of the times are possible."""
    usual = _usual_unit(known.dtype)
    for unit, seconds in UNITS.items():
        if unit == "s" and known.dtype.kind in "iu":
            continue
        references = ABSOLUTE if origin == "auto" else ALIGNED
        for reference in references:
            ahead_s = float(np.median(known)) * seconds - stamp_ns / NANOSECONDS_PER_SECOND
            shift_ns = 0
            if reference == "sweep":
                shift_ns = round(ahead_s * NANOSECONDS_PER_SECOND)
            elif reference == "zone" and abs(ahead_s) < MAX_ZONE_S:
                shift_ns = ZONE_STEP_S * round(ahead_s / ZONE_STEP_S) * NANOSECONDS_PER_SECOND
            if reference == "zone" and shift_ns == 0:
                continue
            if reference != "stamp" and _is_coarse(known, seconds, period_s):
                continue
            choice = Interpretation(unit, reference, shift_ns)
            offsets = _convert(known, choice, stamp_ns)
            is_usual = reference == "stamp" and unit == usual
            longest = (MAX_PERIODS_USUAL if is_usual else MAX_PERIODS) * period_s
            limit = 1.5 * period_s if reference == "second" else max(longest, MIN_WINDOW_S)
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
            if last - first <= longest:
                fraction = len(inside) / len(known)
                yield Interpretation(
                    unit,
                    reference,
                    shift_ns,
                    fraction,
                    float(first),
                    float(last),
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
    unit_ns = round(UNITS[choice.unit] * NANOSECONDS_PER_SECOND)
    seconds = UNITS[choice.unit]
    if choice.reference == "stamp":
        return np.asarray(values, np.float64) * seconds
    if choice.reference in PERIODIC:
        period_s, offset_s = PERIODIC[choice.reference]
        stamp_s = (
            (stamp_ns + offset_s * NANOSECONDS_PER_SECOND)
            % (period_s * NANOSECONDS_PER_SECOND)
            / NANOSECONDS_PER_SECOND
        )
        absolute = values.astype(np.float64) * seconds
        with np.errstate(invalid="ignore"):
            offsets = np.mod(absolute - stamp_s + period_s / 2, period_s) - period_s / 2
            # Values outside of the period are no times of this reference.
            return np.where((absolute >= 0) & (absolute <= period_s), offsets, np.inf)
    shift_ns = choice.shift_ns + EPOCHS_S.get(choice.reference, 0) * NANOSECONDS_PER_SECOND
    base, rest_ns = divmod(stamp_ns + shift_ns, unit_ns)
    if values.dtype.kind in "iu":
        difference = (values.astype(np.int64) - base).astype(np.float64)
    else:
        difference = values.astype(np.float64) - base
    return difference * seconds - rest_ns / NANOSECONDS_PER_SECOND


def _is_coarse(known: NDArray[Any], seconds: float, period_s: float) -> bool:
    """Return whether the type cannot resolve a sweep at the magnitude of the values."""
    if known.dtype.kind != "f":
        return False
    return bool(np.spacing(np.abs(known).max()) * seconds > period_s / MIN_STEPS)


def _usual_unit(dtype: np.dtype[Any]) -> str:
    return "ns" if dtype.kind in "iu" else "s"


def _is_usual(dtype: np.dtype[Any], choice: Interpretation) -> bool:
    """Return whether the interpretation needs no notice."""
    if choice.reference == "stamp":
        return choice.unit == _usual_unit(dtype)
    return choice.reference == "unix" and choice.unit in ("s", "ns")
