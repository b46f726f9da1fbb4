"""Small rigs and scenarios for the tests of the simulator."""

from __future__ import annotations

from typing import Any

from multimodal_perception.rig import Rig, parse_rig
from multimodal_perception.simulation.simulation import Simulation
from multimodal_perception.simulation.world.scenarios import Scenario, load_scenario
from multimodal_perception.simulation.world.scene import Scene


def small_rig(noise: bool = True, **changes: dict[str, Any]) -> Rig:
    """Sensors of all modalities with low resolution.

    changes: by sensor name, entries of its `simulation` section.
    """
    noise_entry: dict[str, Any] = {} if noise else {"noise": False}
    sensors: dict[str, Any] = {
        "lidar": {
            "modality": "lidar",
            "topic": "/lidar/points",
            "frame_id": "lidar",
            "extrinsics": {"xyz": [0.0, 0.0, 1.8], "rpy": [0.01, 0.02, 0.3]},
            "simulation": {"model": "vlp16", "columns": 600, **noise_entry},
        },
        "camera": {
            "modality": "camera",
            "topic": "/camera/image_raw",
            "camera_info_topic": "/camera/camera_info",
            "frame_id": "camera_optical",
            "extrinsics": {"xyz": [0.4, 0.1, 1.5]},
            "intrinsics": {"width": 320, "height": 180, "fx": 210, "fy": 210, "cx": 159.5, "cy": 89.5},
            "simulation": dict(noise_entry),
        },
        "fisheye": {
            "modality": "camera",
            "topic": "/fisheye/image_raw",
            "camera_info_topic": "/fisheye/camera_info",
            "frame_id": "fisheye_optical",
            "extrinsics": {"xyz": [-2.2, 0.0, 1.0], "rpy": [0.0, 0.3, 3.14159]},
            "intrinsics": {
                "width": 160, "height": 120, "fx": 45, "fy": 45, "cx": 79.5, "cy": 59.5,
                "model": "equidistant", "coefficients": [0.02, -0.005, 0.0, 0.0],
            },
            "simulation": dict(noise_entry),
        },
        "thermal": {
            "modality": "thermal",
            "topic": "/thermal/image_raw",
            "camera_info_topic": "/thermal/camera_info",
            "frame_id": "thermal_optical",
            "extrinsics": {"xyz": [0.4, -0.1, 1.5]},
            "intrinsics": {"width": 80, "height": 64, "fx": 75, "fy": 75, "cx": 39.5, "cy": 31.5},
            "counts_to_kelvin": [0.01, 0.0],
            "simulation": dict(noise_entry),
        },
        "sonar": {
            "modality": "ultrasonic",
            "topic": "/sonar",
            "frame_id": "sonar",
            "extrinsics": {"xyz": [1.8, -0.9, 0.5], "rpy": [0.0, 0.0, -1.5708]},
            "limits": {"min_range": 0.15, "max_range": 5.0, "field_of_view": 1.05},
            "simulation": dict(noise_entry),
        },
    }  # fmt: skip
    for name, entry in changes.items():
        sensors[name]["simulation"] |= entry
    return parse_rig({"name": "small", "sensors": sensors}, "test rig")


def street() -> Scenario:
    """The installed scenario urban_street."""
    return load_scenario("urban_street")


def scene_at(simulation: Simulation, index: int) -> Scene:
    """The scene of one frame of a simulation."""
    return simulation._world.scene(index / simulation.rate_hz)
