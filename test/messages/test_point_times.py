"""Times of points in any unit, type and reference."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multimodal_perception.frame import LidarSweep
from multimodal_perception.messages.decoding_log import DecodingLog
from multimodal_perception.messages.point_layout import read_layout
from multimodal_perception.messages.point_time_fields import (
    TIME_NAMES,
    UNIT_NAMES,
    UNITS,
    TimeField,
)
from multimodal_perception.messages.point_times import EPOCHS_S, interpret_times, read_point_times
from multimodal_perception.messages.pointcloud import PointCloudOptions, sweep_from_message
from multimodal_perception.synchronization.intake import MessageIntake
from test.messages import clouds
from test.messages.clouds import START_NS
from test.messages.test_pointcloud import make_cloud

STAMP_S = START_NS / 1e9
TYPES = {"i4": np.int32, "u4": np.uint32, "i8": np.int64, "u8": np.uint64, "f4": np.float32}
# Error of a float64 time since 1970 in seconds, and of a coarse unit.
TOLERANCE_S = {"s": 1e-6, "ms": 1e-3, "us": 2e-6, "ns": 1e-6}


def interpret(values, period_s: float = 0.1, unit: str | None = None, **keys):
    return interpret_times(TimeField("time", np.asarray(values), unit), START_NS, period_s, **keys)


def counts(seconds, unit: str, dtype) -> np.ndarray:
    """Times in a unit and type; integers are exact."""
    if np.dtype(dtype).kind == "f":
        return (np.asarray(seconds) / UNITS[unit]).astype(dtype)
    return np.array([round(s / UNITS[unit]) for s in seconds]).astype(dtype)


def absolute(offsets, unit: str, dtype, shift_s: float = 0.0) -> np.ndarray:
    """Times since 1970 (plus a shift), computed exactly for integers."""
    if np.dtype(dtype).kind == "f":
        return ((STAMP_S + shift_s + np.asarray(offsets)) / UNITS[unit]).astype(dtype)
    unit_ns = round(UNITS[unit] * 1e9)
    base = START_NS + round(shift_s * 1e9)
    return np.array([(base + round(o * 1e9)) // unit_ns for o in offsets]).astype(dtype)


def relative_cases() -> Iterator[tuple[str, str]]:
    for unit, code in product(UNITS, ("i4", "u4", "i8", "u8", "f4", "f8")):
        if unit != "s" or code[0] == "f":
            yield unit, code


@pytest.mark.parametrize(("unit", "code"), relative_cases())
@pytest.mark.parametrize("start", [0.0, -0.1, -0.05])
@pytest.mark.parametrize("points", [3, 1000])
def test_relative_times_in_any_unit(unit: str, code: str, start: float, points: int) -> None:
    if code[0] == "u" and start < 0:
        pytest.skip("unsigned")
    expected = start + np.linspace(0, 0.1, points)
    result = interpret(counts(expected, unit, code))
    np.testing.assert_allclose(result.offsets, expected, atol=TOLERANCE_S[unit] / 2)
    usual = unit == ("s" if code[0] == "f" else "ns")
    assert bool(result.notice) != usual


@pytest.mark.parametrize(("unit", "code"), [(u, c) for u, c in relative_cases() if c[-1] == "8"])
@pytest.mark.parametrize("start", [0.0, -0.1])
def test_absolute_times_in_any_unit(unit: str, code: str, start: float) -> None:
    expected = start + np.linspace(0, 0.1, 1000)
    result = interpret(absolute(expected, unit, code))
    np.testing.assert_allclose(result.offsets, expected, atol=TOLERANCE_S[unit])


@settings(max_examples=150)
@given(
    st.sampled_from(list(relative_cases())),
    st.sampled_from([5.0, 10.0, 20.0, 25.0]),
    st.floats(0.2, 1.0),
    st.integers(20, 300),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_unit_follows_from_the_duration(case, rate_hz, part, points, is_absolute, random) -> None:
    unit, code = case
    if is_absolute and code[-1] != "8":
        return
    expected = np.linspace(0, part / rate_hz, points)
    random.shuffle(expected)
    make = absolute if is_absolute else counts
    result = interpret(make(expected, unit, code), 1 / rate_hz)
    assert result.offsets is not None, result.problem
    np.testing.assert_allclose(result.offsets, expected, atol=TOLERANCE_S[unit])


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("shift_s", [*EPOCHS_S.values(), 3600, -7 * 3600, 5.5 * 3600, 5.75 * 3600])
def test_known_epochs_are_converted(unit: str, shift_s: float) -> None:
    expected = np.linspace(0, 0.1, 1000)
    result = interpret(absolute(expected, unit, "f8", shift_s))
    np.testing.assert_allclose(result.offsets, expected, atol=TOLERANCE_S[unit])
    assert "absolute" in result.notice


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("period_s", [3600, 86_400])
def test_times_of_the_hour_and_day_are_converted(unit: str, period_s: int) -> None:
    expected = np.linspace(0, 0.1, 1000)
    values = (START_NS % (period_s * 10**9) / 1e9 + expected) / UNITS[unit]
    result = interpret(values)
    np.testing.assert_allclose(result.offsets, expected, atol=1e-6)


@pytest.mark.parametrize("unit", UNITS)
def test_unknown_epoch_is_a_problem_unless_the_rig_states_the_origin(unit: str) -> None:
    values = (5321.7 + np.linspace(0, 0.1, 1000)) / UNITS[unit]
    assert "point_time_origin" in interpret(values).problem
    start = interpret(values, origin="start").offsets
    np.testing.assert_allclose(start, np.linspace(0, 0.1, 1000), atol=1e-6)
    end = interpret(values, origin="end").offsets
    np.testing.assert_allclose(end, np.linspace(-0.1, 0, 1000), atol=1e-6)


@pytest.mark.parametrize(("unit", "code"), [("s", "f4"), ("s", "f8"), ("ns", "u4")])
def test_usual_units_are_kept_if_the_rate_of_the_rig_is_wrong(unit: str, code: str) -> None:
    expected = np.linspace(0, 0.5, 500)
    result = interpret(counts(expected, unit, code), period_s=0.1)
    np.testing.assert_allclose(result.offsets, expected, atol=1e-6)
    assert not result.notice


def test_measured_interval_replaces_a_rate_that_is_too_high() -> None:
    intake = MessageIntake(clouds.rig(clouds.lidar(rate_hz=20.0)))
    expected = np.linspace(0, 0.5, 100)
    for i in range(5):
        stamp_ns = START_NS + i * 500_000_000
        times = stamp_ns / 1e3 + expected * 1e6
        msg = clouds.cloud([(5, 0, 0)] * 100, stamp_ns, t=("f8", times))
        frame = clouds.one_frame(intake, "/points", msg)
    np.testing.assert_allclose(frame.lidars["lidar"].time_offsets, expected, atol=1e-5)


@pytest.mark.parametrize("unit", UNITS)
def test_float32_cannot_contain_absolute_times(unit: str) -> None:
    result = interpret(absolute(np.linspace(0, 0.1, 1000), unit, "f4"))
    assert result.offsets is None
    assert "float64" in result.problem


def test_unit_in_the_name_is_used_unless_it_is_impossible() -> None:
    # A narrow sector of 0.25 ms: without the unit it would be taken as nanoseconds or microseconds.
    values = np.linspace(0, 250, 100).astype(np.uint32)
    assert interpret(values, unit="us").offsets[-1] == pytest.approx(250e-6)
    wrong = interpret(np.linspace(0, 1e5, 100).astype(np.uint32), unit="ms")
    assert wrong.offsets[-1] == pytest.approx(0.1)
    assert "microseconds" in wrong.notice


@pytest.mark.parametrize(
    ("value", "fraction"),
    [(0.3, 0.01), *product((np.nan, np.inf, -np.inf, 1e9, -1e9), (0.01, 0.3, 0.45))],
)
def test_single_points_without_time(value: float, fraction: float) -> None:
    expected = np.linspace(0, 0.1, 1000)
    missing = np.random.default_rng(1).random(1000) < fraction
    values = np.where(missing, value, expected).astype(np.float32)
    offsets = interpret(values).offsets
    np.testing.assert_array_equal(np.isnan(offsets), missing)
    np.testing.assert_allclose(offsets[~missing], expected[~missing], atol=1e-6)


def test_sentinels_of_unsigned_integers() -> None:
    values = np.linspace(0, 1e5, 1000).astype(np.uint32)
    values[::4] = 2**32 - 1
    offsets = interpret(values).offsets
    assert np.isnan(offsets[::4]).all()
    assert np.nanmax(offsets) == pytest.approx(0.1, rel=0.01)


def test_equal_times_give_a_notice_but_no_loss() -> None:
    zero = interpret(np.zeros(200, np.uint32))
    assert not zero.offsets.any() and "no deskewing" in zero.notice
    assert "no deskewing" in interpret(np.full(200, 4711.0)).notice


# Fields -----------------------------------------------------------------------------------------


def decode(columns, log=None, **options) -> LidarSweep:
    xyz = {n: ("f4", [1.0, 2.0, 3.0]) for n in "xyz"}
    msg = make_cloud({**xyz, **columns})
    return sweep_from_message(msg, "lidar", START_NS, PointCloudOptions(**options), log)


@pytest.mark.parametrize(
    "name",
    [
        *TIME_NAMES,
        *(
            "time_stamp",
            "offset_time",
            "timeOffset",
            "time_offset",
            "point_time_offset",
            "Time",
            "T",
        ),
        *("time_us", "timestamp_us", "t_usec", "time_microseconds", "offset_us"),
    ],
)
def test_names_of_time_fields(name: str) -> None:
    if name == "offset_us":
        assert decode({name: ("u4", [0, 50_000, 100_000])}).time_offsets is None
        return
    offsets = decode({name: ("u4", [0, 50_000, 100_000])}).time_offsets
    np.testing.assert_allclose(offsets, [0, 0.05, 0.1], atol=1e-6)


@pytest.mark.parametrize("ending", UNIT_NAMES)
def test_unit_endings_of_names(ending: str) -> None:
    seconds = UNITS[UNIT_NAMES[ending]]
    values = np.array([0, 0.05, 0.1]) / seconds
    offsets = decode({f"time_{ending}": ("f8", values)}).time_offsets
    np.testing.assert_allclose(offsets, [0, 0.05, 0.1], atol=1e-6)


@pytest.mark.parametrize(
    ("first", "second"),
    [("t_sec", "t_nsec"), ("sec", "nanosec"), ("lidar_secs", "lidar_nsecs"), ("ts_s", "ts_ns")],
)
def test_seconds_and_nanoseconds_in_two_fields(first: str, second: str) -> None:
    times = START_NS + np.array([0, 50_000_000, 99_000_000])
    columns = {first: ("u4", times // 10**9), second: ("u4", times % 10**9)}
    np.testing.assert_allclose(decode(columns).time_offsets, [0, 0.05, 0.099], atol=1e-6)


def test_64_bit_integer_in_two_fields_or_in_two_words() -> None:
    times = (START_NS + np.array([0, 50_000_000, 99_000_000])).astype("<u8")
    columns = {"ts_high": ("u4", times >> 32), "ts_low": ("u4", times & 0xFFFFFFFF)}
    np.testing.assert_allclose(decode(columns).time_offsets, [0, 0.05, 0.099], atol=1e-6)
    msg = make_cloud({**{n: ("f4", [1.0, 2.0, 3.0]) for n in "xyz"}, "timestamp": ("f8", [0] * 3)})
    points = np.frombuffer(msg.data, np.uint8).reshape(3, 20)
    points[:, 12:] = times.view(np.uint8).reshape(3, 8)
    msg.fields[3].datatype, msg.fields[3].count = 6, 2
    offsets = sweep_from_message(msg, "lidar", START_NS).time_offsets
    np.testing.assert_allclose(offsets, [0, 0.05, 0.099], atol=1e-6)
    msg.fields[3].datatype, msg.fields[3].count = 10, 1
    offsets = sweep_from_message(msg, "lidar", START_NS).time_offsets
    np.testing.assert_allclose(offsets, [0, 0.05, 0.099], atol=1e-6)


def test_second_time_field_is_used_if_the_first_is_unusable() -> None:
    log = DecodingLog()
    columns = {"t": ("f4", [np.nan] * 3), "timestamp": ("f8", STAMP_S + np.array([0, 0.05, 0.1]))}
    np.testing.assert_allclose(decode(columns, log).time_offsets, [0, 0.05, 0.1], atol=1e-6)
    assert not log.losses


def test_unusable_times_are_counted_with_a_notice_and_the_points_are_used() -> None:
    intake = MessageIntake(clouds.rig())
    times = np.float32(STAMP_S) + np.zeros(3)
    for i in range(3):
        msg = clouds.cloud([(5, 0, 0)] * 3, START_NS + i * 10**8, timestamp=("f4", times))
        frame = clouds.one_frame(intake, "/points", msg)
        assert len(frame.points_in_base()) == 3
    assert intake.drop_counts("lidar") == {"unusable_point_times": 3}
    assert clouds.notices(intake).count("absolute times need float64") == 1


def test_cloud_without_times_has_none() -> None:
    msg = make_cloud({n: ("f4", [1.0, 2.0]) for n in "xyz"})
    layout = read_layout(msg, lambda _: "used")
    assert read_point_times(layout, None, START_NS, 0.1) is None
