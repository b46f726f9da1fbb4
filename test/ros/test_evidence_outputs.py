"""The opinions of the sensors over DDS: messages, markers and diagnostics of a running node."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from multimodal_perception.box_evidence import MODALITIES
from multimodal_perception.messages.decoders import stamp_ns_of
from multimodal_perception.messages.evidence import evidence_from_message
from multimodal_perception.simulation.simulation import Observation
from test.detection.bev_fusion.small_models import write_models
from test.detection.bev_fusion.small_opinions import write_opinions

pytestmark = pytest.mark.live

OBJECTS, EVIDENCE = "perception/objects", "perception/evidence"
TOPICS = {
    OBJECTS: "vision_msgs/msg/Detection3DArray",
    EVIDENCE: "diagnostic_msgs/msg/DiagnosticArray",
    "perception/markers": "visualization_msgs/msg/MarkerArray",
    "/diagnostics": "diagnostic_msgs/msg/DiagnosticArray",
}


def test_a_node_with_a_network_for_opinions_publishes_them(
    start_node: Callable[..., Any], observation: Observation, tmp_path: Path
) -> None:
    model = write_models(tmp_path)
    opinions = write_opinions(model, tmp_path / "opinions")
    settings = {
        "pipeline.detector": "fusion",
        "pipeline.fusion.model": str(model),
        "pipeline.fusion.opinions": str(opinions),
        "pipeline.fusion.min_score": "0.0",
        "marker_evidence": "true",
        "diagnostics_period_s": "0.2",
    }
    client = start_node(settings, TOPICS)

    def statuses() -> list[Any]:
        arrays = list(client.received["/diagnostics"])
        return [s for a in arrays for s in a.status if s.name == "/perception: evidence"]

    def complete() -> bool:
        return bool(
            client.received[EVIDENCE] and client.received["perception/markers"] and statuses()
        )

    client.send_until(observation.frame, complete)
    message = client.received[EVIDENCE][-1]
    stamp_ns = stamp_ns_of(message)
    objects = next(m for m in client.received[OBJECTS] if stamp_ns_of(m) == stamp_ns)
    items = evidence_from_message(message)
    assert items and len(items) == len(objects.detections)
    names = [d.results[0].hypothesis.class_id for d in objects.detections]
    assert [i.class_name for i in items] == names
    assert [i.name for i in items] == [d.id or f"box {k}" for k, d in enumerate(objects.detections)]
    for item in items:
        assert tuple(item.masses) == MODALITIES
        assert all(sum(m) == pytest.approx(1.0, abs=1e-3) for m in item.masses.values())
        assert item.masses["lidar"] == (0.0, 0.0, 1.0)  # the rig has no LiDAR
        assert set(item.sensors) <= {"camera_front", "thermal_front"}
    assert any(item.sensors for item in items)
    markers = client.received["perception/markers"][-1].markers
    assert any(m.ns == "evidence" and "conflict" in m.text for m in markers)
    values = {v.key for v in statuses()[-1].values}
    assert {"reliability.camera_front", "error.thermal_front"} <= values
