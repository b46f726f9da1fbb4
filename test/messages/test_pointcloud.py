"""PointCloud2 decoding: all valid layouts, and errors for invalid messages."""

from __future__ import annotations

import array
import random
import string
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header

from multimodal_perception.messages.errors import MessageError
from multimodal_perception.messages.pointcloud import sweep_from_message

CODES = {
    "i1": PointField.INT8,
    "u1": PointField.UINT8,
    "i2": PointField.INT16,
    "u2": PointField.UINT16,
    "i4": PointField.INT32,
    "u4": PointField.UINT32,
    "f4": PointField.FLOAT32,
    "f8": PointField.FLOAT64,
}
STAMP_NS = 1_700_000_000_123_456_789
XYZI = ("x", "y", "z", "intensity")


def make_cloud(columns, height=1, order="<", offsets=None, point_step=None, row_padding=0):
    """A PointCloud2 of columns {name: (type code, values)}; unused bytes are 0xFF, NaN as floats."""
    sizes = [np.dtype(code).itemsize for code, _ in columns.values()]
    if offsets is None:
        offsets = [sum(sizes[:i]) for i in range(len(sizes))]
    if point_step is None:
        point_step = max(o + s for o, s in zip(offsets, sizes, strict=True))
    dtype = np.dtype(
        {
            "names": list(columns),
            "formats": [order + code for code, _ in columns.values()],
            "offsets": offsets,
            "itemsize": point_step,
        }
    )
    width = len(next(iter(columns.values()))[1]) // height
    row_step = width * point_step + row_padding
    raw = np.full(height * row_step, 0xFF, np.uint8)
    points = np.ndarray((height, width), dtype, raw, 0, (row_step, point_step))
    for name, (_, values) in columns.items():
        points[name] = np.asarray(values).reshape(height, width)
    fields = [
        PointField(name=name, offset=int(offset), datatype=CODES[code], count=1)
        for (name, (code, _)), offset in zip(columns.items(), offsets, strict=True)
    ]
    return PointCloud2(
        header=Header(frame_id="roof_lidar"),
        height=height,
        width=width,
        fields=fields,
        is_bigendian=order == ">",
        point_step=point_step,
        row_step=row_step,
        data=array.array("B", raw.tobytes()),
        is_dense=False,
    )


def plain_cloud(n=6, **changes):
    """A valid x y z intensity cloud with attributes overwritten afterwards."""
    values = np.arange(4 * n, dtype=np.float32).reshape(n, 4)
    msg = make_cloud({name: ("f4", values[:, i]) for i, name in enumerate(XYZI)})
    for name, value in changes.items():
        setattr(msg, name, value)
    return msg


def decode(msg):
    return sweep_from_message(msg, "lidar", STAMP_NS)


def reason_of(msg):
    with pytest.raises(MessageError) as caught:
        decode(msg)
    return caught.value.reason


@st.composite
def layouts(draw):
    """Any order of fields, gaps between them, types, byte order, rows and padding."""
    names = list("xyz")
    intensity = draw(st.sampled_from((None, "intensity", "reflectivity", "i")))
    extras = draw(st.sets(st.sampled_from(("ring", "t", "ambient", "label"))))
    codes = dict.fromkeys(names, draw(st.sampled_from(("f4", "f8"))))
    if intensity:
        codes[intensity] = draw(st.sampled_from(sorted(CODES)))
    for name in extras:
        codes[name] = {"ring": "u2", "t": "u4", "ambient": "u2", "label": "i1"}[name]
    order = draw(st.permutations(list(codes)))
    offsets, end = [], 0
    for name in order:
        end += draw(st.integers(0, 5))
        offsets.append(end)
        end += np.dtype(codes[name]).itemsize
    height, width = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    columns = {}
    for name in order:
        low = 0 if codes[name][0] == "u" else -100
        values = rng.uniform(low, 100, height * width)
        if name == "t":
            values = rng.integers(0, 100_000_000, height * width)
        columns[name] = codes[name], values.astype(codes[name])
    return columns, {
        "height": height,
        "order": draw(st.sampled_from("<>")),
        "offsets": offsets,
        "point_step": end + draw(st.integers(0, 7)),
        "row_padding": draw(st.integers(0, 9)),
    }


@settings(max_examples=300)
@given(layouts())
def test_any_point_layout_is_decoded(layout):
    columns, options = layout
    sweep = decode(make_cloud(columns, **options))
    for i, axis in enumerate("xyz"):
        np.testing.assert_array_equal(sweep.points[:, i], columns[axis][1].astype(np.float32))
    intensity = next((columns[n][1] for n in ("intensity", "reflectivity", "i") if n in columns), 0)
    np.testing.assert_array_equal(sweep.points[:, 3], np.float32(intensity))
    if "ring" in columns:
        assert sweep.rings.dtype == np.uint16
        np.testing.assert_array_equal(sweep.rings, columns["ring"][1])
    else:
        assert sweep.rings is None
    if "t" in columns:
        assert sweep.time_offsets.dtype == np.float32
        np.testing.assert_allclose(sweep.time_offsets, columns["t"][1] / 1e9, atol=1e-8)
    else:
        assert sweep.time_offsets is None


def test_sweep_has_frame_id_and_stamp():
    sweep = decode(plain_cloud())
    assert (sweep.sensor, sweep.stamp_ns, sweep.frame_id) == ("lidar", STAMP_NS, "roof_lidar")


@pytest.mark.parametrize("point_step", [16, 22, 32])
@pytest.mark.parametrize("height", [1, 3])
def test_contiguous_xyzi_is_a_view_of_the_message(point_step, height):
    columns = {n: ("f4", np.arange(6) + i) for i, n in enumerate(XYZI)}
    msg = make_cloud(columns, height=height, point_step=point_step)
    sweep = decode(msg)
    assert np.shares_memory(sweep.points, np.frombuffer(msg.data, np.uint8))
    np.testing.assert_array_equal(sweep.points[0], [0, 1, 2, 3])


def test_contiguous_fields_can_start_at_an_offset():
    columns = {"ring": ("u2", np.arange(4)), **{n: ("f4", np.arange(4) + 0.5) for n in XYZI}}
    msg = make_cloud(columns, offsets=[0, 4, 8, 12, 16])
    sweep = decode(msg)
    assert np.shares_memory(sweep.points, np.frombuffer(msg.data, np.uint8))
    np.testing.assert_array_equal(sweep.points, np.arange(4)[:, None] + np.full(4, 0.5))


def test_pcl_layout_with_padding_before_intensity():
    columns = {n: ("f4", np.arange(1, 6) * (i + 1)) for i, n in enumerate(XYZI)}
    sweep = decode(make_cloud(columns, offsets=[0, 4, 8, 16], point_step=32))
    np.testing.assert_array_equal(sweep.points, np.outer(np.arange(1, 6), [1, 2, 3, 4]))


@pytest.mark.parametrize("make", [bytes, lambda d: np.frombuffer(bytes(d), np.uint8), bytearray])
def test_other_message_classes_decode_without_a_copy(make):
    msg = plain_cloud()
    names = ("header", "height", "width", "fields", "is_bigendian", "point_step", "row_step")
    other = SimpleNamespace(**{n: getattr(msg, n) for n in names}, data=make(msg.data))
    sweep = decode(other)
    np.testing.assert_array_equal(sweep.points, decode(msg).points)
    assert np.shares_memory(sweep.points, np.frombuffer(other.data, np.uint8))


def test_field_with_count_zero_is_a_single_value():
    msg = plain_cloud()
    for field in msg.fields:
        field.count = 0
    np.testing.assert_array_equal(decode(msg).points[1], [4, 5, 6, 7])


def test_field_with_several_values_is_ignored():
    msg = plain_cloud()
    msg.fields = [*msg.fields[:3], PointField(name="normal", offset=4, datatype=7, count=3)]
    np.testing.assert_array_equal(decode(msg).points[1], [4, 5, 6, 0])


@pytest.mark.parametrize("name", ["intensity", "reflectivity", "i"])
def test_intensity_field_names(name):
    columns = {**{n: ("f4", [1.0, 2.0]) for n in "xyz"}, name: ("u1", [7, 255])}
    np.testing.assert_array_equal(decode(make_cloud(columns)).points[:, 3], [7, 255])


@pytest.mark.parametrize("name", ["ring", "channel", "line"])
@pytest.mark.parametrize("code", ["u1", "u2", "i4"])
def test_ring_field_names(name, code):
    columns = {**{n: ("f4", [1.0, 2.0]) for n in "xyz"}, name: (code, [3, 127])}
    np.testing.assert_array_equal(decode(make_cloud(columns)).rings, [3, 127])


@pytest.mark.parametrize(
    ("name", "code", "values", "expected"),
    [
        ("t", "u4", [0, 50_000_000, 99_999_999], [0, 0.05, 0.099999999]),
        ("time_offset", "i4", [-100_000_000, 0, 5], [-0.1, 0, 5e-9]),
        ("time", "f4", [-0.1, -0.05, 0.0], [-0.1, -0.05, 0.0]),
        ("timestamp", "f8", STAMP_NS / 1e9 + np.array([0, 0.05, 0.1]), [0, 0.05, 0.1]),
        ("timestamp", "f8", STAMP_NS + np.array([0, 5e7, 1e8]), [0, 0.05, 0.1]),
        ("time", "f4", [0.0, 50.0, 100.0], [0, 0.05, 0.1]),  # milliseconds
        ("timestamp", "f8", np.array([5.0, 5.05, 5.1]) + STAMP_NS / 1e9, None),
        ("t", "u4", [0, 90_000_000, 4_000_000_000], [0, 0.09, np.nan]),
        ("time", "f4", [np.nan, np.nan, np.nan], None),
        ("time", "f4", [0.0, np.inf, 0.1], [0, np.nan, 0.1]),
    ],
)
def test_times_are_converted_to_seconds_after_the_stamp(name, code, values, expected):
    columns = {**{n: ("f4", [1.0, 2.0, 3.0]) for n in "xyz"}, name: (code, values)}
    offsets = decode(make_cloud(columns)).time_offsets
    if expected is None:
        assert offsets is None
    else:
        np.testing.assert_allclose(offsets, expected, atol=1e-6)


def test_non_finite_points_are_removed_with_ring_and_time():
    x = [1.0, np.nan, 3.0, 4.0, 5.0]
    y = [1.0, 2.0, np.inf, 4.0, 5.0]
    z = [1.0, 2.0, 3.0, -np.inf, 5.0]
    columns = {
        **{n: ("f4", v) for n, v in zip("xyz", (x, y, z), strict=True)},
        "ring": ("u1", range(5)),
        "t": ("u4", np.arange(5) * 1_000_000),
    }
    sweep = decode(make_cloud(columns))
    np.testing.assert_array_equal(sweep.points, [[1, 1, 1, 0], [5, 5, 5, 0]])
    np.testing.assert_array_equal(sweep.rings, [0, 4])
    np.testing.assert_allclose(sweep.time_offsets, [0, 0.004], atol=1e-9)


@pytest.mark.parametrize("time_of_missing", [np.nan, 0.0])
def test_times_of_removed_points_are_ignored(time_of_missing):
    # Organised clouds have NaN where there is no return; the times there are arbitrary.
    times = [STAMP_NS / 1e9, time_of_missing, STAMP_NS / 1e9 + 0.05]
    columns = {n: ("f4", [1.0, np.nan, 3.0]) for n in "xyz"}
    sweep = decode(make_cloud({**columns, "timestamp": ("f8", times)}))
    assert sweep.time_offsets is not None
    np.testing.assert_allclose(sweep.time_offsets, [0, 0.05], atol=1e-6)


def test_non_finite_intensity_becomes_zero_without_changing_the_message():
    columns = {n: ("f4", [1.0, 2.0, 3.0]) for n in XYZI}
    columns["intensity"] = "f4", [np.nan, 5.0, np.inf]
    msg = make_cloud(columns)
    before = bytes(msg.data)
    np.testing.assert_array_equal(decode(msg).points[:, 3], [0, 5, 0])
    assert bytes(msg.data) == before


def test_coordinate_beyond_float32_is_removed():
    columns = {"x": ("f8", [1e300, 1.0]), "y": ("f8", [1.0, 1.0]), "z": ("f8", [1.0, 1.0])}
    np.testing.assert_array_equal(decode(make_cloud(columns)).points, [[1, 1, 1, 0]])


@pytest.mark.parametrize(
    ("reason", "changes"),
    [
        ("empty", {"width": 0, "row_step": 0, "data": array.array("B")}),
        ("empty", {"height": 0, "data": array.array("B")}),
        ("bad_point_step", {"point_step": 0}),
        ("truncated", {"width": 7}),
        ("truncated", {"point_step": 17}),
        ("bad_row_step", {"width": 2**32 - 1, "height": 2**32 - 1}),
        ("truncated", {"data": array.array("B", bytes(95))}),
        ("truncated", {"data": array.array("B")}),
        ("truncated", {"height": 2}),
        ("truncated", {"height": 2**32 - 1}),
        ("missing_xyz", {"fields": []}),
        ("bad_field", {"point_step": 15}),
    ],
)
def test_invalid_layout_raises_error_with_reason(reason, changes):
    assert reason_of(plain_cloud(**changes)) == reason


@pytest.mark.parametrize("axis", range(3))
def test_missing_coordinate_raises_error(axis):
    msg = plain_cloud()
    msg.fields = [f for i, f in enumerate(msg.fields) if i != axis]
    assert reason_of(msg) == "missing_xyz"


@pytest.mark.parametrize("change", [{"count": 3}, {"datatype": PointField.INT32}, {"name": "X"}])
def test_non_floating_point_coordinate_raises_error(change):
    msg = plain_cloud(point_step=32, row_step=192, data=array.array("B", bytes(192)))
    for name, value in change.items():
        setattr(msg.fields[0], name, value)
    assert reason_of(msg) == "missing_xyz"


@pytest.mark.parametrize(
    "change",
    [
        {"datatype": 0},
        {"datatype": 9},
        {"datatype": 255},
        {"offset": 13},
        {"offset": 2**32 - 1},
        {"count": 2},
        {"count": 2**32 - 1},
        {"datatype": PointField.FLOAT64},
        {"name": "x"},
    ],
)
def test_invalid_field_raises_error(change):
    msg = plain_cloud()
    for name, value in change.items():
        setattr(msg.fields[3], name, value)
    assert reason_of(msg) == "bad_field"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("names", [XYZI, "xyz"])
def test_cloud_without_finite_points_raises_error(bad, names):
    columns = {n: ("f4", [1.0, 2.0]) for n in names}
    columns["y"] = "f4", [bad, bad]
    assert reason_of(make_cloud(columns)) == "all_nan"


def test_error_has_reason_and_detail():
    with pytest.raises(MessageError, match=r"truncated: 95 bytes of data, 96 expected"):
        decode(plain_cloud(data=array.array("B", bytes(95))))


def test_mutated_point_clouds_raise_only_message_errors():
    rng = random.Random(1)
    columns = {n: ("f4", np.linspace(-50, 50, 12)) for n in XYZI}
    columns |= {"ring": ("u2", range(12)), "t": ("u4", range(12))}
    numbers = (0, 1, 2, 3, 4, 6, 12, 24, 25, 23, 255, 2**16, 2**31, 2**32 - 1)
    names = ("x", "y", "z", "intensity", "ring", "t", "timestamp", "", "é\n", "xyz" * 50)
    outcomes = {"decoded": 0, "refused": 0}
    for _ in range(100_000):
        msg = make_cloud(columns, height=rng.choice((1, 3)), row_padding=rng.choice((0, 4)))
        for _ in range(rng.randint(1, 3)):
            mutation = rng.choice(("size", "field", "data", "bytes", "order", "fields"))
            if mutation == "size":
                name = rng.choice(("height", "width", "point_step", "row_step"))
                setattr(msg, name, rng.choice((*numbers, rng.randrange(400))))
            elif mutation == "field":
                field = rng.choice(msg.fields) if msg.fields else PointField()
                name = rng.choice(("offset", "datatype", "count", "name"))
                value = rng.choice(names) if name == "name" else rng.choice(numbers)
                setattr(field, name, value % 256 if name == "datatype" else value)
            elif mutation == "data":
                msg.data = msg.data[: rng.randrange(len(msg.data) + 1)] * rng.choice((1, 1, 2))
            elif mutation == "bytes" and len(msg.data):
                for _ in range(40):
                    msg.data[rng.randrange(len(msg.data))] = rng.choice((0, 0x7F, 0xFF, 0x80))
            elif mutation == "order":
                msg.is_bigendian = not msg.is_bigendian
            else:
                msg.fields = rng.choices(msg.fields, k=rng.randrange(8)) if msg.fields else []
        try:
            sweep = decode(msg)
        except MessageError as error:
            assert error.reason and set(error.reason) <= set(string.ascii_lowercase + "_")
            outcomes["refused"] += 1
        else:
            assert sweep.points.dtype == np.float32 and np.isfinite(sweep.points).all()
            assert 0 < len(sweep.points) <= max(msg.width, 1) * max(msg.height, 1)
            outcomes["decoded"] += 1
    assert min(outcomes.values()) > 200
