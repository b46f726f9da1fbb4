"""`bench latency`: published sensors, parameters of the node, and the steps of a frame."""

from __future__ import annotations

import pytest

from multimodal_perception.benchmarks.latency import (
    SyntheticRigDataset,
    network_settings,
    select_sensors,
    steps,
)
from multimodal_perception.configuration import UserError
from multimodal_perception.rig import load_rig, resolve_rig_path


def test_only_the_sensors_of_the_requested_modalities_are_published() -> None:
    rig = load_rig(resolve_rig_path("simulation"))
    assert select_sensors(rig, None).sensors == rig.sensors
    cameras = select_sensors(rig, ["camera", "thermal"])
    assert set(cameras.sensors) == {"camera_front", "camera_rear", "thermal_front"}
    assert set(SyntheticRigDataset(cameras)[1].present) == set(cameras.sensors)
    kitti = load_rig(resolve_rig_path("kitti"))
    with pytest.raises(UserError, match="--modalities: the rig kitti has no sensors of thermal"):
        select_sensors(kitti, ["thermal"])


def test_networks_are_enabled_only_for_the_sensors_that_they_use() -> None:
    kitti, simulation = (load_rig(resolve_rig_path(n)) for n in ("kitti", "simulation"))
    assert "pipeline.image_fusion.model" not in network_settings(kitti)
    assert len(network_settings(simulation)) == 4
    assert network_settings(select_sensors(kitti, ["lidar"])) == {}


def test_transport_is_the_latency_outside_of_the_node() -> None:
    report = {
        "latency_ms": {"p50": 60.0, "p95": 90.0},
        "stage_ms": {
            "node": {"p50": 50.0, "p95": 75.0},
            "occupancy": {"p50": 8.0, "p95": 9.0},
            "decode": {"p50": 1.0, "p95": 2.0},
        },
    }
    found = steps(report)
    assert found["transport"] == {"p50": 10.0, "p95": 15.0}
    assert list(found) == ["transport", "decode", "occupancy"]
