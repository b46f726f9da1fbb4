"""Markers: each box is drawn, and each box that went is deleted once."""

from __future__ import annotations

import numpy as np
import pytest
from rclpy.serialization import deserialize_message, serialize_message
from visualization_msgs.msg import Marker, MarkerArray

from multimodal_perception.frame import CLASS_NAMES, Boxes3D
from multimodal_perception.ros.markers import MarkerEncoder
from multimodal_perception.ros.messages import RclpyTypes, stamp_ns_of

STAMP_NS = 12_345_678_901


def make_boxes(n):
    rng = np.random.default_rng(n)
    return Boxes3D(
        STAMP_NS,
        "base_link",
        rng.uniform(1, 9, (n, 7)).astype(np.float32),
        np.linspace(0, 1, n, dtype=np.float32),
        np.arange(n) % len(CLASS_NAMES),
    )


@pytest.fixture
def encoder():
    return MarkerEncoder(RclpyTypes(), lifetime_s=1.25)


def visible_after(arrays):
    """What RViz shows after the arrays: markers by namespace and number."""
    shown = {}
    for array in arrays:
        for marker in array.markers:
            key = marker.ns, marker.id
            if marker.action == Marker.DELETE:
                del shown[key]
            else:
                shown[key] = marker
    return shown


def test_a_box_is_a_cube_of_its_place_and_size_and_a_text(encoder):
    boxes = make_boxes(1)
    cube, text = encoder.encode(boxes).markers
    assert (cube.type, text.type) == (Marker.CUBE, Marker.TEXT_VIEW_FACING)
    x, y, z, length, width, height, yaw = map(float, boxes.boxes[0])
    position, scale, q = cube.pose.position, cube.scale, cube.pose.orientation
    assert (position.x, position.y, position.z) == (x, y, z)
    assert (scale.x, scale.y, scale.z) == (length, width, height)
    np.testing.assert_allclose([q.x, q.y, q.z, q.w], [0, 0, np.sin(yaw / 2), np.cos(yaw / 2)])
    assert text.text == "unknown 0.00"
    assert text.scale.z > 0 and text.color.a == 1.0


def test_every_marker_says_where_when_and_for_how_long(encoder):
    for marker in encoder.encode(make_boxes(3)).markers:
        assert marker.header.frame_id == "base_link"
        assert stamp_ns_of(marker) == STAMP_NS
        assert (marker.lifetime.sec, marker.lifetime.nanosec) == (1, 250_000_000)
        assert all(0 <= v <= 1 for v in (marker.color.r, marker.color.g, marker.color.b))
        assert marker.color.a > 0


def test_classes_are_told_apart_by_colour(encoder):
    markers = encoder.encode(make_boxes(len(CLASS_NAMES))).markers
    cubes = [m for m in markers if m.type == Marker.CUBE]
    assert len({(m.color.r, m.color.g, m.color.b) for m in cubes}) == len(CLASS_NAMES)


@pytest.mark.parametrize("counts", [(3, 1), (1, 3), (4, 0, 2), (2, 2), (0,), (5, 3, 1, 0, 0, 2)])
def test_what_is_shown_is_what_the_last_boxes_are(encoder, counts):
    shown = visible_after([encoder.encode(make_boxes(n)) for n in counts])
    expected = {(space, i) for space in ("boxes", "labels") for i in range(counts[-1])}
    assert set(shown) == expected


def test_nothing_is_deleted_twice(encoder):
    encoder.encode(make_boxes(3))
    assert len(encoder.encode(make_boxes(0)).markers) == 6
    assert encoder.encode(make_boxes(0)).markers == []


def test_numbers_are_unique_in_each_message(encoder):
    encoder.encode(make_boxes(5))
    keys = [(m.ns, m.id) for m in encoder.encode(make_boxes(3)).markers]
    assert len(keys) == len(set(keys)) == 10


def test_the_array_can_be_published(encoder):
    encoder.encode(make_boxes(3))
    array = encoder.encode(make_boxes(2))
    msg = deserialize_message(serialize_message(array), MarkerArray)
    assert len(msg.markers) == 6
    # Not the bytes: their padding may hold anything.
    assert deserialize_message(serialize_message(msg), MarkerArray) == msg
