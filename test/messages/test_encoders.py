"""Encoders: encoded messages have the values of the data types, and decoding restores them."""

from __future__ import annotations

import array
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rclpy.serialization import deserialize_message, serialize_message

from multimodal_perception.frame import (
    CLASS_NAMES,
    Boxes3D,
    CameraImage,
    LidarSweep,
    ThermalImage,
    UltrasonicReading,
)
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.messages import decoders, encoders, message_types
from multimodal_perception.messages.camera_info import camera_model_from_message
from multimodal_perception.messages.images import image_from_message
from multimodal_perception.messages.pointcloud import sweep_from_message
from multimodal_perception.messages.thermal import thermal_from_message
from multimodal_perception.occupancy.layers import OccupancyValuesConfig, occupancy_percent
from multimodal_perception.perception import Boxes2D, OccupancyGrid

TYPES = message_types.RclpyTypes()
STAMP_NS = 1_700_000_000_123_456_789


def sent(msg):
    """Serialize and deserialize a message; fails for a message that cannot be published."""
    return deserialize_message(serialize_message(msg), type(msg))


@given(st.integers(0, 2**31 * 10**9 - 1))
def test_stamp_round_trip(stamp_ns):
    header = encoders.make_header(TYPES, stamp_ns, "map")
    assert decoders.stamp_ns_of(SimpleNamespace(header=header)) == stamp_ns
    assert header.frame_id == "map"


single = st.floats(width=32, allow_nan=False)


@given(
    single,
    st.floats(0, 10, width=32),
    st.floats(0, 90, width=32),
    st.floats(2**-10, 6.25, width=32),
)
def test_range_round_trip(distance, low, width, view):
    high = float(np.float32(low + width))
    reading = UltrasonicReading("rear", STAMP_NS, "rear_left", distance, low, high, view)
    msg = sent(encoders.range_to_message(TYPES, reading))
    assert decoders.stamp_ns_of(msg) == STAMP_NS
    assert decoders.ultrasonic_from_message(msg, "rear", STAMP_NS) == reading


@st.composite
def box_sets(draw):
    n = draw(st.integers(0, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    boxes = np.column_stack(
        [
            rng.uniform(-80, 80, (n, 3)),
            rng.uniform(0.1, 15, (n, 3)),
            rng.uniform(-np.pi, np.pi, n),
        ]
    )
    tracks = rng.integers(0, 10**12, n) if draw(st.booleans()) and n else None
    return Boxes3D(
        draw(st.integers(0, 2**31 * 10**9 - 1)),
        "base_link",
        boxes.astype(np.float32),
        rng.uniform(0, 1, n).astype(np.float32),
        rng.integers(0, len(CLASS_NAMES), n),
        track_ids=tracks,
    )


@settings(max_examples=100)
@given(box_sets())
def test_boxes_round_trip(boxes):
    msg = sent(encoders.boxes_to_message(TYPES, boxes))
    back = decoders.boxes_from_message(msg)
    assert (back.stamp_ns, back.frame_id) == (boxes.stamp_ns, boxes.frame_id)
    np.testing.assert_array_equal(back.boxes[:, :6], boxes.boxes[:, :6])
    np.testing.assert_allclose(back.boxes[:, 6], boxes.boxes[:, 6], atol=1e-6)
    np.testing.assert_array_equal(back.scores, boxes.scores)
    np.testing.assert_array_equal(back.labels, boxes.labels)
    if boxes.track_ids is None:
        assert back.track_ids is None
    else:
        np.testing.assert_array_equal(back.track_ids, boxes.track_ids)


def test_box_without_track_has_empty_id():
    boxes = Boxes3D(
        STAMP_NS,
        "base_link",
        np.ones((3, 7), np.float32),
        np.ones(3, np.float32),
        np.ones(3, np.int64),
        track_ids=np.array([7, -1, 12]),
    )
    msg = sent(encoders.boxes_to_message(TYPES, boxes))
    assert [d.id for d in msg.detections] == ["7", "", "12"]


def test_detection_has_header_and_unit_quaternion():
    boxes = Boxes3D(
        STAMP_NS,
        "base_link",
        np.array([[1, 2, 3, 4, 2, 1.5, np.pi / 2]], np.float32),
        np.ones(1, np.float32),
        np.array([CLASS_NAMES.index("car")]),
    )
    (detection,) = encoders.boxes_to_message(TYPES, boxes).detections
    assert detection.header.frame_id == "base_link"
    assert decoders.stamp_ns_of(detection) == STAMP_NS
    q = detection.bbox.center.orientation
    np.testing.assert_allclose([q.x, q.y, q.z, q.w], [0, 0, 0.5**0.5, 0.5**0.5], atol=1e-7)
    size = detection.bbox.size
    assert (size.x, size.y, size.z) == (4.0, 2.0, 1.5)
    assert detection.results[0].hypothesis.class_id == "car"
    assert detection.id == ""


def test_covariance_is_encoded_and_zeros_mean_unknown():
    row = np.array([[1, 2, 3, 4, 2, 1.5, 0]], np.float32)
    arguments = (STAMP_NS, "base_link", row, np.ones(1, np.float32), np.ones(1, np.int64))
    covariance = np.arange(36, dtype=np.float32).reshape(1, 6, 6)
    known = sent(encoders.boxes_to_message(TYPES, Boxes3D(*arguments, covariances=covariance)))
    np.testing.assert_array_equal(known.detections[0].results[0].pose.covariance, range(36))
    unknown = encoders.boxes_to_message(TYPES, Boxes3D(*arguments)).detections[0]
    assert not np.any(unknown.results[0].pose.covariance)


def test_boxes_2d_are_encoded_by_centre_and_size():
    rows = np.array([[10, 20, 30, 60], [0, 0, 1, 1]], np.float32)
    scores = np.array([0.75, 0.5], np.float32)
    names = ("vehicle", "person")
    boxes = Boxes2D("front", STAMP_NS, rows, scores, np.array([1, 0]), names, (640, 360))
    message = sent(encoders.image_boxes_to_message(TYPES, boxes, "front_optical"))
    assert message.header.frame_id == "front_optical"
    assert decoders.stamp_ns_of(message) == STAMP_NS
    first, second = message.detections
    box = first.bbox
    assert (box.center.position.x, box.center.position.y) == (20.0, 40.0)
    assert (box.size_x, box.size_y, box.center.theta) == (20.0, 40.0, 0.0)
    assert first.results[0].hypothesis.class_id == "person"
    assert first.results[0].hypothesis.score == 0.75
    assert second.header.frame_id == "front_optical" and second.bbox.size_x == 1.0


@st.composite
def grids(draw):
    rows, columns = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    occupied = rng.uniform(0, 1, (rows, columns)).astype(np.float32)
    free = (rng.uniform(0, 1, (rows, columns)) * (1 - occupied)).astype(np.float32)
    unknown = rng.random((rows, columns)) < 0.3
    occupied[unknown] = free[unknown] = 0
    resolution = draw(st.sampled_from((0.05, 0.1, 0.2, 0.25, 0.5, 1.0)))
    origin = draw(st.tuples(*[st.integers(-100, 100).map(lambda v: v / 4)] * 2))
    return OccupancyGrid(STAMP_NS, "base_link", resolution, origin, free, occupied)


@settings(max_examples=100)
@given(grids())
def test_grid_round_trip_within_one_percent(grid):
    msg = sent(encoders.occupancy_to_message(TYPES, grid, occupancy_percent(grid)))
    assert (msg.info.height, msg.info.width) == grid.free.shape
    back = decoders.occupancy_from_message(msg)
    assert (back.stamp_ns, back.frame_id) == (grid.stamp_ns, grid.frame_id)
    assert (back.resolution, back.origin) == (grid.resolution, grid.origin)
    cells = occupancy_percent(grid)
    np.testing.assert_array_equal(back.unknown() > 0.5, cells < 0)
    known = cells >= 0
    np.testing.assert_allclose(back.occupied[known], cells[known] / 100, atol=1e-6)


def test_grid_cells_are_ordered_by_row_from_the_smallest_x_and_y():
    occupied = np.zeros((2, 3), np.float32)
    occupied[0, 1], occupied[1, 2] = 1.0, 0.5
    grid = OccupancyGrid(0, "map", 0.5, (-1.0, 2.0), 1 - occupied, occupied)
    msg = encoders.occupancy_to_message(TYPES, grid, occupancy_percent(grid))
    assert list(msg.data) == [0, 100, 0, 0, 0, 20]  # 0.5 between 0.45 and 0.7
    plain = occupancy_percent(grid, OccupancyValuesConfig(mode="linear"))
    assert list(encoders.occupancy_to_message(TYPES, grid, plain).data) == [0, 100, 0, 0, 0, 50]
    position = msg.info.origin.position
    assert (position.x, position.y, msg.info.origin.orientation.w) == (-1.0, 2.0, 1.0)


@settings(max_examples=60)
@given(st.integers(1, 20), st.booleans(), st.booleans(), st.integers(0, 2**32))
def test_sweep_round_trip(n, with_rings, with_times, seed):
    rng = np.random.default_rng(seed)
    sweep = LidarSweep(
        "lidar",
        STAMP_NS,
        "roof",
        rng.uniform(-100, 100, (n, 4)).astype(np.float32),
        rng.uniform(-0.1, 0.1, n).astype(np.float32) if with_times else None,
        rng.integers(0, 128, n).astype(np.uint16) if with_rings else None,
    )
    msg = sent(encoders.sweep_to_message(TYPES, sweep))
    back = sweep_from_message(msg, "lidar", decoders.stamp_ns_of(msg))
    assert (back.stamp_ns, back.frame_id) == (STAMP_NS, "roof")
    np.testing.assert_array_equal(back.points, sweep.points)
    for name in ("rings", "time_offsets"):
        before, after = getattr(sweep, name), getattr(back, name)
        assert (before is None) == (after is None)
        if before is not None:
            np.testing.assert_array_equal(after, before)


def test_sweep_with_strided_points_round_trip():
    points = np.arange(40, dtype=np.float32).reshape(10, 4)
    for strided in (points[::3], points[::-1], np.asfortranarray(points)):
        sweep = LidarSweep("lidar", 0, "roof", strided)
        back = sweep_from_message(encoders.sweep_to_message(TYPES, sweep), "lidar", 0)
        np.testing.assert_array_equal(back.points, strided)


def test_sweep_without_points_is_encoded():
    msg = sent(
        encoders.sweep_to_message(TYPES, LidarSweep("l", 0, "r", np.zeros((0, 4), np.float32)))
    )
    assert (msg.width, len(msg.data), msg.point_step) == (0, 0, 16)


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "mono8"])
def test_image_round_trip(encoding):
    shape = (5, 7) if encoding == "mono8" else (5, 7, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    image = CameraImage("front", STAMP_NS, "front_optical", pixels, encoding)
    msg = sent(encoders.image_to_message(TYPES, image))
    back = image_from_message(msg, "front", decoders.stamp_ns_of(msg))
    assert (back.encoding, back.frame_id, back.stamp_ns) == (encoding, "front_optical", STAMP_NS)
    np.testing.assert_array_equal(back.pixels, pixels)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_thermal_image_round_trip(dtype):
    pixels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (4, 6)).astype(dtype)
    image = ThermalImage("ir", STAMP_NS, "ir_optical", pixels)
    back = thermal_from_message(sent(encoders.image_to_message(TYPES, image)), "ir", 0)
    assert back.pixels.dtype == dtype
    np.testing.assert_array_equal(back.pixels, pixels)


@pytest.mark.parametrize(
    "window",
    [
        np.s_[2:5, 1:4],
        np.s_[::2, ::3],
        np.s_[::-1],
        np.s_[:1:4],
        np.s_[3:4, 2:3],
        np.s_[:, 2:3],
        np.s_[:, :, ::-1],
    ],
)
def test_strided_image_round_trip(window):
    image = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    part = image[window]
    msg = encoders.image_to_message(TYPES, CameraImage("front", 0, "f", part))
    assert msg.step == 3 * part.shape[1]
    np.testing.assert_array_equal(image_from_message(msg, "front", 0).pixels, part)


@pytest.mark.parametrize(
    ("model", "coefficients"),
    [
        ("pinhole", []),
        ("plumb_bob", [-0.3, 0.1, 0.001, -0.002, 0.01]),
        ("plumb_bob", [-0.3, 0.1, 0.001, -0.002]),
        ("rational_polynomial", [0.1, -0.2, 1e-3, 1e-3, 0.01, 0.1, 0.02, 0.03]),
        ("equidistant", [0.01, -0.02, 0.003, 0.0]),
        ("equidistant", [0.0] * 4),
    ],
)
def test_camera_info_round_trip(model, coefficients):
    matrix = np.array([[700.0, 0, 640], [0, 710, 360], [0, 0, 1]])
    camera = CameraModel(1280, 720, matrix, model, np.array(coefficients))
    msg = sent(encoders.camera_info_to_message(TYPES, camera, STAMP_NS, "front_optical"))
    assert (msg.header.frame_id, decoders.stamp_ns_of(msg)) == ("front_optical", STAMP_NS)
    np.testing.assert_array_equal(np.reshape(msg.p, (3, 4))[:, :3], matrix)
    np.testing.assert_array_equal(np.reshape(msg.r, (3, 3)), np.eye(3))
    back = camera_model_from_message(msg)
    assert (back.width, back.height, back.model) == (1280, 720, model)
    np.testing.assert_array_equal(back.matrix, matrix)
    np.testing.assert_array_equal(back.coefficients, camera.coefficients)


@settings(max_examples=50)
@given(
    st.tuples(*[st.floats(-100, 100)] * 3),
    st.tuples(st.floats(-3, 3), st.floats(-1.5, 1.5), st.floats(-3, 3)),
)
def test_transform_round_trip(xyz, rpy):
    pose = poses.from_xyz_rpy(xyz, rpy)
    msg = sent(encoders.transform_to_message(TYPES, pose, "base_link", "lidar", STAMP_NS))
    assert (msg.header.frame_id, msg.child_frame_id) == ("base_link", "lidar")
    t, q = msg.transform.translation, msg.transform.rotation
    back = poses.from_quaternion((t.x, t.y, t.z), (q.x, q.y, q.z, q.w))
    np.testing.assert_allclose(back, pose, atol=1e-9)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.float32, np.float64])
def test_message_arrays_keep_their_values(dtype):
    data = np.array([0, 1, 100, 7], dtype)
    values = TYPES.values(data[::-1])
    assert isinstance(values, array.array)
    np.testing.assert_array_equal(np.asarray(values), data[::-1])
    assert np.asarray(values).dtype == dtype
