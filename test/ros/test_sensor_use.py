"""Sensors of the rig that no stage uses are in /diagnostics, over DDS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from multimodal_perception.frame import Modality
from multimodal_perception.perception import Level
from multimodal_perception.rig import Sensor
from test.messages.clouds import lidar, rig
from test.ros.conftest import LIMIT_S, START_S, wait_for
from test.ros.test_no_silent_loss import Client, connect

__all__ = ["connect"]  # a fixture
pytestmark = pytest.mark.live


def test_unused_sensors_are_a_persistent_entry(connect: Callable[..., Client]) -> None:
    vehicle = rig(lidar())
    camera = Sensor(
        "front", Modality.CAMERA, "/front/image_raw", "f", camera_info_topic="/front/info"
    )
    client = connect(replace(vehicle, sensors={**vehicle.sensors, "front": camera}))
    for _ in range(2):  # it is repeated
        client.statuses.clear()
        wait_for(lambda: "sensor use" in client.statuses, START_S, "sensor use")
        assert client.is_level("sensor use", Level.WARN, "unused_sensors: front")
    assert "camera 'front' of the rig is used by no stage" in client.values("sensor use")
    wait_for(lambda: "pipeline" in client.statuses, LIMIT_S, "pipeline")
    assert "unused_sensors: front" in client.values("pipeline")
