"""Core data types: sensor readings, 3D boxes, and the frame that bundles one moment's readings.

All types are frozen dataclasses over numpy arrays. Stamps are integer nanoseconds of the message
clock. Coordinate frames follow REP 103 and REP 105: x forward, y left, z up; optical frames have
z forward, x right, y down.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.box_evidence import BoxEvidence
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.cameras import CameraModel

# The object classes used throughout the package; any other label is mapped to UNKNOWN.
# New classes are appended, because messages and stored samples contain the indices.
CLASS_NAMES = (
    "unknown",
    "car",
    "van",
    "truck",
    "bus",
    "pedestrian",
    "cyclist",
    "cone",
    "barrier",
    "trailer",
    "motorcyclist",
)
UNKNOWN = 0


class Modality(str, Enum):
    """Sensor modalities."""

    LIDAR = "lidar"
    CAMERA = "camera"
    THERMAL = "thermal"
    ULTRASONIC = "ultrasonic"


@dataclass(frozen=True)
class LidarSweep:
    """One sweep (one PointCloud2 message) of a LiDAR, in the sensor's own frame.

    points: (N, 4) float32, x y z intensity. x y z are in metres and finite; intensity is in the
    driver's unit.
    time_offsets: (N,) float32, time of each point relative to the stamp in seconds, NaN for points
    without a time; or None.
    rings: (N,) uint16, beam number, or None.
    """

    sensor: str
    stamp_ns: int
    frame_id: str
    points: NDArray[np.float32]
    time_offsets: NDArray[np.float32] | None = None
    rings: NDArray[np.uint16] | None = None

    def __post_init__(self) -> None:
        require(self.points.ndim == 2 and self.points.shape[1] == 4, "points must be (N, 4)")
        require(self.points.dtype == np.float32, "points must be float32")
        for name in ("time_offsets", "rings"):
            values = getattr(self, name)
            require(values is None or values.shape == (len(self.points),), f"{name} must be (N,)")


@dataclass(frozen=True)
class CameraImage:
    """One image of a visible-light camera.

    pixels: (H, W, 3) uint8 in the channel order of `encoding`, or (H, W) uint8 for mono8. The array
    may be a read-only view of a message.
    """

    sensor: str
    stamp_ns: int
    frame_id: str
    pixels: NDArray[np.uint8]
    encoding: Literal["rgb8", "bgr8", "mono8"] = "rgb8"

    def __post_init__(self) -> None:
        shape = self.pixels.shape
        if self.encoding == "mono8":
            require(len(shape) == 2, "mono8 pixels must be (H, W)")
        else:
            require(len(shape) == 3 and shape[2] == 3, f"{self.encoding} pixels must be (H, W, 3)")
        require(self.pixels.dtype == np.uint8, "pixels must be uint8")

    def rgb(self) -> NDArray[np.uint8]:
        """Return the pixels as RGB (H, W, 3) uint8; a view, not a copy, for rgb8 and bgr8."""
        if self.encoding == "rgb8":
            return self.pixels
        if self.encoding == "bgr8":
            return self.pixels[..., ::-1]
        return np.repeat(self.pixels[..., None], 3, axis=2)


@dataclass(frozen=True)
class ThermalImage:
    """One image of a thermal camera.

    pixels: (H, W) uint8 (after the camera's automatic gain control) or uint16 (raw counts).
    counts_to_kelvin: (scale, offset) of a radiometric camera, kelvin = scale * count + offset; None
    for other cameras. valid: mask (H, W) of the pixels with a measurement; None if all have one.
    """

    sensor: str
    stamp_ns: int
    frame_id: str
    pixels: NDArray[np.uint8] | NDArray[np.uint16]
    counts_to_kelvin: tuple[float, float] | None = None
    valid: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        require(self.pixels.ndim == 2, "pixels must be (H, W)")
        require(self.pixels.dtype in (np.uint8, np.uint16), "pixels must be uint8 or uint16")
        require(self.valid is None or self.valid.shape == self.pixels.shape, "valid must be (H, W)")

    def filled_pixels(self) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """Return the pixels, the ones without a measurement replaced by the median of the others.

        The median has no contrast to the scene, so that such pixels are neither cold nor hot objects.
        """
        if self.valid is None or not self.valid.any():
            return self.pixels
        median = np.median(self.pixels[self.valid][:: max(self.pixels.size // 4096, 1)])
        return np.where(self.valid, self.pixels, self.pixels.dtype.type(median))


@dataclass(frozen=True)
class UltrasonicReading:
    """One range measurement of an ultrasonic sensor, as sensor_msgs/Range and REP 117 define it.

    range_m: metres; +inf if nothing is within max_range, -inf if an object is closer than min_range,
    NaN if the measurement is invalid. field_of_view: full cone angle, radians.
    """

    sensor: str
    stamp_ns: int
    frame_id: str
    range_m: float
    min_range: float
    max_range: float
    field_of_view: float


Reading = LidarSweep | CameraImage | ThermalImage | UltrasonicReading


# Optional fields of Boxes3D in their order, and the value for boxes where it is unknown.
OPTIONAL_BOX_FIELDS: Mapping[str, float] = {
    "velocities": math.nan,
    "track_ids": -1,
    "num_points": -1,
    "visibility": math.nan,
    "covariances": 0.0,
    "velocity_covariances": math.nan,
}


@dataclass(frozen=True)
class Boxes3D:
    """N oriented 3D bounding boxes in one coordinate frame.

    boxes: (N, 7) float32, x y z length width height yaw, metres and radians; x y z is the centre.
    scores: (N,) float32 in [0, 1]. labels: (N,) int64, index into class_names.
    velocities: (N, 2) float32, metres per second, or None. track_ids: (N,) int64 or None.
    num_points: (N,) int64, number of LiDAR points inside each box, or None. visibility: (N,) float32
    in [0, 1], visible fraction of the object, or None. covariances: (N, 6, 6) float32 of x y z and
    the rotations about x y z, ordered as in geometry_msgs/PoseWithCovariance, in m^2 and rad^2; None
    if unknown, zeros for boxes whose covariance is unknown. velocity_covariances: (N, 2, 2) float32 of
    the velocities, m^2/s^2; None if unknown, NaN for boxes whose covariance is unknown. evidence:
    opinions of the sensors about each box, or None.
    """

    stamp_ns: int
    frame_id: str
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...] = CLASS_NAMES
    velocities: NDArray[np.float32] | None = None
    track_ids: NDArray[np.int64] | None = None
    num_points: NDArray[np.int64] | None = None
    visibility: NDArray[np.float32] | None = None
    covariances: NDArray[np.float32] | None = None
    velocity_covariances: NDArray[np.float32] | None = None
    evidence: BoxEvidence | None = None

    def __post_init__(self) -> None:
        n = len(self.boxes)
        require(self.boxes.shape == (n, 7), "boxes must be (N, 7)")
        require(
            self.scores.shape == (n,) and self.labels.shape == (n,),
            "scores and labels must be (N,)",
        )
        for name in (*OPTIONAL_BOX_FIELDS, "evidence"):
            values = getattr(self, name)
            require(values is None or len(values) == n, f"{name} must have one row per box")

    def __len__(self) -> int:
        return len(self.boxes)

    @classmethod
    def empty(cls, stamp_ns: int, frame_id: str) -> Boxes3D:
        """Return an instance without boxes."""
        none = np.zeros(0)
        return cls(
            stamp_ns,
            frame_id,
            np.zeros((0, 7), np.float32),
            none.astype(np.float32),
            none.astype(np.int64),
        )

    def select(self, index: Any) -> Boxes3D:
        """Return the boxes selected by a boolean mask (N,) or by indices, in that order."""
        optional = {name: getattr(self, name) for name in OPTIONAL_BOX_FIELDS}
        return Boxes3D(
            self.stamp_ns,
            self.frame_id,
            self.boxes[index],
            self.scores[index],
            self.labels[index],
            self.class_names,
            **{n: None if values is None else values[index] for n, values in optional.items()},
            evidence=None if self.evidence is None else self.evidence.select(index),
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Boxes3D]) -> Boxes3D:
        """Return the boxes of all parts, in their order, with the stamp and frame of the first.

        The parts must have the same class names. Optional values that only some parts have are unknown
        for the others: NaN for velocities, their covariances and visibility, -1 for track ids and
        numbers of points, zeros for covariances. Evidence that only some parts have is that of no sensor
        for the others.
        """
        first = parts[0]
        require(all(p.class_names == first.class_names for p in parts), "class names must be equal")
        optional: dict[str, Any] = {}
        for name, unknown in OPTIONAL_BOX_FIELDS.items():
            given = [getattr(p, name) for p in parts]
            known = next((values for values in given if values is not None), None)
            if known is None:
                continue
            optional[name] = np.concatenate(
                [
                    np.full((len(p), *known.shape[1:]), unknown, known.dtype) if v is None else v
                    for p, v in zip(parts, given, strict=True)
                ]
            )
        if any(p.evidence is not None for p in parts):
            optional["evidence"] = BoxEvidence.concatenate(
                [BoxEvidence.unknown(len(p)) if p.evidence is None else p.evidence for p in parts]
            )
        return cls(
            first.stamp_ns,
            first.frame_id,
            np.concatenate([p.boxes for p in parts]),
            np.concatenate([p.scores for p in parts]),
            np.concatenate([p.labels for p in parts]),
            first.class_names,
            **optional,
        )

    def transformed(self, target_from_source: NDArray[np.float64], frame_id: str) -> Boxes3D:
        """Return the boxes in another coordinate frame.

        target_from_source: pose (4, 4). Only its yaw is applied to the yaw of the boxes.
        """
        boxes = self.boxes.copy()
        boxes[:, :3] = poses.transform_points(target_from_source, self.boxes[:, :3])
        rotation = poses.to_yaw(target_from_source)
        boxes[:, 6] = poses.wrap_angle(self.boxes[:, 6] + rotation)
        velocities = self.velocities
        if velocities is not None:
            c, s = np.cos(rotation), np.sin(rotation)
            velocities = velocities @ np.array([[c, s], [-s, c]], velocities.dtype)
        velocity_covariances = self.velocity_covariances
        if velocity_covariances is not None:
            c, s = np.cos(rotation), np.sin(rotation)
            turn = np.array([[c, -s], [s, c]])
            velocity_covariances = (turn @ velocity_covariances @ turn.T).astype(np.float32)
        covariances = self.covariances
        if covariances is not None:
            # (6, 6): rotates the position block and the rotation block.
            blocks = np.kron(np.eye(2), target_from_source[:3, :3])
            covariances = (blocks @ covariances @ blocks.T).astype(np.float32)
        return Boxes3D(
            self.stamp_ns,
            frame_id,
            boxes,
            self.scores,
            self.labels,
            self.class_names,
            velocities,
            self.track_ids,
            self.num_points,
            self.visibility,
            covariances,
            velocity_covariances,
            self.evidence,
        )


class VehicleFootprint(NamedTuple):
    """Footprint of the ego vehicle: a rectangle in base_link, metres.

    rear and front are x coordinates, right and left are y coordinates.
    """

    rear: float
    front: float
    right: float
    left: float

    def contains(self, xy: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Return a mask (N,) of the points inside the footprint; their height is ignored.

        xy: (N, 2 or more), x and y in base_link in the first two columns, metres.
        """
        x, y = xy[:, 0], xy[:, 1]
        return (x > self.rear) & (x < self.front) & (y > self.right) & (y < self.left)


@dataclass(frozen=True)
class SensorFrame:
    """The readings of all sensors of a vehicle at one moment, with the calibration that applies.

    A sensor without a reading is absent from the mappings but listed in `expected`.

    stamp_ns: reference time of the frame.
    base_from_sensor: pose (4, 4) by sensor; for cameras and thermal cameras, of the optical frame.
    intrinsics: camera model by camera or thermal camera.
    camera_from_optical: pose (4, 4) by camera with rectified images, from the optical frame of the
    messages to the frame of `base_from_sensor` and `intrinsics`; absent if both frames are the same.
    reference_from_base: pose (4, 4) by sensor, from base_link at the reading's stamp to base_link at
    the frame's stamp. If it is absent, the motion is unknown and taken as zero.
    odom_from_base: pose (4, 4) at the frame's stamp, or None without odometry.
    expected: names of all sensors of the vehicle.
    labels: ground truth boxes in base_frame, or None.
    vehicle_footprint: area covered by the ego vehicle; LiDAR returns inside it are reflections from
    the vehicle itself. None if unknown.
    odom_frame: name of the frame of `odom_from_base`.
    ground_z: height of the ground plane in base_frame, metres.
    dropped: names of the missing sensors whose readings arrived but could not be used, for example
    without a transform. An empty result of such a frame does not mean that there are no objects.
    """

    stamp_ns: int
    base_frame: str = "base_link"
    lidars: Mapping[str, LidarSweep] = field(default_factory=dict)
    cameras: Mapping[str, CameraImage] = field(default_factory=dict)
    thermals: Mapping[str, ThermalImage] = field(default_factory=dict)
    ultrasonics: Mapping[str, UltrasonicReading] = field(default_factory=dict)
    base_from_sensor: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    intrinsics: Mapping[str, CameraModel] = field(default_factory=dict)
    reference_from_base: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    odom_from_base: NDArray[np.float64] | None = None
    expected: frozenset[str] = frozenset()
    labels: Boxes3D | None = None
    vehicle_footprint: VehicleFootprint | None = None
    odom_frame: str = "odom"
    ground_z: float = 0.0
    camera_from_optical: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    dropped: frozenset[str] = frozenset()

    @property
    def readings(self) -> dict[str, Reading]:
        """All readings by sensor name."""
        return {**self.lidars, **self.cameras, **self.thermals, **self.ultrasonics}

    @property
    def present(self) -> frozenset[str]:
        """Names of the sensors with a reading."""
        return frozenset(self.readings)

    @property
    def missing(self) -> frozenset[str]:
        """Names of the expected sensors without a reading."""
        return self.expected - self.present

    def select_modalities(self, modalities: Collection[Modality]) -> SensorFrame:
        """Return the frame with the readings of these modalities only; all others become missing."""
        return replace(
            self,
            lidars=self.lidars if Modality.LIDAR in modalities else {},
            cameras=self.cameras if Modality.CAMERA in modalities else {},
            thermals=self.thermals if Modality.THERMAL in modalities else {},
            ultrasonics=self.ultrasonics if Modality.ULTRASONIC in modalities else {},
        )

    def without_sensors(self, names: Collection[str]) -> SensorFrame:
        """Return the frame without the readings of some sensors; they become missing."""

        def select(readings: Mapping[str, Any]) -> dict[str, Any]:
            return {name: reading for name, reading in readings.items() if name not in names}

        return replace(
            self,
            lidars=select(self.lidars),
            cameras=select(self.cameras),
            thermals=select(self.thermals),
            ultrasonics=select(self.ultrasonics),
        )

    def base_from_optical(self, sensor: str) -> NDArray[np.float64]:
        """Return the pose (4, 4) of a reading's frame_id, also for rectified images.

        Raises KeyError if the sensor has no extrinsics.
        """
        pose = self.base_from_sensor[sensor]
        rectification = self.camera_from_optical.get(sensor)
        return pose if rectification is None else pose @ rectification

    def reference_from_sensor(self, sensor: str) -> NDArray[np.float64]:
        """Return the pose (4, 4) from a sensor at its reading's stamp to base_link at the frame's stamp.

        Raises KeyError if the sensor has no extrinsics.
        """
        pose = self.base_from_sensor[sensor]
        motion = self.reference_from_base.get(sensor)
        return pose if motion is None else motion @ pose

    def points_in_base(self) -> NDArray[np.float32]:
        """Return all LiDAR points (N, 4) float32, x y z intensity, in base_link at the frame's stamp."""
        clouds = []
        for name, sweep in self.lidars.items():
            cloud = np.empty_like(sweep.points)
            cloud[:, :3] = poses.transform_points(
                self.reference_from_sensor(name), sweep.points[:, :3]
            )
            cloud[:, 3] = sweep.points[:, 3]
            clouds.append(cloud)
        return np.concatenate(clouds) if clouds else np.zeros((0, 4), np.float32)


def require(condition: bool, message: str) -> None:
    """Raise ValueError with the message unless the condition holds."""
    if not condition:
        raise ValueError(message)
