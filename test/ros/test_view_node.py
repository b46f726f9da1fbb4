"""The live view of a running node over DDS: what it shows, and that it cannot delay the publishers."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from multimodal_perception.simulation.simulation import Observation
from test.ros.conftest import LIMIT_S
from test.visualization.rrd_entities import entities

pytestmark = pytest.mark.live

MASK = "perception/segmentation/camera_front"
COMMAND = [sys.executable, "-m", "multimodal_perception.cli.main", "view"]


def test_sensors_and_results_of_a_running_node_are_recorded(
    start_node: Callable[..., Any], observation: Observation, tmp_path: Path
) -> None:
    """Without --rig: the command asks the node for its rig."""
    settings = {
        "pipeline.image_detector": "rgb_thermal",
        "pipeline.segmenter": "rgb_thermal",
        "pipeline.occupancy": "raycast",
    }
    client = start_node(settings, {MASK: "sensor_msgs/msg/Image"})
    path = tmp_path / "a.rrd"
    process = subprocess.Popen([*COMMAND, "--save", str(path)])
    reliabilities: set[str] = set()
    masks_before: list[int] = []

    def has_results() -> bool:
        """Whether the node has published three masks since the view subscribed."""
        reliabilities.update(client.subscriptions("view"))
        masks = len(client.received[MASK])
        if reliabilities:
            masks_before.append(masks)
        return bool(masks_before) and masks >= masks_before[0] + 3

    try:
        client.send_until(observation.frame, has_results)
        process.send_signal(signal.SIGINT)
        process.wait(LIMIT_S)
    finally:
        process.kill()
    assert process.wait(LIMIT_S) == 0
    assert reliabilities == {"BEST_EFFORT"}
    found = entities(path)
    camera, thermal = "/base_link/cameras/camera_front", "/base_link/thermal/thermal_front"
    for entity in (
        *(camera, f"{camera}/boxes2d", f"{camera}/mask", f"{camera}/objects", thermal),
        *("/base_link/objects", "/base_link/velocities", "/stage_ms/total", "/health_table"),
        *("/health/camera_front/rate_hz", "/health/thermal_front/level"),
    ):
        assert found[entity] >= 1, (entity, found)


def test_without_a_node_the_error_names_it(tmp_path: Path) -> None:
    arguments = ["--namespace", "robot_7", "--save", str(tmp_path / "a.rrd")]
    result = subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, timeout=2 * LIMIT_S
    )
    assert result.returncode == 2
    assert "no node /robot_7/perception" in result.stderr and "--rig" in result.stderr
