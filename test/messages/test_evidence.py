"""Opinions of the sensors as a DiagnosticArray, and back."""

from __future__ import annotations

import pytest
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.serialization import deserialize_message, serialize_message

from multimodal_perception.messages.decoders import stamp_ns_of
from multimodal_perception.messages.errors import MessageError
from multimodal_perception.messages.evidence import evidence_from_message, evidence_to_message
from multimodal_perception.messages.message_types import RclpyTypes
from multimodal_perception.object_evidence import describe_objects
from test.test_sensor_reliability import boxes_of


def test_decoded_messages_have_the_opinions_of_the_boxes() -> None:
    boxes = boxes_of(3, wrong=["left"], unobserved=["ultrasonic"])
    message = deserialize_message(
        serialize_message(evidence_to_message(RclpyTypes(), boxes)), DiagnosticArray
    )
    assert stamp_ns_of(message) == boxes.stamp_ns and message.header.frame_id == "base_link"
    found, expected = evidence_from_message(message), describe_objects(boxes)
    assert len(found) == len(boxes)
    for a, b in zip(found, expected, strict=True):
        assert (a.name, a.class_name, a.supporting, a.contradicting) == (
            b.name, b.class_name, b.supporting, b.contradicting,
        )  # fmt: skip
        for own, wanted in ((a.masses, b.masses), (a.sensors, b.sensors)):
            assert own.keys() == wanted.keys()
            for name in own:
                assert own[name] == pytest.approx(wanted[name], abs=1e-4)
        assert a.conflict == pytest.approx(b.conflict, abs=1e-4)
    assert found[0].supporting == ("lidar", "front", "thermal")
    assert found[0].contradicting == ("left",) and found[0].name == "0"


@pytest.mark.parametrize("text", [None, "", "high", "nan"])
def test_missing_or_wrong_values_are_errors(text: str | None) -> None:
    message = evidence_to_message(RclpyTypes(), boxes_of(3))
    values = message.status[1].values
    row = next(v for v in values if v.key == "lidar.belief")
    if text is None:
        message.status[1].values = [v for v in values if v is not row]
    else:
        row.value = text
    with pytest.raises(MessageError) as caught:
        evidence_from_message(message)
    assert caught.value.reason == "bad_evidence" and "lidar" in str(caught.value)
