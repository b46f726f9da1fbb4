"""Outputs of the node, encoded and decoded again."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from multimodal_perception.frame import Boxes3D, CameraImage, SensorFrame
from multimodal_perception.messages import encoders, message_types
from multimodal_perception.messages.errors import MessageError
from multimodal_perception.perception import Boxes2D, Level, Perception, SensorHealth
from multimodal_perception.ros import diagnostics, outputs, result_decoders
from multimodal_perception.segmentation.classes import SEGMENTATION_CLASSES

TYPES = message_types.RclpyTypes()


def test_boxes_in_images_keep_position_class_and_score() -> None:
    boxes = np.array([[1, 2, 11, 22], [5, 5, 6, 9]], np.float32)
    scores = np.array([0.9, 0.4], np.float32)
    sent = Boxes2D("front", 7, boxes, scores, np.array([1, 0]), ("person", "vehicle"), (64, 48))
    message = encoders.image_boxes_to_message(TYPES, sent, "optical")
    received = result_decoders.boxes2d_from_message(message, "front", (64, 48))
    np.testing.assert_allclose(received.boxes, boxes)
    np.testing.assert_allclose(received.scores, scores)
    assert [received.class_names[i] for i in received.labels] == ["vehicle", "person"]
    assert received.stamp_ns == 7
    message.detections[0].bbox.size_x = float("nan")
    with pytest.raises(MessageError, match="bad_detection"):
        result_decoders.boxes2d_from_message(message, "front", (64, 48))


def test_masks_keep_their_labels_also_with_padded_rows() -> None:
    labels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    image = CameraImage("front", 5, "optical", labels, "mono8")
    message = encoders.image_to_message(TYPES, image)
    mask = result_decoders.mask_from_message(message, "front")
    np.testing.assert_array_equal(mask.labels, labels)
    assert (mask.stamp_ns, mask.class_names) == (5, SEGMENTATION_CLASSES)
    padded = np.zeros((3, 6), np.uint8)
    padded[:, :4] = labels
    message.step, message.data = 6, TYPES.values(padded.reshape(-1))
    np.testing.assert_array_equal(
        result_decoders.mask_from_message(message, "front").labels, labels
    )
    for attribute, value in (("height", 4), ("width", 9), ("encoding", "rgb8")):
        wrong = SimpleNamespace(
            **{n: getattr(message, n) for n in ("header", "height", "width", "step", "data")},
            encoding="mono8",
        )
        setattr(wrong, attribute, value)
        with pytest.raises(MessageError, match="bad_mask"):
            result_decoders.mask_from_message(wrong, "front")


def test_tracks_keep_velocity_and_id() -> None:
    boxes = np.array([[1, 2, 3, 4, 2, 1, 0.5], [0, 0, 0, 1, 1, 1, 0]], np.float32)
    velocities = np.array([[3.0, -1.0], [np.nan, np.nan]], np.float32)
    sent = Boxes3D(
        9,
        "base_link",
        boxes,
        np.ones(2, np.float32),
        np.array([5, 1]),
        velocities=velocities,
        track_ids=np.array([12, 3]),
    )
    received = result_decoders.tracks_from_message(outputs.tracks_message(TYPES, sent))
    np.testing.assert_allclose(received.boxes[:, [0, 1, 2, 6]], boxes[:, [0, 1, 2, 6]])
    np.testing.assert_array_equal(received.velocities, velocities)
    assert received.track_ids is not None and received.track_ids.tolist() == [12, 3]
    assert received.labels.tolist() == [5, 1]


def test_point_clouds_with_other_fields_are_no_tracks() -> None:
    rows = np.zeros(1, [("x", "<f4"), ("y", "<f4"), ("z", "<f4")])
    message = encoders.points_to_message(TYPES, rows, 0, "base_link", True)
    with pytest.raises(MessageError, match="bad_tracks"):
        result_decoders.tracks_from_message(message)


def test_health_is_that_of_the_named_node_only() -> None:
    health = SensorHealth("lidar", Level.ERROR, "silent", 9.5, drops={"bad_stamp": 2})
    mine = diagnostics.sensor_status(TYPES, "/a/perception", health, {})
    other = diagnostics.sensor_status(
        TYPES, "/b/perception", SensorHealth("lidar", Level.OK, "ok"), {}
    )
    received = result_decoders.sensor_health_from_statuses(
        [other, mine], "/a/perception", ["lidar", "camera"]
    )
    assert set(received) == {"lidar"}
    lidar = received["lidar"]
    assert (lidar.level, lidar.message, lidar.rate_hz) == (Level.ERROR, "silent", 9.5)
    assert lidar.drops == {"bad_stamp": 2}


@pytest.mark.parametrize(
    ("value", "level"), [(b"\x01", Level.WARN), (2, Level.ERROR), (b"\x09", Level.STALE)]
)
def test_levels_of_any_type_are_decoded(value: Any, level: Level) -> None:
    assert result_decoders.status_level(SimpleNamespace(level=value)) is level


def test_stage_times_are_those_of_the_stages() -> None:
    perception = Perception(3, "base_link", Boxes3D.empty(3, "base_link"), stage_ms={"detect": 1.5})
    message = diagnostics.timing_message(TYPES, perception, {"node": 4.0}, SensorFrame(3))
    assert result_decoders.stage_times_from_message(message) == {"detect": 1.5, "node": 4.0}
    message.status = []
    assert result_decoders.stage_times_from_message(message) == {}
