"""Opinions of the sensors about each box as a diagnostic_msgs/DiagnosticArray, and back.

vision_msgs has no field for them. Imports no ROS package.
"""

from __future__ import annotations

import math
from typing import Any

from multimodal_perception.box_evidence import MODALITIES
from multimodal_perception.frame import Boxes3D
from multimodal_perception.messages.encoders import make_header
from multimodal_perception.messages.errors import MessageError
from multimodal_perception.messages.message_types import MessageTypes
from multimodal_perception.object_evidence import ObjectEvidence, describe_objects

HARDWARE = "multimodal_perception"
OK = bytes([0])
SUFFIXES = ("belief", "disbelief", "uncertainty")


def evidence_to_message(types: MessageTypes, boxes: Boxes3D) -> Any:
    """DiagnosticArray with one status per box, in the order and with the stamp of the boxes.

    Values: MODALITY.belief, MODALITY.disbelief and MODALITY.uncertainty of each modality; the same as
    sensor.NAME.* of each camera and thermal camera that shows the box; conflict, total_uncertainty,
    probability, supporting and contradicting (names of sensors, separated by commas).
    """
    statuses = [
        types.new(
            "diagnostic_msgs/msg/DiagnosticStatus",
            level=OK,
            name=item.name,
            message=item.class_name,
            hardware_id=HARDWARE,
            values=[
                types.new("diagnostic_msgs/msg/KeyValue", key=key, value=value)
                for key, value in _values(item).items()
            ],
        )
        for item in describe_objects(boxes)
    ]
    head = make_header(types, boxes.stamp_ns, boxes.frame_id)
    return types.new("diagnostic_msgs/msg/DiagnosticArray", header=head, status=statuses)


def _values(item: ObjectEvidence) -> dict[str, str]:
    values: dict[str, str] = {}
    named = [*item.masses.items(), *((f"sensor.{n}", m) for n, m in item.sensors.items())]
    for name, masses in named:
        values |= {f"{name}.{s}": f"{v:.4f}" for s, v in zip(SUFFIXES, masses, strict=True)}
    return {
        **values,
        "conflict": f"{item.conflict:.4f}",
        "total_uncertainty": f"{item.total_uncertainty:.4f}",
        "probability": f"{item.probability:.4f}",
        "supporting": ", ".join(item.supporting),
        "contradicting": ", ".join(item.contradicting),
    }


def evidence_from_message(msg: Any) -> list[ObjectEvidence]:
    """Decode evidence_to_message. Raises MessageError("bad_evidence") for missing or other values."""
    return [_decode(status) for status in msg.status]


def _decode(status: Any) -> ObjectEvidence:
    texts = {v.key: v.value for v in status.values}

    def number(key: str) -> float:
        try:
            return float(texts[key])
        except (KeyError, ValueError) as error:
            raise MessageError("bad_evidence", f"{status.name}: {key}: no number") from error

    def masses(name: str) -> tuple[float, float, float]:
        belief, disbelief, uncertainty = (number(f"{name}.{s}") for s in SUFFIXES)
        if not all(math.isfinite(v) for v in (belief, disbelief, uncertainty)):
            raise MessageError("bad_evidence", f"{status.name}: {name}: not finite")
        return belief, disbelief, uncertainty

    def names(key: str) -> tuple[str, ...]:
        return tuple(n for n in texts.get(key, "").split(", ") if n)

    sensors = [
        key.removeprefix("sensor.").removesuffix(".belief")
        for key in texts
        if key.startswith("sensor.") and key.endswith(".belief")
    ]
    return ObjectEvidence(
        status.name,
        status.message,
        {name: masses(name) for name in MODALITIES},
        {name: masses(f"sensor.{name}") for name in sensors},
        number("conflict"),
        number("total_uncertainty"),
        number("probability"),
        names("supporting"),
        names("contradicting"),
    )
