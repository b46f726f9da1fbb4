"""Rig files: one YAML file per vehicle with its sensors, their topics, intrinsics and extrinsics."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from numpy.typing import NDArray

from multimodal_perception.configuration import (
    ConfigurationError,
    UserError,
    build,
    load_yaml,
)
from multimodal_perception.files import check_name, user_path
from multimodal_perception.frame import Modality, VehicleFootprint
from multimodal_perception.image_topics import rectified_by_topic
from multimodal_perception.resources import share_path
from multimodal_perception.rig_topics import check_topic_name, resolve_topic, topic_conflict
from multimodal_perception.sensor_calibration import Extrinsics, Intrinsics, RangeLimits
from multimodal_perception.yaml_reader import YamlDumper

# Unit of thermal images with floating-point pixels; auto: determined from the values.
TemperatureUnit = Literal["auto", "kelvin", "celsius", "fahrenheit"]

MESSAGE_TYPES: dict[Modality, tuple[str, ...]] = {
    Modality.LIDAR: ("sensor_msgs/msg/PointCloud2",),
    Modality.CAMERA: ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"),
    Modality.THERMAL: ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"),
    Modality.ULTRASONIC: ("sensor_msgs/msg/Range",),
}


@dataclass(frozen=True)
class Sensor:
    """One sensor of a rig.

    Attributes:
        name: Name of the sensor; it is the key of the entry in the rig file. Use letters, digits
            and _.
        modality: Type of the sensor: lidar, camera, thermal or ultrasonic. Change it to match the
            sensor.
        topic: ROS topic of the sensor's messages. A relative name, without a leading slash, is in the
            namespace of the node. Change it to the topic that the driver publishes.
        frame_id: Coordinate frame of the messages; for images, the optical frame. It is used if a
            message has no frame_id. Change it to the name that the driver or the URDF uses.
        extrinsics: Mounting pose of the sensor. Keep it empty to take the pose from /tf and
            /tf_static.
        message: ROS type of the messages on `topic`; empty selects the usual type of the modality.
            Set it to sensor_msgs/msg/CompressedImage for compressed images.
        rate_hz: Nominal rate of the sensor, from which diagnostics and time-outs are derived. Set
            it to the rate of the driver.
        time_offset_s: Constant error of the stamps, which is subtracted from them. Increase it if
            the stamps are too late, for example stamps of the arrival instead of the exposure.
        tolerance_s: Largest difference between a reading's stamp and the reference time of a frame.
            Increase it for slow or jittery sensors; larger values combine readings of more different
            times.
        required: Whether diagnostics report an error if the sensor has never published. Set it to
            false for sensors that may be absent; they cause a warning only.
        reuse_s: Age up to which the last reading is used again in later frames; 0 uses each reading
            once. Increase it for sensors slower than the frame rate.
        intrinsics: Camera model of a camera or thermal camera. Keep it empty if camera_info_topic
            is set.
        camera_info_topic: Topic of sensor_msgs/CameraInfo; its messages replace the intrinsics of
            the file. Set it if the driver publishes calibrated camera information.
        limits: Measuring limits of an ultrasonic sensor. Set them for the simulator.
        rectified: Whether the images are rectified, so that P and R of the CameraInfo are used
            instead of K and D; auto: determined from the topic, such as image_rect or rect/image. Set it
            to true or false if the topics do not show it.
        apply_baseline: Whether the fourth column of P displaces the optical centre of a rectified
            stereo camera, as sensor_msgs defines for images in the frame of the first camera. Set
            it to false for drivers whose second camera has a frame_id of its own.
        counts_to_kelvin: Scale and offset of a radiometric thermal camera, kelvin = scale * count +
            offset. Keep it empty for cameras that publish 8-bit images.
        temperature_unit: Unit of thermal images with floating-point pixels; auto selects between
            kelvin and celsius by the values and reports the choice. Set it to the unit that the
            driver publishes, in particular for fahrenheit.
        invalid_counts: Pixel values of 16-bit thermal images that mean no measurement; empty
            recognises 0 and 65535 if no other pixel is near them. Set it to the values of the
            driver's documentation.
        min_range: Distance from a LiDAR below which points are no measurement and are removed. Decrease
            it for sensors that measure closer objects; 0 keeps the (0, 0, 0) of missing returns.
        max_range: Distance from a LiDAR beyond which points are no measurement and are removed.
            Decrease it if the driver gives missing returns a large distance.
        metres_per_unit: Factor that converts the distances of a LiDAR or an ultrasonic sensor to
            metres. Set it to 0.001 if the driver publishes millimetres.
        point_time_origin: Which point of a sweep has the stamp: start, end, or auto for the times as
            they are published. Set it if the times of the points have another epoch than the stamp.
        no_echo_ranges: Values that an ultrasonic sensor publishes if there is no echo; REP 117 uses
            +inf. Set them if the driver publishes a number instead, for example 0 or -1.
        simulation: Parameters of the simulated sensor, such as the beam layout of a LiDAR. Change
            them to simulate another sensor model; other commands ignore them.
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
    rectified: Literal[True, False, "auto"] = "auto"
    apply_baseline: bool = True
    counts_to_kelvin: tuple[float, float] | None = None
    temperature_unit: TemperatureUnit = "auto"
    invalid_counts: tuple[int, ...] | None = None
    min_range: float = field(default=0.1, metadata={"min": 0.0, "max": 100.0, "unit": "m"})
    max_range: float = field(default=1000.0, metadata={"min": 1.0, "max": 1e5, "unit": "m"})
    metres_per_unit: float = field(default=1.0, metadata={"min": 1e-6, "max": 1e3})
    point_time_origin: Literal["auto", "start", "end"] = "auto"
    no_echo_ranges: tuple[float, ...] = ()
    simulation: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        allowed = MESSAGE_TYPES[self.modality]
        if not self.message:
            object.__setattr__(self, "message", allowed[0])
        if self.message not in allowed:
            raise ValueError(f"message {self.message!r}; allowed: {', '.join(allowed)}")
        for key in ("topic", "camera_info_topic"):
            check_topic_name(getattr(self, key), key)
        is_image = self.modality in (Modality.CAMERA, Modality.THERMAL)
        if is_image and self.intrinsics is None and self.camera_info_topic is None:
            raise ValueError("an image sensor needs intrinsics or a camera_info_topic")
        if not is_image and (self.intrinsics is not None or self.camera_info_topic is not None):
            raise ValueError(
                f"intrinsics and camera_info_topic are not allowed for a {self.modality.value}"
            )
        if not is_image and (self.rectified != "auto" or not self.apply_baseline):
            raise ValueError(
                f"rectified and apply_baseline are not allowed for a {self.modality.value}"
            )
        if self.modality is not Modality.THERMAL and (
            self.temperature_unit != "auto" or self.invalid_counts is not None
        ):
            raise ValueError(
                f"temperature_unit and invalid_counts are not allowed for a {self.modality.value}"
            )
        if not all(0 <= count <= 65535 for count in self.invalid_counts or ()):
            raise ValueError(f"invalid_counts: allowed: 0 to 65535; got {self.invalid_counts}")
        self._check_distance_keys()
        if self.limits is not None and self.modality is not Modality.ULTRASONIC:
            raise ValueError(f"limits are not allowed for a {self.modality.value}")

    @property
    def images_are_rectified(self) -> bool | None:
        """Whether P and R of the CameraInfo apply; None if neither the file nor a topic states it."""
        if self.rectified != "auto":
            return bool(self.rectified)
        return rectified_by_topic(self.topic, self.camera_info_topic or "")

    def _check_distance_keys(self) -> None:
        """Raise ValueError if a key is set that the modality does not have."""
        lidar, ultrasonic = (Modality.LIDAR,), (Modality.ULTRASONIC,)
        allowed = {
            "min_range": lidar,
            "max_range": lidar,
            "point_time_origin": lidar,
            "metres_per_unit": lidar + ultrasonic,
            "no_echo_ranges": ultrasonic,
        }
        for key in dataclasses.fields(self):
            modalities = allowed.get(key.name, tuple(Modality))
            if self.modality not in modalities and getattr(self, key.name) != key.default:
                raise ValueError(f"{key.name} is not allowed for a {self.modality.value}")
        if not self.min_range < self.max_range:
            raise ValueError("min_range must be below max_range")

    def base_from_sensor(self) -> NDArray[np.float64] | None:
        """Return the extrinsics (4, 4) of the rig file, or None if they come from /tf."""
        return None if self.extrinsics is None else self.extrinsics.matrix(self.modality)


@dataclass(frozen=True)
class Rig:
    """The sensors of one vehicle by name, and its coordinate frames; see RigFile for the fields.

    path: the rig file, or None if the rig was not read from a file.
    """

    name: str
    sensors: Mapping[str, Sensor]
    base_frame: str = "base_link"
    odom_frame: str = "odom"
    odometry_topic: str | None = None
    footprint: tuple[float, float] | None = None
    path: Path | None = None
    footprint_offset_x: float = 0.0
    ground_z: float = 0.0

    @property
    def vehicle_footprint(self) -> VehicleFootprint | None:
        """Footprint of the vehicle in the base frame, or None if the rig file has no footprint."""
        if self.footprint is None:
            return None
        length, width = self.footprint
        centre_x = self.footprint_offset_x
        return VehicleFootprint(centre_x - length / 2, centre_x + length / 2, -width / 2, width / 2)

    def sensors_of(self, modality: Modality) -> dict[str, Sensor]:
        """Return the sensors of one modality in the order of the file."""
        return {n: s for n, s in self.sensors.items() if s.modality is modality}


@dataclass(frozen=True)
class RigFile:
    """Content of a rig file.

    Attributes:
        name: Name of the vehicle, shown in reports. Change it for each vehicle.
        sensors: Sensors by name, see Sensor. Change the entries to match the vehicle.
        base_frame: Coordinate frame of the vehicle (REP 105), in which boxes are published. Change
            it if the URDF uses another name, such as base_footprint.
        odom_frame: Odometry frame (REP 105), the parent of base_frame in /tf. Change it if the
            odometry uses another name, such as map.
        odometry_topic: Topic of nav_msgs/Odometry. Set it if odom_frame to base_frame is not
            published on /tf.
        footprint: Length and width of the vehicle. LiDAR points and boxes inside the footprint are
            the vehicle itself and are removed. Set it if sensors can measure parts of the vehicle.
        footprint_offset_x: x coordinate of the centre of the footprint in base_frame. Increase it
            if base_frame is behind the centre, for example at the rear axle.
        ground_z: Height of the ground plane in base_frame. Change it if base_frame is not on the
            ground, for example to minus the wheel radius if base_frame is at the axle.
    """

    name: str
    sensors: dict[str, Any]
    base_frame: str = "base_link"
    odom_frame: str = "odom"
    odometry_topic: str | None = None
    footprint: tuple[float, float] | None = field(default=None, metadata={"unit": "m"})
    footprint_offset_x: float = field(default=0.0, metadata={"unit": "m"})
    ground_z: float = field(default=0.0, metadata={"min": -10.0, "max": 10.0, "unit": "m"})

    def __post_init__(self) -> None:
        if self.footprint is not None and not all(0.0 < side <= 50.0 for side in self.footprint):
            raise ValueError(
                f"footprint: allowed: lengths over 0, up to 50 m; got {self.footprint}"
            )
        if not abs(self.footprint_offset_x) <= 50.0:
            raise ValueError(
                f"footprint_offset_x: allowed: -50 to 50 m; got {self.footprint_offset_x}"
            )


def load_rig(path: str | Path, namespace: str = "/") -> Rig:
    """Read a rig file. Raises ConfigurationError with the file, the key and the allowed values."""
    return parse_rig(load_yaml(path), str(path), Path(path), namespace)


def parse_rig(values: Any, source: str, path: Path | None = None, namespace: str = "/") -> Rig:
    """Build a rig from parsed YAML. `source` is the name in errors. Raises ConfigurationError.

    namespace: to which relative topics are appended; the topics of the result are absolute.
    """
    content = build(RigFile, values, source)
    check_name(content.name, source, "name")
    if not content.sensors:
        raise ConfigurationError(f"{source}: sensors: a rig needs at least one sensor")
    sensors = {}
    topics: dict[str, str] = {}
    for name, entry in content.sensors.items():
        key = f"sensors.{name}"
        if not isinstance(name, str) or not name.isidentifier():
            raise ConfigurationError(
                f"{source}: {key}: a sensor name consists of letters, digits and _ and does not "
                "start with a digit"
            )
        if isinstance(entry, Mapping):
            if "name" in entry:
                raise ConfigurationError(
                    f"{source}: {key}.name: not allowed; the key is the name of the sensor"
                )
            entry = {"name": name, **entry}
        sensor = _with_absolute_topics(build(Sensor, entry, source, key), namespace)
        if sensor.topic in topics:
            raise ConfigurationError(
                f"{source}: {key}.topic: {sensor.topic} is already used by {topics[sensor.topic]}"
            )
        topics[sensor.topic] = name
        sensors[name] = sensor
    odometry_topic = resolve_topic(content.odometry_topic, namespace)
    conflict = topic_conflict(sensors, odometry_topic)
    if conflict is not None:
        raise ConfigurationError(f"{source}: {conflict}")
    return Rig(
        content.name,
        sensors,
        content.base_frame,
        content.odom_frame,
        odometry_topic,
        content.footprint,
        path,
        content.footprint_offset_x,
        content.ground_z,
    )


def _with_absolute_topics(sensor: Sensor, namespace: str) -> Sensor:
    return dataclasses.replace(
        sensor,
        topic=resolve_topic(sensor.topic, namespace),
        camera_info_topic=resolve_topic(sensor.camera_info_topic, namespace),
    )


def resolve_rig_path(rig: str) -> Path:
    """Return the rig file for a path or for the name of a shipped rig. Raises UserError."""
    if not rig:
        raise UserError(
            "parameter rig: missing; set it to the path of a rig file or the name of a shipped rig"
        )
    path = user_path(rig)
    if path.is_file() or path.suffix or len(path.parts) > 1:
        return path
    try:
        return share_path("config", "rigs", f"{rig}.yaml")
    except FileNotFoundError:
        folder = share_path("config", "rigs")
        shipped = ", ".join(sorted(p.stem for p in folder.glob("*.yaml")))
        raise UserError(f"parameter rig: unknown rig {rig!r}; shipped rigs: {shipped}") from None


def dump_rig(rig: Rig) -> str:
    """Return a rig as YAML text from which parse_rig builds the same rig."""
    content = {k: v for k, v in _to_yaml(rig).items() if k != "path"}
    for sensor in content["sensors"].values():
        del sensor["name"]
    return yaml.dump(content, Dumper=YamlDumper, sort_keys=False)


def _to_yaml(value: Any) -> Any:
    """Convert dataclasses, tuples and enumerations to YAML types; None fields are left out."""
    if dataclasses.is_dataclass(value):
        items = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return {k: _to_yaml(v) for k, v in items.items() if v is not None}
    if isinstance(value, Mapping):
        return {k: _to_yaml(v) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [_to_yaml(v) for v in value]
    return value.value if isinstance(value, Modality) else value
