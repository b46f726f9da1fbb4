"""Corrected extrinsics are close to the true ones."""

from __future__ import annotations

import numpy as np
import pytest

from multimodal_perception.calibration_monitor.correction import corrected_poses, corrected_rig
from multimodal_perception.calibration_monitor.monitor import CalibrationMonitor
from multimodal_perception.configuration import parse_yaml
from multimodal_perception.geometry import poses
from multimodal_perception.resources import share_path
from multimodal_perception.rig import dump_rig, load_rig, parse_rig
from test.calibration_monitor.painted_street import POSE, street, wrong


def angle_to(pose: np.ndarray, truth: np.ndarray = POSE) -> float:
    """Degrees between two poses."""
    residual = poses.inverse(truth) @ pose
    return float(np.degrees(np.arccos(np.clip((np.trace(residual[:3, :3]) - 1) / 2, -1, 1))))


@pytest.mark.parametrize("moved", ["camera", "thermal"])
def test_only_the_sensor_that_drifted_is_corrected(moved: str) -> None:
    monitor = CalibrationMonitor()
    frame = wrong(street(), moved, (0.9, -0.8, 0.3))
    monitor.observe(frame)
    monitor.observe(frame)
    corrected = corrected_poses(monitor.drifts, frame.base_from_sensor)
    assert moved in corrected and "lidar" not in corrected
    for pose in corrected.values():
        assert angle_to(pose) < 0.3


def test_no_correction_without_drift() -> None:
    monitor = CalibrationMonitor()
    monitor.observe(street())
    monitor.observe(street())
    assert len(monitor.drifts) == 2
    assert corrected_poses(monitor.drifts, street().base_from_sensor) == {}


def test_corrected_rig_is_written_and_read_unchanged_otherwise() -> None:
    rig = load_rig(share_path("config", "rigs", "car.yaml"))
    name = next(n for n, s in rig.sensors.items() if s.intrinsics is not None)
    pose = poses.from_xyz_rpy((0.3, 0.1, 1.4), (0.02, 0.01, 0.03)) @ POSE
    again = parse_rig(parse_yaml(dump_rig(corrected_rig(rig, {name: pose})), "text"), "text")
    np.testing.assert_allclose(again.sensors[name].base_from_sensor(), pose, atol=2e-6)
    for other in rig.sensors.keys() - {name}:
        assert again.sensors[other] == rig.sensors[other]
