"""Markers: a box has its markers, and they are deleted once when it disappears."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from rclpy.serialization import deserialize_message, serialize_message
from visualization_msgs.msg import Marker, MarkerArray

from multimodal_perception.frame import CLASS_NAMES, Boxes3D
from multimodal_perception.messages.decoders import stamp_ns_of
from multimodal_perception.messages.message_types import RclpyTypes
from multimodal_perception.ros.markers import MarkerEncoder
from test.test_sensor_reliability import boxes_of

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


def displayed_markers(arrays):
    """The markers that RViz displays after the arrays, by namespace and id."""
    displayed = {}
    for array in arrays:
        for marker in array.markers:
            key = marker.ns, marker.id
            if marker.action == Marker.DELETE:
                del displayed[key]
            else:
                displayed[key] = marker
    return displayed


def test_a_box_is_a_cube_with_its_pose_and_size_and_a_label(encoder):
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


def test_every_marker_has_frame_stamp_lifetime_and_colour(encoder):
    for marker in encoder.encode(make_boxes(3)).markers:
        assert marker.header.frame_id == "base_link"
        assert stamp_ns_of(marker) == STAMP_NS
        assert (marker.lifetime.sec, marker.lifetime.nanosec) == (1, 250_000_000)
        assert all(0 <= v <= 1 for v in (marker.color.r, marker.color.g, marker.color.b))
        assert marker.color.a > 0


def test_every_class_has_its_own_colour(encoder):
    markers = encoder.encode(make_boxes(len(CLASS_NAMES))).markers
    cubes = [m for m in markers if m.type == Marker.CUBE]
    assert len({(m.color.r, m.color.g, m.color.b) for m in cubes}) == len(CLASS_NAMES)


@pytest.mark.parametrize("counts", [(3, 1), (1, 3), (4, 0, 2), (2, 2), (0,), (5, 3, 1, 0, 0, 2)])
def test_displayed_markers_are_those_of_the_last_boxes(encoder, counts):
    displayed = displayed_markers([encoder.encode(make_boxes(n)) for n in counts])
    expected = {(namespace, i) for namespace in ("boxes", "labels") for i in range(counts[-1])}
    assert set(displayed) == expected


def test_markers_are_deleted_once(encoder):
    encoder.encode(make_boxes(3))
    assert len(encoder.encode(make_boxes(0)).markers) == 6
    assert encoder.encode(make_boxes(0)).markers == []


def test_marker_ids_are_unique_within_a_message(encoder):
    encoder.encode(make_boxes(5))
    keys = [(m.ns, m.id) for m in encoder.encode(make_boxes(3)).markers]
    assert len(keys) == len(set(keys)) == 10


def moving_boxes(*velocities, ids=None):
    boxes = make_boxes(len(velocities))
    rows = np.array(velocities, np.float32).reshape(-1, 2)
    return replace(boxes, velocities=rows, track_ids=ids)


def test_a_moving_object_has_an_arrow_of_its_displacement_in_one_second(encoder):
    boxes = moving_boxes((3.0, -4.0), (0.3, 0.3), (np.nan, np.nan), ids=np.array([7, 8, -1]))
    markers = encoder.encode(boxes).markers
    (arrow,) = [m for m in markers if m.type == Marker.ARROW]
    start, end = arrow.points
    x, y, z = map(float, boxes.boxes[0, :3])
    assert (start.x, start.y, start.z) == (x, y, z)
    np.testing.assert_allclose((end.x, end.y, end.z), (x + 3, y - 4, z), rtol=1e-6)
    assert arrow.scale.y > arrow.scale.x > 0 and arrow.color.a == 1.0
    texts = [m.text for m in markers if m.type == Marker.TEXT_VIEW_FACING]
    assert texts == ["unknown #7 0.00", "car #8 0.50", "van 1.00"]


def test_an_arrow_is_deleted_when_its_object_stops_or_disappears(encoder):
    still, fast = (0.0, 0.0), (9.0, 0.0)
    drives = [(fast, fast), (still, fast), (fast,), (still, still), ()]
    arrays = []
    for drive in drives:
        arrays.append(encoder.encode(moving_boxes(*drive)))
        arrows = {i for namespace, i in displayed_markers(arrays) if namespace == "velocities"}
        assert arrows == {i for i, v in enumerate(drive) if v is fast}
    msg = deserialize_message(serialize_message(arrays[0]), MarkerArray)
    assert deserialize_message(serialize_message(msg), MarkerArray) == msg


def test_the_array_can_be_published(encoder):
    encoder.encode(make_boxes(3))
    array = encoder.encode(make_boxes(2))
    msg = deserialize_message(serialize_message(array), MarkerArray)
    assert len(msg.markers) == 6
    # The bytes are not compared: padding bytes are undefined.
    assert deserialize_message(serialize_message(msg), MarkerArray) == msg


def test_opinions_are_a_text_below_each_box_only_on_request(encoder):
    boxes = boxes_of(0, wrong=["left"])
    assert all(m.ns != "evidence" for m in encoder.encode(boxes).markers)
    encoder.show_evidence = True
    shown = encoder.encode(boxes)
    texts = [m for m in shown.markers if m.ns == "evidence"]
    assert len(texts) == len(boxes)
    assert all(m.text.startswith("L 0.") and "conflict" in m.text for m in texts)
    x, y, z, _, _, height, _ = map(float, boxes.boxes[0])
    position = texts[0].pose.position
    assert (position.x, position.y) == (x, y) and position.z < z - height / 2
    fewer = encoder.encode(boxes.select(np.arange(1)))
    deleted = [m for m in fewer.markers if m.ns == "evidence" and m.action == Marker.DELETE]
    assert [m.id for m in deleted] == [1, 2, 3]
    left = displayed_markers([shown, fewer])
    assert [key for key in left if key[0] == "evidence"] == [("evidence", 0)]
    encoder.show_evidence = False
    gone = displayed_markers([shown, fewer, encoder.encode(boxes)])
    assert all(namespace != "evidence" for namespace, _ in gone)
