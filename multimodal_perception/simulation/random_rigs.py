"""Random rigs, so that networks do not depend on one arrangement of sensors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from multimodal_perception.rig import Rig, parse_rig

# Numbers of sensors and their relative frequencies: rigs with LiDAR and a few cameras are the most
# frequent in practice, rigs without either must occur as well.
CAMERA_COUNTS = {0: 0.08, 1: 0.2, 2: 0.17, 3: 0.12, 4: 0.13, 5: 0.07, 6: 0.13, 7: 0.05, 8: 0.05}
THERMAL_COUNTS = {0: 0.5, 1: 0.3, 2: 0.1, 3: 0.05, 4: 0.05}
LIDAR_TYPES = {"spinning": 0.74, "front": 0.12, "both": 0.08, "none": 0.06}
RING_COUNTS = {16: 0.22, 32: 0.28, 40: 0.08, 64: 0.30, 128: 0.12}
# Image sizes (width, height) in pixels close to those at which the networks work: rendering larger
# images takes longer and has no benefit for the networks.
CAMERA_SIZES = ((512, 288), (480, 270), (512, 320), (448, 336), (400, 300), (480, 384))
THERMAL_SIZES = ((320, 256), (320, 240), (256, 192))
# Vehicles: length, width and height of the roof in metres, and their relative frequencies.
VEHICLES = {
    "car": ((4.6, 1.85, 1.5), 0.62),
    "van": ((5.6, 2.05, 2.2), 0.16),
    "robot": ((1.0, 0.7, 0.5), 0.14),
    "shuttle": ((4.2, 2.0, 2.2), 0.08),
}
RATES_HZ = (10.0, 10.0, 10.0, 20.0, 30.0, 15.0, 5.0)
# With `mixed_rates`; other sensors have different rates in all random rigs.
LIDAR_RATES_HZ = (10.0, 20.0, 5.0)
ULTRASONIC_RATES_HZ = (10.0, 20.0, 40.0)
ULTRASONIC_COUNTS = {0: 0.45, 4: 0.1, 8: 0.15, 12: 0.3}


def random_rig(seed: int, mixed_rates: bool = False) -> Rig:
    """A random rig; equal seeds give equal rigs. It has at least one LiDAR, camera or thermal camera.

    0 to 8 cameras (pinhole or fisheye) and 0 to 4 thermal cameras of random pose, field of view and
    size; spinning LiDARs of 16 to 128 rings, 0.4 to 2.2 m above the ground, front LiDARs with a
    limited field of view, or both; ultrasonic sensors; cameras of different rates. LiDARs have 10 Hz,
    which is the frame rate of the simulator. mixed_rates: the same rig with random rates of the LiDARs
    (the first one still defines the frames) and of the ultrasonic sensors. Rates have an effect with
    `sensor_rates` of the simulation only.
    """
    rng = np.random.default_rng((31, seed))
    vehicle = _choose(rng, {name: weight for name, (_, weight) in VEHICLES.items()})
    length, width, roof = np.array(VEHICLES[vehicle][0]) * rng.uniform(0.92, 1.1, 3)
    body = (float(length), float(width), float(min(roof, 2.15)))
    lidars = str(_choose(rng, LIDAR_TYPES))
    cameras, thermals = (int(_choose(rng, n)) for n in (CAMERA_COUNTS, THERMAL_COUNTS))
    if lidars == "none":
        cameras = max(cameras, 1)
    sensors: dict[str, Any] = {}
    if lidars in ("spinning", "both"):
        sensors["lidar"] = _spinning_lidar(rng, body)
    if lidars in ("front", "both"):
        sensors["lidar_front"] = _front_lidar(rng, body)
    for k, yaw in enumerate(_directions(rng, cameras)):
        sensors[f"camera_{k}"] = _camera(rng, f"camera_{k}", body, yaw)
    for k, yaw in enumerate(_directions(rng, thermals)):
        sensors[f"thermal_{k}"] = _thermal(rng, f"thermal_{k}", body, yaw)
    sensors |= _ultrasonics(rng, body)
    if mixed_rates:
        _draw_rates(np.random.default_rng((37, seed)), sensors)
    content = {
        "name": f"random_{seed}",
        "odometry_topic": "/odom",
        "footprint": [round(body[0], 3), round(body[1], 3)],
        "sensors": sensors,
    }
    return parse_rig(content, f"rig random:{seed}")


def _draw_rates(rng: np.random.Generator, sensors: dict[str, Any]) -> None:
    """Random rates of the LiDARs, and one of all ultrasonic sensors."""
    ultrasonic = float(rng.choice(ULTRASONIC_RATES_HZ))
    for sensor in sensors.values():
        if sensor["modality"] == "lidar":
            sensor["rate_hz"] = float(rng.choice(LIDAR_RATES_HZ))
        elif sensor["modality"] == "ultrasonic":
            sensor["rate_hz"] = ultrasonic


def _choose(rng: np.random.Generator, weights: dict[Any, float]) -> Any:
    """One of the keys, drawn according to the relative frequencies."""
    values = np.array(list(weights.values()))
    return list(weights)[int(rng.choice(len(values), p=values / values.sum()))]


def _directions(rng: np.random.Generator, count: int) -> list[float]:
    """Yaw angles of `count` cameras in radians: the first is forward, the others around the vehicle."""
    if count == 0:
        return []
    start = rng.normal(0.0, 0.08) if rng.random() < 0.85 else rng.uniform(-math.pi, math.pi)
    spread = 2 * math.pi if count > 2 or rng.random() < 0.6 else rng.uniform(0.3, 1.8)
    step = spread / count
    return [float(start + k * step + rng.normal(0.0, 0.06)) for k in range(count)]


def _mounting(
    rng: np.random.Generator, body: tuple[float, float, float], yaw: float, low: float, high: float
) -> tuple[list[float], list[float]]:
    """Position on the outline of the vehicle and orientation of a sensor with the optical axis at `yaw`.

    low, high: range of the height in metres.
    """
    length, width, _ = body
    c, s = math.cos(yaw), math.sin(yaw)
    reach = rng.uniform(0.35, 0.98) * 0.5
    xyz = [reach * length * c, reach * width * s + rng.normal(0.0, 0.05), rng.uniform(low, high)]
    rpy = [rng.normal(0.0, 0.012), rng.normal(0.02, 0.03), yaw]
    return [round(float(v), 4) for v in xyz], [round(float(_wrap(v)), 5) for v in rpy]


def _wrap(angle: float) -> float:
    return (angle + math.pi) % (2 * math.pi) - math.pi


def _spinning_lidar(rng: np.random.Generator, body: tuple[float, float, float]) -> dict[str, Any]:
    """A spinning LiDAR on the roof, or on the front or the deck of a robot."""
    rings = int(_choose(rng, RING_COUNTS))
    roof = body[2]
    height = float(np.clip(roof + rng.uniform(0.05, 0.45), 0.4, 2.2))
    if roof < 1.0:
        height = float(rng.uniform(0.4, 1.1))
    simulation: dict[str, Any] = {"columns": int(rng.integers(900, 2001))}
    model = {16: "vlp16", 32: "hdl32", 64: str(rng.choice(["hdl64", "pandar64"]))}.get(rings, "")
    if model and rng.random() < 0.55:
        simulation["model"] = model
    else:
        top = float(rng.uniform(2.0, 16.0))
        bottom = float(-rng.uniform(15.0, 26.0)) if height > 1.0 else float(-rng.uniform(7.0, 16.0))
        simulation |= {
            "model": "uniform",
            "rings": rings,
            "top_elevation": round(top, 3),
            "bottom_elevation": round(bottom, 3),
        }
    simulation |= _lidar_quality(rng)
    tilt = rng.normal(0.0, 0.008, 2)
    return {
        "modality": "lidar",
        "topic": "/lidar/points",
        "frame_id": "lidar",
        "rate_hz": 10.0,
        "extrinsics": {
            "xyz": [round(float(rng.normal(0.0, 0.35) * min(body[0] / 4, 1)), 4), 0.0, height],
            "rpy": [float(tilt[0]), float(tilt[1]), float(rng.uniform(-math.pi, math.pi))],
        },
        "simulation": simulation,
    }


def _front_lidar(rng: np.random.Generator, body: tuple[float, float, float]) -> dict[str, Any]:
    """A solid-state LiDAR in the front, with a limited field of view and an irregular pattern."""
    half_height = float(rng.uniform(7.0, 13.0))
    low = 0.4 if body[2] < 1.0 else 0.5
    high = max(low + 0.1, min(body[2] + 0.2, 2.2))
    return {
        "modality": "lidar",
        "topic": "/lidar_front/points",
        "frame_id": "lidar_front",
        "rate_hz": 10.0,
        "extrinsics": {
            "xyz": [round(0.45 * body[0], 4), 0.0, round(float(rng.uniform(low, high)), 4)],
            "rpy": [0.0, round(float(rng.normal(0.01, 0.015)), 5), 0.0],
        },
        "simulation": {
            "model": "solid_state",
            "rings": int(rng.choice([48, 64, 96, 128])),
            "columns": int(rng.integers(500, 1001)),
            "horizontal_fov": round(float(rng.uniform(55.0, 125.0)), 2),
            "top_elevation": round(half_height, 2),
            "bottom_elevation": round(-half_height * float(rng.uniform(1.0, 1.3)), 2),
            **_lidar_quality(rng),
        },
    }


def _lidar_quality(rng: np.random.Generator) -> dict[str, float]:
    """Random noise, range and intensity scale of a LiDAR."""
    return {
        "range_noise": round(float(rng.uniform(0.008, 0.03)), 4),
        "ring_noise": round(float(rng.uniform(0.0, 0.02)), 4),
        "detection_range": round(float(rng.uniform(35.0, 110.0)), 1),
        "intensity_gain": round(float(rng.uniform(0.7, 2.2)), 2),
        "intensity_exponent": round(float(rng.uniform(0.7, 2.2)), 2),
        "min_range": round(float(rng.uniform(0.3, 1.2)), 2),
    }


def _image_sensor(modality: str, name: str, xyz: list[float], rpy: list[float]) -> dict[str, Any]:
    return {
        "modality": modality,
        "topic": f"/{name}/image_raw",
        "camera_info_topic": f"/{name}/camera_info",
        "frame_id": f"{name}_optical",
        "extrinsics": {"xyz": xyz, "rpy": rpy},
    }


def _camera(
    rng: np.random.Generator, name: str, body: tuple[float, float, float], yaw: float
) -> dict[str, Any]:
    """A camera: pinhole of 35 to 110 degrees, or fisheye of 120 to 190 degrees."""
    low, high = (0.35, 1.0) if body[2] < 1.0 else (0.6, min(body[2] + 0.25, 2.2))
    xyz, rpy = _mounting(rng, body, yaw, low, high)
    width, height = CAMERA_SIZES[int(rng.integers(len(CAMERA_SIZES)))]
    sensor = _image_sensor("camera", name, xyz, rpy)
    sensor["rate_hz"] = float(rng.choice(RATES_HZ))
    centre = {
        "cx": round((width - 1) / 2 + float(rng.normal(0, 0.015 * width)), 2),
        "cy": round((height - 1) / 2 + float(rng.normal(0, 0.03 * height)), 2),
    }
    if rng.random() < 0.25:
        fov = math.radians(float(rng.uniform(120.0, 190.0)))
        focal = round(width / fov, 2)
        sensor["intrinsics"] = {
            "width": width, "height": height, "fx": focal, "fy": focal, **centre,
            "model": "equidistant",
            "coefficients": [round(float(v), 4) for v in rng.normal(0.0, (0.02, 0.005, 1e-9, 1e-9))],
        }  # fmt: skip
        sensor["extrinsics"]["rpy"][1] = round(rpy[1] + float(rng.uniform(0.0, 0.4)), 5)
        return sensor
    fov = math.radians(float(rng.uniform(35.0, 110.0)))
    focal = round(width / 2 / math.tan(fov / 2), 2)
    sensor["intrinsics"] = {"width": width, "height": height, "fx": focal, "fy": focal, **centre}
    return sensor


def _thermal(
    rng: np.random.Generator, name: str, body: tuple[float, float, float], yaw: float
) -> dict[str, Any]:
    """A radiometric or 8-bit thermal camera of 24 to 90 degrees."""
    low, high = (0.35, 1.0) if body[2] < 1.0 else (0.7, min(body[2] + 0.25, 2.2))
    xyz, rpy = _mounting(rng, body, yaw, low, high)
    width, height = THERMAL_SIZES[int(rng.integers(len(THERMAL_SIZES)))]
    focal = round(width / 2 / math.tan(math.radians(float(rng.uniform(24.0, 90.0))) / 2), 2)
    sensor = _image_sensor("thermal", name, xyz, rpy)
    sensor["rate_hz"] = float(rng.choice([10.0, 10.0, 30.0, 9.0]))
    sensor["intrinsics"] = {
        "width": width, "height": height, "fx": focal, "fy": focal,
        "cx": (width - 1) / 2, "cy": (height - 1) / 2,
    }  # fmt: skip
    sensor["simulation"] = {"netd": round(float(rng.uniform(0.03, 0.12)), 3)}
    if rng.random() < 0.5:
        sensor["counts_to_kelvin"] = [0.01, 0.0]
    else:
        sensor["simulation"]["output"] = "agc8"
    return sensor


def _ultrasonics(rng: np.random.Generator, body: tuple[float, float, float]) -> dict[str, Any]:
    """Ultrasonic sensors around the vehicle, half of them in each bumper."""
    count = int(_choose(rng, ULTRASONIC_COUNTS))
    length, width, roof = body
    height = round(float(rng.uniform(0.2, min(0.6, max(0.25, roof)))), 3)
    sensors: dict[str, Any] = {}
    for k in range(count):
        fraction = (k % (count // 2) + 0.5) / (count // 2) - 0.5
        direction = 1.0 if k < count // 2 else -1.0
        yaw = 1.9 * fraction if direction > 0 else math.pi - 1.9 * fraction
        name = f"ultrasonic_{k}"
        sensors[name] = {
            "modality": "ultrasonic",
            "topic": f"/{name}",
            "frame_id": name,
            "required": False,
            "extrinsics": {
                "xyz": [
                    round(direction * (0.5 - 0.25 * abs(fraction)) * length, 4),
                    round(0.95 * fraction * width, 4),
                    height,
                ],
                "rpy": [0.0, 0.0, round(_wrap(yaw), 5)],
            },
            "limits": {"min_range": 0.15, "max_range": 5.0, "field_of_view": 1.05},
            "simulation": {"rays": 1024},
        }
    return sensors
