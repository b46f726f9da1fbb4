"""Fallbacks of inference engines and detectors on /diagnostics, over DDS."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from multimodal_perception.perception import Level
from multimodal_perception.simulation.simulation import Observation

pytestmark = pytest.mark.live

EXAMPLE = Path(__file__).parent.parent / "example_plugin"
DIAGNOSTICS = {"/diagnostics": "diagnostic_msgs/msg/DiagnosticArray"}
DETECTOR, NETWORK = "inference of fusion_detector", "inference of bev_fusion"

Status = tuple[int, str, dict[str, str]]


@pytest.fixture
def example_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the node's process import the example plug-ins."""
    paths = [str(EXAMPLE), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))


def all_status(client: Any, name: str) -> list[Status]:
    """Level, message and values of every DiagnosticStatus of a name, oldest first."""
    return [
        (status.level[0], status.message, {v.key: v.value for v in status.values})
        for array in list(client.received["/diagnostics"])
        for status in array.status
        if status.name == f"/perception: {name}"
    ]


def test_engine_and_detector_fallbacks_are_warnings_until_they_recover(
    example_on_path: None, start_node: Callable[..., Any], observation: Observation
) -> None:
    settings = {
        "pipeline.detector": "failing_networks:FailingFusionDetector",
        "diagnostics_period_s": "0.2",
    }
    client = start_node(settings, DIAGNOSTICS)

    def warned(name: str, words: str) -> list[Status]:
        return [s for s in all_status(client, name) if s[0] == Level.WARN.value and words in s[1]]

    # The first frame: both engines fail, and the geometric detector processes it.
    client.send_until(observation.frame, lambda: warned(DETECTOR, "out of memory"))
    assert "geometric" in warned(DETECTOR, "out of memory")[0][1]
    # Later frames: only the first engine fails; the network continues with the second one.
    client.send_until(observation.frame, lambda: warned(NETWORK, "runs with second"))
    _, message, values = warned(NETWORK, "runs with second")[-1]
    assert "out of memory" in message
    assert values["engine"] == "second" and values["device"] == "cpu"
    assert "out of memory" in values["unavailable.first"] and "p50_ms" in values

    # The detector works again: its warning ends some seconds after the failure, in frame time.
    def recovered() -> bool:
        return all_status(client, DETECTOR)[-1][0] == Level.OK.value

    client.send_until(observation.frame, recovered)
    assert all_status(client, NETWORK)[-1][0] == Level.WARN.value


def test_a_working_network_is_reported_with_its_engine(
    start_node: Callable[..., Any], observation: Observation
) -> None:
    client = start_node({"pipeline.segmenter": "rgb_thermal"}, DIAGNOSTICS)
    client.send_until(observation.frame, lambda: all_status(client, "inference of segmentation"))
    level, message, values = all_status(client, "inference of segmentation")[-1]
    assert (level, message) == (Level.OK.value, "ok")
    assert values["model"] == "segmentation" and values["engine"] == "onnxruntime"
    assert values["device"] == "cpu"


@pytest.mark.serial  # depends on the times of frames
def test_the_load_level_is_raised_counted_reported_and_lowered(
    example_on_path: None, start_node: Callable[..., Any], observation: Observation
) -> None:
    settings = {
        "pipeline.detector": "slow_detector:SlowDetector",
        "diagnostics_period_s": "0.2",
        "deadline_s": "0.05",
        "load.recovery_s": "1.0",
        "load.low_fraction": "0.9",
        "pipeline.tracking.enabled": "false",
        "pipeline.image_detector": "none",
    }
    client = start_node(settings, DIAGNOSTICS)

    def loads(level: Level, name: str) -> list[Status]:
        found = all_status(client, "load")
        return [s for s in found if s[0] == level.value and s[2]["level_name"] == name]

    def send_at_2_hz(condition: Callable[[], Any]) -> None:
        for _ in range(80):
            client.send(observation.frame)
            time.sleep(0.5)
            if condition():
                return
        raise AssertionError(f"the load level did not change: {all_status(client, 'load')[-1:]}")

    send_at_2_hz(lambda: loads(Level.WARN, "quick"))
    _, message, values = loads(Level.WARN, "quick")[0]
    assert message.startswith("frames took ") and message.endswith(": quick")
    assert values["raised.quick"] == "1" and values["levels"] == "full, quick"
    send_at_2_hz(lambda: [s for s in loads(Level.OK, "full") if "lowered.full" in s[2]])
    assert int(all_status(client, "load")[-1][2]["frames.quick"]) > 0
