"""Which sensors a vehicle has, what they publish, and where they sit: one YAML file a vehicle."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from multimodal_perception.configuration import (
    ConfigurationError,
    UserError,
    build,
    load_yaml,
)
from multimodal_perception.frame import Modality, OwnVehicle
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.cameras import CameraModel, Distortion
from multimodal_perception.resources import share_path

MESSAGE_TYPES: dict[Modality, tuple[str, ...]] = {
    Modality.LIDAR: ("sensor_msgs/msg/PointCloud2",),
    Modality.CAMERA: ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"),
    Modality.THERMAL: ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"),
    Modality.ULTRASONIC: ("sensor_msgs/msg/Range",),
}


@dataclass(frozen=True)
class Extrinsics:
    """Where a sensor sits: base_from_sensor, metres and radians (fixed axes x, y, z as in URDF).

    optical: whether rpy already describes the optical frame; if not, a camera's rpy is that of its
    body (x forward, y left, z up) and the optical rotation of REP 103 is appended.
    """

    xyz: tuple[float, float, float]
    rpy: tuple[float, float, float] = (0.0, 0.0, 0.0)
    optical: bool = False

    def matrix(self, modality: Modality) -> NDArray[np.float64]:
        """base_from_sensor (4, 4); of the optical frame for cameras and thermal."""
        pose = poses.from_xyz_rpy(self.xyz, self.rpy)
        if modality in (Modality.CAMERA, Modality.THERMAL) and not self.optical:
            pose = pose @ OPTICAL
        return pose

    @classmethod
    def of(
        cls, base_from_sensor: NDArray[np.float64], modality: Modality, optical: bool = False
    ) -> Extrinsics:
        """The entry whose matrix is base_from_sensor (4, 4)."""
        pose = base_from_sensor
        if modality in (Modality.CAMERA, Modality.THERMAL) and not optical:
            pose = pose @ poses.inverse(OPTICAL)
        x, y, z = (round(float(v), 6) for v in pose[:3, 3])
        roll, pitch, yaw = (round(float(v), 7) for v in poses.to_rpy(pose))
        return cls((x, y, z), (roll, pitch, yaw), optical)


# Body (x forward) from optical (z forward), REP 103.
OPTICAL = poses.from_xyz_rpy((0, 0, 0), (-math.pi / 2, 0, -math.pi / 2))


@dataclass(frozen=True)
class Intrinsics:
    """A camera's model as a rig file writes it. Pixels; coefficients as OpenCV orders them."""

    width: int = field(metadata={"min": 1, "max": 20000})
    height: int = field(metadata={"min": 1, "max": 20000})
    fx: float
    fy: float
    cx: float
    cy: float
    model: Distortion = "pinhole"
    coefficients: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        self.camera_model()

    def camera_model(self) -> CameraModel:
        """The model. Raises ValueError when the values cannot be."""
        matrix = np.array([[self.fx, 0, self.cx], [0, self.fy, self.cy], [0, 0, 1.0]])
        return CameraModel(
            self.width, self.height, matrix, self.model, np.array(self.coefficients, np.float64)
        )


@dataclass(frozen=True)
class RangeLimits:
    """What an ultrasonic sensor can say: metres; field_of_view is the full cone, radians."""

    min_range: float = field(metadata={"min": 0.0, "max": 100.0, "unit": "m"})
    max_range: float = field(metadata={"min": 0.0, "max": 100.0, "unit": "m"})
    field_of_view: float = field(metadata={"min": 1e-3, "max": math.pi, "unit": "rad"})

    def __post_init__(self) -> None:
        if not self.min_range < self.max_range:
            raise ValueError("min_range must be below max_range")


@dataclass(frozen=True)
class Sensor:
    """One sensor of a rig.

    name: its key in the file. message: type on `topic`. frame_id: of its messages (optical for
    images).
    rate_hz: how often it is expected. time_offset_s: how much later its stamps are than the truth.
    tolerance_s: how far from a frame's reference time its reading may be.
    required: whether a frame without it is worth a warning in diagnostics.
    reuse_s: age up to which its last reading serves again (0: each reading is used once).
    camera_info_topic: overrides the intrinsics when it speaks. simulation: for the simulator alone.
    """

    name: str
    modality: Modality
    topic: str
    frame_id: str
    extrinsics: Extrinsics | None = None
    message: str = ""
    rate_hz: float = field(default=10.0, metadata={"min": 0.01, "max": 1000.0, "unit": "Hz"})
    time_offset_s: float = field(default=0.0, metadata={"min": -10.0, "max": 10.0, "unit": "s"})
    tolerance_s: float = field(default=0.06, metadata={"min": 0.0, "max": 10.0, "unit": "s"})
    required: bool = True
    reuse_s: float = field(default=0.0, metadata={"min": 0.0, "max": 60.0, "unit": "s"})
    intrinsics: Intrinsics | None = None
    camera_info_topic: str | None = None
    limits: RangeLimits | None = None
    kelvin: tuple[float, float] | None = None
    simulation: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        allowed = MESSAGE_TYPES[self.modality]
        if not self.message:
            object.__setattr__(self, "message", allowed[0])
        if self.message not in allowed:
            raise ValueError(f"message {self.message!r}; allowed: {', '.join(allowed)}")
        if not self.topic.startswith("/") and not self.topic:
            raise ValueError("topic is empty")
        is_image = self.modality in (Modality.CAMERA, Modality.THERMAL)
        if is_image and self.intrinsics is None and self.camera_info_topic is None:
            raise ValueError("an image sensor needs intrinsics or a camera_info_topic")
        if not is_image and (self.intrinsics is not None or self.camera_info_topic is not None):
            raise ValueError(f"intrinsics and camera_info_topic do not fit a {self.modality.value}")
        if self.limits is not None and self.modality is not Modality.ULTRASONIC:
            raise ValueError(f"limits do not fit a {self.modality.value}")

    def base_from_sensor(self) -> NDArray[np.float64] | None:
        """Extrinsics (4, 4) from the file, or None where they come from /tf."""
        return None if self.extrinsics is None else self.extrinsics.matrix(self.modality)


@dataclass(frozen=True)
class Rig:
    """The sensors of one vehicle, by name.

    footprint: the vehicle's length and width in metres. footprint_middle: metres by which its middle
    lies ahead of the base frame.
    """

    name: str
    sensors: Mapping[str, Sensor]
    base_frame: str = "base_link"
    odom_frame: str = "odom"
    odometry_topic: str | None = None
    footprint: tuple[float, float] | None = None
    path: Path | None = None
    footprint_middle: float = 0.0

    @property
    def own_vehicle(self) -> OwnVehicle | None:
        """The footprint in the base frame, None where the rig tells none."""
        if self.footprint is None:
            return None
        length, width = self.footprint
        middle = self.footprint_middle
        return OwnVehicle(middle - length / 2, middle + length / 2, -width / 2, width / 2)

    def of(self, modality: Modality) -> dict[str, Sensor]:
        """The sensors of one kind, in the file's order."""
        return {n: s for n, s in self.sensors.items() if s.modality is modality}


@dataclass(frozen=True)
class _RigFile:
    name: str
    sensors: dict[str, Any]
    base_frame: str = "base_link"
    odom_frame: str = "odom"
    odometry_topic: str | None = None
    footprint: tuple[float, float] | None = None
    footprint_middle: float = 0.0

    def __post_init__(self) -> None:
        if self.footprint is not None and not all(0.0 < side <= 50.0 for side in self.footprint):
            raise ValueError(f"footprint: allowed: sides over 0, up to 50 m; got {self.footprint}")
        if not abs(self.footprint_middle) <= 50.0:
            raise ValueError(f"footprint_middle: allowed: -50 to 50 m; got {self.footprint_middle}")


def load_rig(path: str | Path) -> Rig:
    """Read a rig file. Raises ConfigurationError naming the file, the key and what is allowed."""
    return parse_rig(load_yaml(path), str(path), Path(path))


def parse_rig(values: Any, source: str, path: Path | None = None) -> Rig:
    """Build a rig from parsed YAML; `source` names it in errors. Raises ConfigurationError."""
    content = build(_RigFile, values, source)
    if not content.sensors:
        raise ConfigurationError(f"{source}: sensors: a rig needs at least one")
    sensors = {}
    topics: dict[str, str] = {}
    for name, entry in content.sensors.items():
        key = f"sensors.{name}"
        if not isinstance(name, str) or not name.isidentifier():
            raise ConfigurationError(f"{source}: {key}: a sensor's name is letters, digits and _")
        if isinstance(entry, Mapping):
            if "name" in entry:
                raise ConfigurationError(f"{source}: {key}.name: the key is the sensor's name")
            entry = {"name": name, **entry}
        sensor = build(Sensor, entry, source, key)
        if sensor.topic in topics:
            raise ConfigurationError(
                f"{source}: {key}.topic: {sensor.topic} is already {topics[sensor.topic]}'s"
            )
        topics[sensor.topic] = name
        sensors[name] = sensor
    return Rig(
        content.name,
        sensors,
        content.base_frame,
        content.odom_frame,
        content.odometry_topic,
        content.footprint,
        path,
        content.footprint_middle,
    )


def rig_path(rig: str) -> Path:
    """The rig file that a path or the name of a shipped rig means. Raises UserError."""
    if not rig:
        raise UserError(
            "parameter rig: missing; give the path of a rig file or a shipped rig's name"
        )
    path = Path(rig).expanduser()
    if path.is_file() or path.suffix or len(path.parts) > 1:
        return path
    try:
        return share_path("config", "rigs", f"{rig}.yaml")
    except FileNotFoundError:
        folder = share_path("config", "rigs")
        shipped = ", ".join(sorted(p.stem for p in folder.glob("*.yaml")))
        raise UserError(f"parameter rig: no rig {rig!r}; shipped: {shipped}") from None


def dump_rig(rig: Rig) -> str:
    """A rig as YAML text that parse_rig reads back to the same rig."""
    content = {k: v for k, v in _plain(rig).items() if k != "path"}
    for sensor in content["sensors"].values():
        del sensor["name"]
    return yaml.safe_dump(content, sort_keys=False)


def _plain(value: Any) -> Any:
    """Dataclasses, tuples and enumerations as what YAML knows; fields that are None left out."""
    if dataclasses.is_dataclass(value):
        items = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return {k: _plain(v) for k, v in items.items() if v is not None}
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    return value.value if isinstance(value, Modality) else value
