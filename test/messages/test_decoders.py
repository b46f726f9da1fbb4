"""Decoders of ranges, 3D boxes and occupancy grids; invalid messages raise errors with a reason."""

from __future__ import annotations

import array
import math
import random

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Quaternion
from nav_msgs.msg import OccupancyGrid as OccupancyMessage
from sensor_msgs.msg import Range
from std_msgs.msg import Header
from vision_msgs.msg import Detection3D, Detection3DArray, ObjectHypothesisWithPose

from multimodal_perception.frame import (
    CLASS_NAMES,
)
from multimodal_perception.geometry import poses
from multimodal_perception.messages import decoders
from multimodal_perception.messages.errors import MessageError


def reason_of(decoder, *arguments):
    with pytest.raises(MessageError) as caught:
        decoder(*arguments)
    return caught.value.reason


@pytest.mark.parametrize(
    ("sec", "nanosec"), [(-1, 0), (-1, 999_999_999), (0, 1_000_000_000), (5, 2**32 - 1)]
)
def test_invalid_stamp_raises_error(sec, nanosec):
    msg = Range(header=Header(stamp=Time(sec=sec, nanosec=nanosec)))
    assert reason_of(decoders.stamp_ns_of, msg) == "bad_stamp"


def make_range(**changes):
    values = {"field_of_view": 0.5, "min_range": 0.2, "max_range": 5.0, "range": 1.5}
    return Range(header=Header(frame_id="rear_left"), **{**values, **changes})


@pytest.mark.parametrize("distance", [math.inf, -math.inf, 0.1, 6.0])
def test_ranges_outside_the_limits_are_kept(distance):
    reading = decoders.ultrasonic_from_message(make_range(range=distance), "rear", 0)
    assert reading.range_m == pytest.approx(distance)


def test_nan_range_is_kept():
    assert math.isnan(decoders.ultrasonic_from_message(make_range(range=math.nan), "r", 0).range_m)


@pytest.mark.parametrize(
    "changes",
    [
        {"min_range": -0.1},
        {"min_range": 6.0},
        {"min_range": math.nan},
        {"max_range": math.nan},
        {"max_range": math.inf},
        {"min_range": -math.inf},
        {"field_of_view": 0.0},
        {"field_of_view": -1.0},
        {"field_of_view": 7.0},
        {"field_of_view": math.nan},
        {"field_of_view": math.inf},
    ],
)
def test_invalid_range_limits_raise_error(changes):
    assert reason_of(decoders.ultrasonic_from_message, make_range(**changes), "r", 0) == "bad_range"


def test_mutated_ranges_raise_only_message_errors():
    rng = random.Random(5)
    numbers = (0.0, -0.0, 1.0, -1.0, 5.0, 3.4e38, 1e-45, math.nan, math.inf, -math.inf)
    outcomes = {"decoded": 0, "refused": 0}
    for _ in range(100_000):
        msg = make_range()
        for _ in range(rng.randint(1, 3)):
            name = rng.choice(("field_of_view", "min_range", "max_range", "range"))
            setattr(msg, name, rng.choice(numbers))
        msg.radiation_type = rng.randrange(256)
        try:
            reading = decoders.ultrasonic_from_message(msg, "r", 0)
        except MessageError:
            outcomes["refused"] += 1
        else:
            assert 0 <= reading.min_range <= reading.max_range < math.inf
            outcomes["decoded"] += 1
    assert min(outcomes.values()) > 200


def make_detection(*hypotheses, **changes):
    detection = Detection3D(**changes)
    for class_id, score in hypotheses:
        result = ObjectHypothesisWithPose()
        result.hypothesis.class_id, result.hypothesis.score = class_id, score
        detection.results.append(result)
    return detection


def decode_detections(*detections):
    return decoders.boxes_from_message(Detection3DArray(detections=list(detections)))


def test_best_hypothesis_gives_class_and_score():
    boxes = decode_detections(make_detection(("car", 0.2), ("bus", 0.7), ("van", 0.1)))
    assert CLASS_NAMES[boxes.labels[0]] == "bus"
    assert boxes.scores[0] == np.float32(0.7)


def test_detection_without_known_class_is_unknown():
    boxes = decode_detections(make_detection(), make_detection(("zeppelin", 0.9)))
    assert [CLASS_NAMES[i] for i in boxes.labels] == ["unknown", "unknown"]
    np.testing.assert_array_equal(boxes.scores, np.float32([0, 0.9]))


@pytest.mark.parametrize(
    ("quaternion", "yaw"),
    [
        ((0.0, 0.0, 0.0, 1.0), 0.0),
        ((0.0, 0.0, 1.0, 0.0), np.pi),
        ((0.0, 0.0, math.sin(-0.4), math.cos(-0.4)), -0.8),
        ((0.0, 0.0, -math.sin(0.4), -math.cos(0.4)), 0.8),
        (tuple(poses.to_quaternion(poses.from_xyz_rpy((0, 0, 0), (0.2, -0.1, 1.1)))[1]), 1.1),
    ],
)
def test_yaw_is_decoded_from_any_rotation(quaternion, yaw):
    detection = make_detection()
    x, y, z, w = map(float, quaternion)
    detection.bbox.center.orientation = Quaternion(x=x, y=y, z=z, w=w)
    difference = decode_detections(detection).boxes[0, 6] - yaw
    assert math.remainder(difference, 2 * np.pi) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    "track", ["", "car-7", "7.0", " 7", "-", "--5", "5-", "²", "1\u0663x", "9" * 30, "1e3", "0x1"]
)
def test_non_numeric_id_means_no_track(track):
    assert decode_detections(make_detection(("car", 0.5), id=track)).track_ids is None


def test_track_ids_require_an_id_for_every_box():
    with_id, without = make_detection(id="12"), make_detection(id="")
    np.testing.assert_array_equal(decode_detections(with_id, with_id).track_ids, [12, 12])
    assert decode_detections(with_id, without).track_ids is None


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["position.y", "size.z", "orientation.z", "score"])
def test_non_finite_detection_raises_error(bad, where):
    detection = make_detection(("car", 0.5))
    part, _, axis = where.partition(".")
    holder = {
        "position": detection.bbox.center.position,
        "orientation": detection.bbox.center.orientation,
        "size": detection.bbox.size,
        "score": detection.results[0].hypothesis,
    }[part]
    setattr(holder, axis or part, bad)
    assert reason_of(decode_detections, make_detection(), detection) == "bad_detection"


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_detection_beyond_float32_raises_error():
    detection = make_detection(("car", 0.5))
    detection.bbox.center.position.x = 1e300
    assert reason_of(decode_detections, detection) == "bad_detection"


def make_grid(**info):
    msg = OccupancyMessage(data=array.array("b", [-1, 0, 50, 100, 25, -128]))
    msg.info.width, msg.info.height, msg.info.resolution = 3, 2, 0.5
    for name, value in info.items():
        setattr(msg.info, name, value)
    return msg


def test_percentages_become_masses():
    grid = decoders.occupancy_from_message(make_grid())
    np.testing.assert_allclose(grid.occupied, [[0, 0, 0.5], [1, 0.25, 0]])
    np.testing.assert_allclose(grid.free, [[0, 1, 0.5], [0, 0.75, 0]])
    np.testing.assert_allclose(grid.unknown(), [[1, 0, 0], [0, 0, 1]], atol=1e-7)


@pytest.mark.parametrize(
    "info",
    [
        {"width": 2},
        {"height": 0},
        {"width": 2**32 - 1},
        {"resolution": 0.0},
        {"resolution": -1.0},
        {"resolution": math.nan},
        {"resolution": math.inf},
        {"resolution": 1e-9},
    ],
)
def test_invalid_grid_geometry_raises_error(info):
    assert reason_of(decoders.occupancy_from_message, make_grid(**info)) == "bad_grid"


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_non_finite_grid_origin_raises_error(bad):
    msg = make_grid()
    msg.info.origin.position.x = bad
    assert reason_of(decoders.occupancy_from_message, msg) == "bad_grid"
