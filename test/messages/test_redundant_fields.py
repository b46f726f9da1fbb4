"""Redundant attributes of point clouds that are wrong: accepted where the layout is unambiguous."""

from __future__ import annotations

import array

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sensor_msgs.msg import PointField

from multimodal_perception.messages.decoding_log import DecodingLog
from multimodal_perception.messages.errors import MessageError
from multimodal_perception.messages.pointcloud import PointCloudOptions, sweep_from_message
from test.messages.clouds import START_NS
from test.messages.test_pointcloud import XYZI, make_cloud, plain_cloud

COUNT = 6
EXPECTED = np.arange(4 * COUNT, dtype=np.float32).reshape(-1, 4)


def decode(msg, log=None):
    return sweep_from_message(msg, "lidar", START_NS, PointCloudOptions(), log)


def reason_of(msg) -> str:
    with pytest.raises(MessageError) as caught:
        decode(msg)
    return caught.value.reason


@pytest.mark.parametrize("row_step", [0, 1, 95, 96, 97, 16, 1_000_000, 2**32 - 1])
def test_row_step_of_one_row_is_ignored(row_step: int) -> None:
    np.testing.assert_array_equal(decode(plain_cloud(row_step=row_step)).points, EXPECTED)


@pytest.mark.parametrize("row_step", [0, 16, 31, 96, 1000])
@pytest.mark.parametrize(("height", "width"), [(2, 3), (3, 2), (6, 1)])
def test_contradicting_row_step_of_contiguous_rows_is_ignored(row_step, height, width) -> None:
    if row_step == 16 * width:
        row_step += 1
    msg = plain_cloud(height=height, width=width, row_step=row_step)
    np.testing.assert_array_equal(decode(msg).points, EXPECTED)


@settings(max_examples=100)
@given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 40), st.booleans())
def test_row_padding_with_and_without_the_last_row(height, width, padding, cut) -> None:
    values = np.arange(4 * height * width, dtype=np.float32).reshape(-1, 4)
    columns = {name: ("f4", values[:, i]) for i, name in enumerate(XYZI)}
    msg = make_cloud(columns, height=height, row_padding=padding)
    if cut and padding:
        msg.data = msg.data[:-padding]
    np.testing.assert_array_equal(decode(msg).points, values)


@pytest.mark.parametrize("size", [{"height": 0}, {"width": 0, "height": 6}])
def test_extent_of_zero_is_one(size) -> None:
    np.testing.assert_array_equal(decode(plain_cloud(**size)).points, EXPECTED)


def test_extent_of_zero_without_data_is_empty() -> None:
    assert reason_of(plain_cloud(width=0, data=array.array("B"))) == "empty"


@pytest.mark.parametrize("extra", [1, 16, 500])
def test_bytes_after_the_last_point_are_ignored_with_a_notice(extra: int) -> None:
    msg = plain_cloud()
    msg.data = array.array("B", bytes(msg.data) + bytes(extra))
    log = DecodingLog()
    np.testing.assert_array_equal(decode(msg, log).points, EXPECTED)
    assert "longer than width x height" in log.notices.pop()[0]


@pytest.mark.parametrize("missing", [1, 16, 95])
def test_missing_bytes_are_counted_as_truncated(missing: int) -> None:
    msg = plain_cloud()
    msg.data = msg.data[:-missing]
    assert reason_of(msg) == "truncated"


@pytest.mark.parametrize("name", ["", "_", "padding", "rgb"])
def test_padding_fields_with_repeated_names(name: str) -> None:
    msg = plain_cloud()
    pads = [
        PointField(name=name, offset=o, datatype=t, count=1) for o, t in ((0, 2), (3, 4), (8, 7))
    ]
    msg.fields = [pads[0], *msg.fields[:2], pads[1], *msg.fields[2:], pads[2]]
    np.testing.assert_array_equal(decode(msg).points, EXPECTED)


@pytest.mark.parametrize(
    "changes", [{"offset": 5000}, {"datatype": 0}, {"datatype": 99}, {"count": 10_000}]
)
def test_invalid_field_that_is_not_used_is_ignored(changes) -> None:
    field = PointField(name="normal_x", offset=0, datatype=7, count=1)
    for name, value in changes.items():
        setattr(field, name, value)
    msg = plain_cloud()
    msg.fields = [*msg.fields, field]
    np.testing.assert_array_equal(decode(msg).points, EXPECTED)


def test_equal_field_may_be_repeated_but_a_contradiction_is_refused() -> None:
    msg = plain_cloud()
    msg.fields = [*msg.fields, msg.fields[0]]
    np.testing.assert_array_equal(decode(msg).points, EXPECTED)
    msg.fields = [*msg.fields, PointField(name="x", offset=4, datatype=7, count=1)]
    assert reason_of(msg) == "bad_field"


@pytest.mark.parametrize("is_dense", [True, False])
def test_is_dense_is_not_used(is_dense: bool) -> None:
    columns = {n: ("f4", [1.0, np.nan, 3.0]) for n in XYZI}
    msg = make_cloud(columns)
    msg.is_dense = is_dense
    assert len(decode(msg).points) == 2


@settings(max_examples=100)
@given(
    st.permutations(["x", "y", "z", "intensity", "ring"]),
    st.sampled_from(["f4", "f8"]),
    st.sampled_from(["u1", "u2", "i4", "f4", "f8"]),
    st.sampled_from(["u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8"]),
    st.sampled_from("<>"),
    st.integers(0, 20),
)
def test_any_order_type_and_byte_order(order, xyz, intensity, ring, endian, padding) -> None:
    values = {"x": [1, 4], "y": [2, 5], "z": [3, 6], "intensity": [7, 100], "ring": [0, 63]}
    codes = {"x": xyz, "y": xyz, "z": xyz, "intensity": intensity, "ring": ring}
    columns = {n: (codes[n], values[n]) for n in order}
    size = sum(np.dtype(code).itemsize for code, _ in columns.values())
    sweep = decode(make_cloud(columns, order=endian, point_step=size + padding))
    np.testing.assert_array_equal(sweep.points, [[1, 2, 3, 7], [4, 5, 6, 100]])
    np.testing.assert_array_equal(sweep.rings, [0, 63])


@pytest.mark.parametrize(
    ("code", "values"),
    [("i4", [0, -1]), ("u4", [0, 70_000]), ("f4", [0.0, 1.5]), ("f4", [0.0, np.nan])],
)
def test_invalid_rings_are_counted_and_the_points_used(code, values) -> None:
    columns = {**{n: ("f4", [1.0, 2.0]) for n in "xyz"}, "ring": (code, values)}
    log = DecodingLog()
    sweep = decode(make_cloud(columns), log)
    assert len(sweep.points) == 2 and sweep.rings is None
    assert log.losses == {("lidar", "unusable_rings"): 1}


def test_rings_of_missing_returns_are_not_checked() -> None:
    columns = {**{n: ("f4", [1.0, np.nan]) for n in "xyz"}, "ring": ("f4", [5, np.nan])}
    np.testing.assert_array_equal(decode(make_cloud(columns)).rings, [5])


def test_packed_coordinates_and_upper_case_names() -> None:
    msg = plain_cloud()
    msg.fields = [PointField(name="xyz", offset=0, datatype=7, count=3), msg.fields[3]]
    np.testing.assert_array_equal(decode(msg).points, EXPECTED)
    msg = plain_cloud()
    for field in msg.fields:
        field.name = field.name.upper()
    np.testing.assert_array_equal(decode(msg).points, EXPECTED)
